"""The agent of Capsule: embed it in an integration service, and approved orders can reach it."""

__version__ = "0.1.0"
