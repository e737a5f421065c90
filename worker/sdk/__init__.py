"""Provides what an agent author uses, and runs an agent in a worker process."""
