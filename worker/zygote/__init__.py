"""Implements the zygote process: imports an agent once and forks its workers."""
