"""Capsule: git-backed declarative operations for integration services."""

__version__ = "0.1.0"
