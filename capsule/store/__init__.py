"""Where the state repository is kept: git through dulwich, or memory. The protocol is in store.api."""
