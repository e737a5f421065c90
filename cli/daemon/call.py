"""Implements `corral call`, which calls any method of the daemon and knows none of them."""

from collections.abc import Mapping

import click

from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.jsonrpc import Notification

from ..context import ANSWER_S, Session, command, duration, json_value, option

FOLLOW = ".follow"
"""End of the names of methods that send notifications."""

ENDLESS = ("event.follow", "log.follow")
"""Methods whose notifications come after the answer."""

LAST = "log.end"
"""The notification after which no other comes."""


@command("call")
@click.argument("method", metavar="METHOD")
@click.argument("given", nargs=-1, metavar="[KEY=VALUE]...")
@option("--params JSON|@FILE|-", "The params as a JSON object.")
@option("--timeout D", "Give up waiting.", "timeout_s", type=duration)
def call(session: Session, method: str, given: tuple[str, ...], params: str | None, timeout_s: float | None) -> None:
    """Call any method of the daemon, as JSON.

    METHOD is one of those in "corral call rpc.discover", such as daemon.status. VALUE is JSON, or a text where it is
    none; KEY=VALUE takes precedence over --params. The notifications of a follow method are printed as they come, one
    JSON object a line, until Ctrl-C.
    """
    asked = _params(given, params)
    if method.endswith(FOLLOW):
        _follow(session, method, asked, timeout_s)
        return
    with session.connect() as connection:
        result = connection.call(method, asked, timeout_s=timeout_s, on_notification=_ignore)
    session.print_json(result)


def _params(given: tuple[str, ...], text: str | None) -> dict[str, object]:
    """Returns the params."""
    params: dict[str, object] = {}
    if text is not None:
        found = json_value(text, "--params")
        if not isinstance(found, dict):
            raise InvalidParams("cannot read --params: it is no JSON object", key="--params", value=text)
        params |= found
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InvalidParams(f"cannot read {each!r}: write KEY=VALUE", key="params", value=each)
        try:
            params[key] = json_value(value, key, or_text=True)
        except InvalidParams:
            if value.startswith("@") or value == "-":  # a file that cannot be read is no text
                raise
            params[key] = value
    return params


def _follow(session: Session, method: str, params: Mapping[str, object], timeout_s: float | None) -> None:
    """Prints notifications and the result in the order in which they come."""

    def show(notification: Notification) -> None:
        session.print_ndjson([{"method": notification.method, "params": notification.params}])

    is_endless = method in ENDLESS
    try:
        with session.connect() as connection:
            limit_s = ANSWER_S if is_endless and timeout_s is None else timeout_s
            result = connection.call(method, params, timeout_s=limit_s, on_notification=None if is_endless else show)
            session.print_ndjson([{"result": result}])
            for notification in connection.notifications() if is_endless else ():
                show(notification)
                if notification.method == LAST:
                    return
    except KeyboardInterrupt:
        return


def _ignore(_notification: Notification) -> None:
    """Drops progress: the result is what is printed."""
