"""Keeps tables that are set for names of the configuration file: each is in force until the file's own table changes.

Guarantees that an override is what its revision in the store says, so that a change that failed, or a daemon that was
killed, leaves none. Must not change an agent, and knows no worker.

Begin with `overrides`: it lays tables of the store over the configuration of the file.
"""
