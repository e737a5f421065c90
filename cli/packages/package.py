"""Implements `corral package`, `deploy` and `deployments`: makes and signs packages, adds them, and puts them to work."""

import base64
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from corral.worker.contract import errors
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, Unreachable
from corral.worker.contract.jsonrpc import Notification

from .. import render
from ..context import (
    CommandGroup,
    Session,
    admit_msgspec,
    calling,
    command,
    complete_named,
    complete_names,
    duration,
    json_value,
    listing,
    option,
    pair,
)
from ..render import Record, Table, as_record, inner, inners, number, word

CHUNK_BYTES = 1024 * 1024
"""Bytes of a package in one call."""

PACKAGES = Table(
    "NAME VERSION FILES SIZE=size_bytes SIGNED_BY=signer ADDED=added_at USED_BY",
    drop="ADDED",
    signer=lambda record: word(record, "signer", "nobody"),
)

DOWNLOAD_MAX_BYTES = 1024 * 1024 * 1024
DOWNLOAD_S = 60.0
"""Seconds that a server may be silent."""

package = CommandGroup("package", help="Build, sign, add, verify and remove packages.")
complete_packages = complete_names("package.list", "packages")
of_package = click.argument("name", metavar="NAME[@VERSION]", shell_complete=complete_packages)


@package.define("new")
@click.argument("name", metavar="NAME")
@click.argument("folder", metavar="[FOLDER]", required=False)
def new(session: Session, name: str, folder: str | None) -> None:
    """Create a folder with a package that works."""
    admit_msgspec()
    from corral.supervisor.agents.packages.builder import scaffold  # noqa: PLC0415  # msgspec is admitted first

    path = Path(folder or name)
    files = list(scaffold(path, name))
    session.answer({"folder": str(path), "files": files}, f"made {path}: {', '.join(files)}")
    session.note(f"corral package build {path}")


@package.define("build")
@click.argument("folder", metavar="FOLDER")
@option("-o, --output FILE", "Write it there, not to NAME-VERSION.corral.")
@option("--sign KEY", "Sign it with this secret key.", "key")
@option("--with-secrets", "Include files that look like secrets, such as .env.")
def build(session: Session, folder: str, output: str | None, key: str | None, with_secrets: bool) -> None:
    """Build a package from a folder. The same files make the same bytes; no daemon is needed."""
    admit_msgspec()
    from corral.supervisor.agents.packages.builder import build as built  # noqa: PLC0415  # likewise
    from corral.supervisor.agents.packages.builder import describe  # noqa: PLC0415  # likewise
    from corral.supervisor.agents.packages.package import read_secret  # noqa: PLC0415  # likewise

    secret = None if key is None else read_secret(Path(key))
    try:
        found = built(Path(folder), None if output is None else Path(output), secret=secret, with_secrets=with_secrets)
    except OSError as error:
        where = error.filename or output or folder
        words = f'cannot build a package: "{where}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, path=str(where)) from error
    facts = describe(found)
    signed = f", signed by {found.signer}" if found.signer else ""
    size = render.size(found.size)
    files = len(found.manifest.files)
    session.answer(facts, f"built {found.path}: {files} files, {size}{signed}", f"digest {found.digest}")


@package.define("keygen")
@click.argument("path", metavar="FILE")
def keygen(session: Session, path: str) -> None:
    """Create a key to sign packages. FILE is the secret key; the public key is printed."""
    admit_msgspec()
    from corral.supervisor.agents.packages.package import generate  # noqa: PLC0415  # likewise

    try:
        public = generate(Path(path))
    except OSError as error:
        raise InvalidParams(f'cannot write a key to "{path}": {(error.strerror or "").lower()}', path=path) from error
    session.answer({"path": path, "public_key": public}, public)
    session.note('[packages] trusted_keys = ["..."] takes it, with require_signature = true')


