"""Publishes, stores and replays the stream of events."""
