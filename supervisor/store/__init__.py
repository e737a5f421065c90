"""Owns the SQLite database: schema, group commit, batches, identifiers."""