@package.define("sign")
@click.argument("path", metavar="FILE")
@click.argument("key", metavar="KEY")
@option("-o, --output FILE", "Write the signed package there instead.")
def sign(session: Session, path: str, key: str, output: str | None) -> None:
    """Sign a package that is built, in place of a signature that it has.

    FILE is the package, KEY the secret key. Every byte of the package is verified before; its digest stays the same.
    """
    admit_msgspec()
    from corral.supervisor.agents.packages.builder import describe, resigned  # noqa: PLC0415  # likewise
    from corral.supervisor.agents.packages.package import read_secret  # noqa: PLC0415  # likewise

    secret = read_secret(Path(key))
    try:
        found = resigned(Path(path), secret, None if output is None else Path(output))
    except FileNotFoundError as error:
        where = str(error.filename or path)
        raise NotFound(f'cannot sign "{where}": there is no such file', path=where) from error
    except OSError as error:
        words = f'cannot sign "{error.filename or path}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, path=str(error.filename or path)) from error
    session.answer(describe(found), f"signed {found.path}, by {found.signer}", f"digest {found.digest}")


@package.define("add")
@click.argument("source", metavar="FILE|URL")
@option("--sha256 HEX", "Refuse the file unless this is its SHA-256.")
def add(session: Session, source: str, sha256: str | None) -> None:
    """Add a package to the daemon. This command reads the file or address, not the daemon."""
    offset = 0
    upload: object = None
    whole = hashlib.sha256()
    for data in _chunks(source):
        whole.update(data)
        params = {"data": base64.b64encode(data).decode(), "offset": offset, **({"upload": upload} if upload else {})}
        upload = session.call("package.upload", params, timeout_s=None)["upload"]
        offset += len(data)
    if upload is None:
        raise InvalidParams(f'cannot add "{source}": it is empty', path=source)
    params = {"upload": upload, "sha256": (sha256 or whole.hexdigest()).lower()}
    found = session.call("package.add", params, timeout_s=None)
    session.answer(found, f"added {word(found, 'name')}@{word(found, 'version')}: {word(found, 'digest')}")


def _chunks(source: str) -> Iterator[bytes]:
    """Yields the bytes of a file or an address, in chunks that are full but for the last."""
    if "://" in source:
        yield from _download(source)
        return
    try:
        with open(source, "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield data
    except FileNotFoundError as error:
        raise NotFound(f'cannot add "{source}": there is no such file', path=source) from error
    except OSError as error:
        raise InvalidParams(f'cannot add "{source}": {(error.strerror or "").lower()}', path=source) from error


def _download(url: str) -> Iterator[bytes]:
    import urllib.error  # noqa: PLC0415  # start-up time: only for an address
    import urllib.request  # noqa: PLC0415  # likewise

    if not url.startswith(("https://", "http://")):
        raise InvalidParams(f'cannot add "{url}": write https://...', url=url)
    done = 0
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_S) as answer:
            while data := _full(answer):
                done += len(data)
                if done > DOWNLOAD_MAX_BYTES:
                    raise InvalidParams(f'cannot add "{url}": it is larger than {DOWNLOAD_MAX_BYTES} bytes', url=url)
                yield data
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f'cannot read "{url}": {reason}', url=url) from error


def _full(answer: IO[bytes]) -> bytes:
    data = b""
    while len(data) < CHUNK_BYTES and (more := answer.read(CHUNK_BYTES - len(data))):
        data += more
    return data


NO_PACKAGES = 'there are no packages; "corral package add" adds one'
one_name = click.argument("name", metavar="[NAME]", required=False)
package.add_command(
    listing(
        "list", "package.list", "packages", NO_PACKAGES, PACKAGES, one_name, text="List the packages of the daemon."
    )
)


@package.define("show")
@of_package
def show(session: Session, name: str) -> None:
    """Show a package: its agent, its needs and its dependencies."""
    session.print_json(session.call("package.show", {"package": name}))


