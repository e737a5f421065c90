"""Runs schedules and workflows on top of tasks."""
