"""Runs an object of a framework, or a plain function, as an agent: `wrap` makes a `corral.worker.Agent` of it.

An `entrypoint` that names such an object needs no call of it. Importing this module imports no framework.
"""

from .worker.adapters.recognition import wrap

__all__ = ["wrap"]
