"""Telling people, by apprise: which events go to whom, told once, retried, never in the way of a pass."""
