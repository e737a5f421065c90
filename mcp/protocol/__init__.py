"""Defines the messages of the Model Context Protocol."""
