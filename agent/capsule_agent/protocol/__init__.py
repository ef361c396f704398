"""The wire contract between a reconciler and an agent: messages, strict JSON, keys and signatures.

Rules kept here: no I/O, no clock, no randomness; every byte that arrives is hostile until it verified.
Called by the agent, and by Capsule's documents, trust and transports, so that both ends read one text.
"""
