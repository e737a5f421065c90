"""Implements the launcher, the small process that spawns, signals and reaps every worker."""
