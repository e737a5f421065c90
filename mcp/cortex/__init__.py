"""Implements cortex, the memory server that is there without configuration."""
