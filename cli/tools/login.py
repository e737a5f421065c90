"""Implements `corral mcp login`, `logout` and `logins`: logins to remote MCP servers by a browser, a pasted address or a device code."""

import socket
import sys
import time
import webbrowser
from collections.abc import Mapping

import click

from corral.worker.contract.errors import InvalidParams, Timeout

from ..context import Session, complete_names, duration, option
from ..render import Table, items, word

LOGIN_S = 600.0
"""Seconds to wait for the browser; the daemon gives no more either."""

REQUEST_S = 5.0
"""Seconds for the request of a browser, once it has connected."""

MAX_REQUEST_BYTES = 64 * 1024

MAX_REQUESTS = 100
"""Number of other requests, such as those for an icon, that are answered before the right one."""

PAGE = (
    b"<!doctype html><meta charset=utf-8><title>corral</title><p>You may close this page and go back to the terminal."
)

complete_servers = complete_names("mcp.servers", "servers")


@click.command("login")
@click.argument("name", metavar="NAME", shell_complete=complete_servers)
@option("--paste", "Print the address, and read the one to which the browser was sent back from stdin.")
@option("--device", "Print a code to type at another device.")
@option("--no-browser", "Print the address without opening a browser.")
@option("--scope SCOPE", "Ask for this scope, too; repeatable.", "scopes", multiple=True)
@option(
    "--port PORT",
    "Port of this machine to which the browser is sent back; default is a free one.",
    type=click.IntRange(1, 65_535),
)
@option("--timeout D", "Give up after this long.", "timeout_s", type=duration)
@click.pass_obj
def login(
    session: Session,
    name: str,
    paste: bool,
    device: bool,
    no_browser: bool,
    scopes: tuple[str, ...],
    port: int | None,
    timeout_s: float | None,
) -> None:
    """Log in to a remote MCP server (OAuth). The daemon keeps the token and renews it."""
    if paste and device:
        raise InvalidParams("cannot log in: --paste and --device exclude each other", key="--paste")
    ends_at = time.monotonic() + (LOGIN_S if timeout_s is None else timeout_s)
    request: dict[str, object] = {"name": name, "device": device, "scopes": list(scopes)}
    if device:
        started = session.call("mcp.login", request, timeout_s=None)
        session.note(f"open {word(started, 'url')} and type {word(started, 'user_code')}")
        found = _polled(session, started, ends_at)
    else:
        with _listener("127.0.0.1", port or 0) as listening:
            request["port"] = listening.getsockname()[1]
            started = session.call("mcp.login", request, timeout_s=None)
            session.note(f"open {word(started, 'url')}")
            if paste:
                session.note("then paste the address to which the browser was sent back:")
                redirect = sys.stdin.readline().strip()
            else:
                if not no_browser:
                    webbrowser.open(word(started, "url"))
                redirect = _redirect(started, listening, ends_at)
        finish = {"name": name, "login": started["login"], "redirect": redirect}
        found = session.call("mcp.finish_login", finish, timeout_s=None)
    scope = " ".join(map(str, items(found, "scopes")))
    for_what = f" for {scope}" if scope else ""
    session.answer(found, f"logged in to {name} at {word(found, 'issuer')}{for_what}")


@click.command("logout")
@click.argument("name", metavar="NAME", shell_complete=complete_servers)
@option("--no-revoke", "Do not tell the authorization server.")
@click.pass_obj
def logout(session: Session, name: str, no_revoke: bool) -> None:
    """Forget the token of a remote MCP server, and revoke it."""
    found = session.call("mcp.logout", {"name": name, "revoke": not no_revoke}, timeout_s=None)
    if session.json:
        session.print_json(found)
    elif found.get("forgotten"):
        session.print_line(f"logged out of {name}")
    else:
        session.note(f"there was no login to {name}")


@click.command("logins")
@click.pass_obj
def logins(session: Session) -> None:
    """List remote MCP servers with their logins. No token is shown."""
    table = Table(
        "NAME LOGIN=state ISSUER UNTIL SCOPES",
        drop="UNTIL",
        until=lambda each: word(each, "expires_at"),
        scopes=lambda each: word(each, "reason") or " ".join(map(str, items(each, "scopes"))),
    )
    session.print_list(session.call("mcp.logins", {}), "logins", "there are no remote MCP servers", table)


def _polled(session: Session, started: Mapping[str, object], ends_at: float) -> dict[str, object]:
    while time.monotonic() < ends_at:
        found = session.call("mcp.finish_login", {"name": started["name"], "login": started["login"]}, timeout_s=None)
        if found.get("state") != "pending":
            return found
    raise _late()


def _late() -> Timeout:
    return Timeout("cannot finish the login: nobody has finished it in time")


# -- the browser comes back


def _listener(host: str, port: int) -> socket.socket:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=kind, backlog=8)
    except OSError as error:
        words = f"cannot listen at {host}:{port}: {(error.strerror or str(error)).lower()}; --port or --paste"
        raise InvalidParams(words, key="--port", value=port) from error


def _redirect(started: Mapping[str, object], listening: socket.socket, ends_at: float) -> str:
    """Returns the address to which the browser was sent back, once it has come."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - only a login needs it

    address = word(started, "redirect_uri")
    parts = urlsplit(address)
    if parts.port == listening.getsockname()[1]:
        return _request(listening, address, parts.path, ends_at)
    host = "127.0.0.1" if parts.hostname in (None, "localhost") else parts.hostname
    with _listener(host, parts.port or 80) as configured:
        return _request(configured, address, parts.path, ends_at)


def _request(listening: socket.socket, address: str, path: str, ends_at: float) -> str:
    for _ in range(MAX_REQUESTS):
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            break
        listening.settimeout(left_s)
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            break
        with connection:
            target = _target(connection)
            is_right = target.partition("?")[0] == path and "state=" in target
            _answer(connection, is_right=is_right)
            if is_right:
                return f"{address}?{target.partition('?')[2]}"
    raise _late()


def _target(connection: socket.socket) -> str:
    connection.settimeout(REQUEST_S)
    data = b""
    ends_at = time.monotonic() + REQUEST_S
    try:
        while b"\r\n\r\n" not in data and len(data) < MAX_REQUEST_BYTES:
            chunk = connection.recv(8192)
            data += chunk
            if not chunk or time.monotonic() > ends_at:
                break
    except OSError:
        return ""
    words = data.split(b"\r\n", 1)[0].decode("ascii", "replace").split(" ")
    return words[1] if len(words) == 3 and words[0] == "GET" else ""


def _answer(connection: socket.socket, *, is_right: bool) -> None:
    body = PAGE if is_right else b""
    status = b"200 OK" if is_right else b"404 Not Found"
    head = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n" % (status, len(body))
    head += b"Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n"
    try:
        connection.sendall(head + body)
    except OSError:
        return  # the code is here all the same