@package.define("verify")
@of_package
def verify(session: Session, name: str) -> None:
    """Verify each byte of a package, and its signature. NAME may also be a .corral file, which needs no daemon."""
    if name.endswith(".corral") or os.sep in name:
        found = _verified(name)
    else:
        found = session.call("package.verify", {"package": name}, timeout_s=None)
    signer = word(found, "signer", "")
    words = f"{word(found, 'name')}@{word(found, 'version')} is whole"
    session.answer(found, f"{words}, signed by {signer}" if signer else f"{words}, not signed")


def _verified(path: str) -> dict[str, object]:
    admit_msgspec()
    from corral.supervisor.agents.packages.archive import opened  # noqa: PLC0415  # likewise
    from corral.supervisor.agents.packages.package import read_package  # noqa: PLC0415  # likewise

    try:
        with opened(Path(path)) as file:
            found = read_package(file)
    except FileNotFoundError as error:
        raise NotFound(f'cannot verify "{path}": there is no such file', path=path) from error
    except OSError as error:
        raise InvalidParams(f'cannot verify "{path}": {(error.strerror or "").lower()}', path=path) from error
    facts: dict[str, Any] = {"name": found.spec.name, "version": found.spec.version}  # Any: plain values
    return {**facts, "digest": found.digest, "signer": found.signer or None}


of_removed = click.argument("package", metavar="NAME[@VERSION]", shell_complete=complete_packages)
RM = "Remove a package that no agent uses or can roll back to."
package.add_command(calling("rm", "package.rm", "removed {0[name]}@{0[version]}", of_removed, text=RM))


@command("deploy")
@click.argument("target", metavar="PACKAGE[@VERSION]")
@option("--as NAME", "The agent; by default the package's name.", "agent")
@option("--canary PERCENT", "Give this part of the workers the version first, and wait for --promote or --abort.")
@option(
    "--promote-after D",
    "Promote the canary by itself if nothing fails for this long.",
    "promote_after_s",
    type=duration,
)
@option(
    "--set KEY=VALUE",
    "A key of the agent that overrides the package's; kept for later versions. null removes it.",
    "settings",
    multiple=True,
)
@option("--timeout D", "Give up after this long.", "timeout_s", type=duration)
@option("--why TEXT", "The reason, for the history.", default="")
@option("--promote", "Give all workers of the agent the canary's version.")
@option("--abort", "Take the canary, or what is under way, back.")
def deploy(
    session: Session,
    target: str,
    agent: str | None,
    canary: str | None,
    promote_after_s: float | None,
    settings: tuple[str, ...],
    timeout_s: float | None,
    why: str,
    promote: bool,
    abort: bool,
) -> int:
    """Deploy a package as an agent.

    The version is installed beside the one that serves, and replaces it when its workers are up, healthy and past
    the smoke task; otherwise it is taken back. With --promote or --abort the argument is the NAME of the agent.
    """
    if promote or abort:
        if (promote and abort) or any((agent, canary, promote_after_s, timeout_s, why, settings)):
            reason = "--promote and --abort stand alone, with the name of the agent"
            raise InvalidParams(f'cannot deploy "{target}": {reason}', key="promote", reason=reason)
        method = "deployment.promote" if promote else "deployment.abort"
        record = as_record(session.call(method, {"name": target}, timeout_s=None))
        return _print(session, record, is_wanted=not abort or word(record, "state") == "failed")
    params: dict[str, object] = {
        "package": target,
        "agent": agent,
        "settings": nested(settings),
        "canary_percent": None if canary is None else percent(canary),
        "promote_after_s": promote_after_s,
        "timeout_s": timeout_s,
        "why": why,
    }
    with session.connect() as connection:
        found = connection.call(
            "deployment.create", params, timeout_s=None, on_notification=lambda each: _show_step(session, each)
        )
    return _print(session, as_record(found))


