"""Provides clients of the control socket, synchronous and asynchronous, and the embedded daemon."""
