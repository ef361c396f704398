"""In-memory twins of what does I/O, for tests of reconcilers and adapters; they pass the same contracts."""
