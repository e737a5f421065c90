"""Defines what a configuration means, as pure values: parsing, checking, comparing."""
