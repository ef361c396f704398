"""Moves files from a folder to AWS S3: a plain worker with Capsule's agent on a port of its own."""
