"""Defines the method table, and what workers may ask of the daemon."""
