"""Queues, dispatches, retries and accounts for tasks."""
