"""Holds the configuration in force: one object, which all that follow a reload share."""

import contextlib
from collections.abc import Callable
from functools import partial

from .spec import Config

Listener = Callable[[Config], None]


class InForce:
    """Holds the configuration in force, and calls its listeners with each one that a reload puts in its place."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._listeners: list[Listener] = []

    @property
    def config(self) -> Config:
        """Returns the configuration in force."""
        return self._config

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Subscribes to each reloaded configuration, once it is in force; returns the function that unsubscribes."""
        self._listeners.append(listener)
        return partial(self._unsubscribe, listener)

    def _unsubscribe(self, listener: Listener) -> None:
        with contextlib.suppress(ValueError):  # again is harmless
            self._listeners.remove(listener)

    def begin_with(self, config: Config) -> None:
        """Puts a configuration in force before anything has followed one: that of the file with what the store overrides."""
        self._config = config

    def adopt(self, config: Config) -> None:
        """Puts a reloaded configuration in force, and tells the listeners."""
        self._config = config
        for listener in list(self._listeners):
            listener(config)
