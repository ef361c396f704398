"""How calls reach agents: HTTP, SSH, memory. The protocol is in transport.api."""
