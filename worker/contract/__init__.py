"""Defines what daemon, workers and clients share: errors, shapes, wire format."""
