"""Reports readiness, the stop and the watchdog to the service manager that has started the daemon."""

import logging
import socket
from collections.abc import Mapping
from typing import Self

NOTIFY_S = 0.5
"""Seconds that a service manager that does not read may hold the daemon up."""

logger = logging.getLogger(__name__)


class ServiceManager:
    """Notifies the service manager, if one has started the daemon; see sd_notify(3) and sd_watchdog_enabled(3)."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        meant_for = environ.get("WATCHDOG_PID", str(pid))
        self.is_watching = "WATCHDOG_USEC" in environ and meant_for == str(pid)
        # Opened once: a beat must not depend on a free descriptor.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(NOTIFY_S)

    def notify(self, state: str) -> None:
        """Sends it our state."""
        if self._address:
            try:
                self._socket.sendto(state.encode(), self._address)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                # A process that waited for the start alone has ended; a service manager is always there.
                logger.debug("nothing more is told to the service manager: %s", error)
                self._address = "" if not self.is_watching else self._address
            except OSError as error:
                logger.warning("cannot notify the service manager: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
