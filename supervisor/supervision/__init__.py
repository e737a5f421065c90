"""Supervises one worker: performs the decisions of the lifecycle."""