def percent(text: str) -> int:
    """Reads a share of workers, as 10% or 10."""
    digits = text.removesuffix("%")
    if digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 99:
        return int(digits)
    reason = "write a part of the workers from 1% to 99%"
    raise InvalidParams(f'cannot read --canary "{text}": {reason}', key="canary", value=text)


def nested(settings: Iterable[str]) -> dict[str, object]:
    """Returns the table of settings such as `resources.max_memory_bytes=1GiB`; a value is JSON, or else a text."""
    table: dict[str, object] = {}
    for setting in settings:
        path, text = pair("the package", "--set", setting)
        table = _with(table, path.split("."), json_value(text, "--set", or_text=True))
    return table


def _with(table: Record, keys: Sequence[str], value: object) -> dict[str, object]:
    below = value if len(keys) == 1 else _with(inner(table, keys[0]), keys[1:], value)
    return {**table, keys[0]: below}


def _show_step(session: Session, notification: Notification) -> None:
    if notification.method != "deployment.event":
        return
    event = inner(notification.params, "event")
    if session.json:
        session.print_ndjson([event])
        return
    parts = (session.at(word(event, "at"), in_note=True), word(event, "agent"), word(event, "version"))
    words = (word(event, "state"), word(event, "step"))
    print(render.one_line("  ".join(part for part in (*parts, *words) if part)), file=sys.stderr, flush=True)


def _print(session: Session, record: Record, *, is_wanted: bool = False) -> int:
    """Prints how a deployment ended, and returns the exit status."""
    error = _error(record)
    if session.json:
        session.print_ndjson([record])
    elif error is None:
        name, state = word(record, "agent"), word(record, "state")
        what = f"{word(record, 'package')} {word(record, 'version')}"
        session.print_line(f"{name} is {what}: {state}")
    elif not is_wanted:
        session.stdout.flush()
        session.note(f"corral: {error.message}")
    if is_wanted or error is None:
        return 0
    return error.exit_status


def _error(record: Mapping[str, object]) -> CorralError | None:
    found = record.get("error")
    return errors.from_wire(found) if found is not None else None


@command("deployments")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_named)
@option("-n N", "At most N.", "limit", type=click.IntRange(1, 1000), default=50)
def deployments(session: Session, name: str | None, limit: int) -> None:
    """Show deployments, the newest first.

    NAME may be the number of one, which is shown in full.
    """
    if name is not None and name.isdecimal():
        record = as_record(session.call("deployment.show", {"deployment": int(name)}))
        if session.json:
            session.print_json(record)
        else:
            _print_full(session, record)
        return
    found = session.call("deployment.list", {"name": name, "limit": limit})
    if not session.printed_json(found):
        session.print_records(inners(found, "deployments"), DEPLOYMENTS)


def _state(record: Record) -> str:
    share, state = number(record, "canary_percent"), word(record, "state")
    return f"{state} {share:g}%" if state == "canary" and share is not None else state


DEPLOYMENTS = Table(
    "DEPLOYMENT NAME=agent PACKAGE VERSION STATE REVISION AT=created_at BY",
    drop="BY AT REVISION",
    right="DEPLOYMENT REVISION",
    state=_state,
)


def _print_full(session: Session, record: Record) -> None:
    keys = ("deployment", "agent", "package", "version", "state", "revision", "digest", "why")
    for key in (*keys, "folder", "environment"):
        if word(record, key):
            session.print_line(f"{key:12} {word(record, key)}")
    for key in ("created_at", "finished_at"):
        if word(record, key):
            session.print(f"{key:12} {session.at(word(record, key), is_brief=False)}")
    for check in inners(record, "checks"):
        words = f"{word(check, 'name'):12} {word(check, 'state')}  {word(check, 'message')}"
        session.print_line(f"check {words.rstrip()}")
    error = _error(record)
    if error is not None:
        session.print_line(f"{'error':12} {error.message}")
        for line in str(error.data.get("output") or "").splitlines():
            session.print_line(f"  {line}")
