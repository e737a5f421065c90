"""Records who did what, in a chain of hashes."""
