"""Decides, as pure functions, when a worker starts, stops, restarts or is given up."""
