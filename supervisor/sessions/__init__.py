"""Stores what agents remember: conversations by session, and keys with values."""
