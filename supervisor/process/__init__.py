"""Starts, signals and measures processes through the launcher."""
