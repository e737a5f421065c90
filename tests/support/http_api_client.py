"""A daemon that serves HTTP, and requests to it, for the tests of the HTTP API."""

import http.client
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from daemon_process import AGENTS, BOUND_S, DaemonProcess

CONFIG = f"""
[daemon]
http = "127.0.0.1:{{port}}"

[agents.echo]
command = ["python", "{AGENTS / "http_agent.py"}"]
"""


class Answered(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:  # the result, whose shape the test knows
        """Its body."""
        return json.loads(self.text)


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    id: str | None
    data: Any  # as the test knows it


class Api:
    """Requests to a daemon over HTTP with its token."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.address = str(daemon.call("daemon.status")["daemon"]["http"])
        self.token = (daemon.state_dir / "http.token").read_text().strip()

    def connection(self) -> http.client.HTTPConnection:
        """A new connection."""
        host, _, port = self.address.rpartition(":")
        return http.client.HTTPConnection(host, int(port), timeout=BOUND_S)

    def ask(
        self,
        verb: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        raw: bytes | None = None,
        below: str = "/api/v1",
        **headers: str,
    ) -> Answered:
        """The answer to one request; `raw` is the body as it is."""
        sent = {"Authorization": f"Bearer {self.token}"}
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        where = f"{below}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        with closing(self.connection()) as connection:
            connection.request(verb, where, data, sent)
            response = connection.getresponse()
            text = response.read().decode()
            return Answered(response.status, dict(response.getheaders()), text)

    @contextmanager
    def stream(self, verb: str, path: str, body: object = None, **headers: str) -> Generator[Iterator[Event]]:
        """The events of one request."""
        sent = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        with closing(self.connection()) as connection:
            connection.request(verb, f"/api/v1{path}", data, sent)
            response = connection.getresponse()
            assert response.status == 200, (response.status, response.read())
            yield events_of(response)


def events_of(response: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a stream, as a browser reads them; an id without data gives one without a name."""
    name, data = "message", ""
    number: str | None = None
    for line in iter(response.readline, b""):
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            data += value
        elif key == "id":
            number = value
        elif not key and (data or number is not None):
            yield Event(name if data else "", number, json.loads(data) if data else None)
            name, data, number = "message", "", None


def segment(text: str) -> str:
    """A text as a segment of a path."""
    return quote(text, safe="")


@contextmanager
def serving(folder: Path, config: str = CONFIG, port: int = 0) -> Generator[Api]:
    """A daemon that serves HTTP."""
    with DaemonProcess(folder, config.replace("{port}", str(port))) as daemon:
        yield Api(daemon)
