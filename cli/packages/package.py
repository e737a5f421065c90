"""Implements `corral package`: makes, builds and signs packages, and adds them to the daemon."""

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from corral.worker.contract.errors import InvalidParams, NotFound, Unreachable

from .. import render
from ..context import CommandGroup, Session, admit_msgspec, calling, complete_names, listing, option
from ..render import Table, word

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
