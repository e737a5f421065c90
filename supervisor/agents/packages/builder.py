"""Builds a package of a folder: the same bytes for the same files, on any path, by any user, under any umask.

Links are followed to files inside the folder, and stored as those files; everything else that is no regular file is
refused, and so are files that look like secrets. Empty folders are left out.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound

from .archive import CHUNK, opened, write_archive
from .manifest import (
    CONTENT_MAX_BYTES,
    FILES_MAX,
    FORMAT,
    PACKAGE_TOML,
    FileEntry,
    Manifest,
    check_files,
    digest_of,
    path_problem,
    too_large,
)
from .package import check_agreement, public_text, read_package, sign
from .spec import MAX_BYTES, PackageSpec, decode_package

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".corralignore"

IGNORED = (
    *(".git/", ".hg/", ".svn/", "__pycache__/", "*.py[co]", ".venv/", "venv/", "node_modules/"),
    *(".mypy_cache/", ".pytest_cache/", ".ruff_cache/", ".tox/", ".nox/", ".DS_Store"),
    *("*.egg-info/", "*.swp", "*~", "*.corral", IGNORE_FILE),
)
"""Patterns of files that no package has, unless its .corralignore includes them with "!"."""

SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa"),
    *("id_ed25519", ".netrc", ".pypirc", ".npmrc", "credentials.json", ".htpasswd", "*.kdbx"),
)
"""Names of files that look like secrets."""

NOT_SECRET = (".env.example", ".env.sample", ".env.template")

NAMES_SHOWN = 10


class Source(Struct, frozen=True):
    """Describes a file that goes into a package: `file` is where its content is."""

    path: str
    file: str
    executable: bool


class Built(Struct, frozen=True):
    """Describes a package that was built: `size` is that of the archive in bytes, `signer` a public key or ""."""

    spec: PackageSpec
    manifest: Manifest
    digest: str
    path: str
    size: int
    signer: str = ""


def build(
    folder: Path, target: Path | None = None, *, secret: bytes | None = None, with_secrets: bool = False
) -> Built:
    """Builds a package, signed where there is a `secret` key."""
    spec = read_spec(folder)
    sources = {source.path: source for source in collect(folder, with_secrets=with_secrets)}
    manifest = _manifest(spec, sources)
    check_agreement(spec, manifest)
    encoded = manifest.encode()
    signature = b"" if secret is None else sign(secret, encoded)
    path = target or Path(f"{spec.name}-{spec.version}.corral")

    def open_file(entry: FileEntry) -> BinaryIO:
        return _open(sources[entry.path].file)

    size = _write(path, manifest, open_file, signature)
    signer = "" if secret is None else public_text(secret)
    return Built(spec, manifest, digest_of(encoded), str(path), size, signer)


def resigned(source: Path, secret: bytes, target: Path | None = None) -> Built:
    """Signs a package that is built already, in place of a signature that it has; every byte of it is verified before.

    The result is that of `build` with the same key. `target` is the archive to write, `source` itself unless it is given.
    """
    path = target or source
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        with opened(source) as file:
            found = read_package(file, Path(folder))
        signature = sign(secret, found.manifest.encode())

        def open_file(entry: FileEntry) -> BinaryIO:
            return (Path(folder) / entry.path).open("rb")

        size = _write(path, found.manifest, open_file, signature)
    return Built(found.spec, found.manifest, found.digest, str(path), size, public_text(secret))


def _write(path: Path, manifest: Manifest, open_file: Callable[[FileEntry], BinaryIO], signature: bytes) -> int:
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write_archive(file, manifest, open_file, signature)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return size


def read_spec(folder: Path) -> PackageSpec:
    """Reads the package.toml of a folder."""
    try:
        with (folder / PACKAGE_TOML).open("rb") as file:
            return decode_package(file.read(MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError) as error:
        words = f'cannot build a package: there is no {PACKAGE_TOML} in "{folder}"'
        raise NotFound(f"{words}; corral package new makes one", path=str(folder)) from error


def collect(folder: Path, *, with_secrets: bool = False) -> list[Source]:
    """Returns the files of a package, sorted by path, after its ignore rules."""
    root = os.path.realpath(folder)
    rules = _ignore_rules(root)
    found: list[Source] = []
    for path, entry in _walk(root, "", rules, 0):
        found.append(_source(root, path, entry))
        if len(found) > FILES_MAX:
            raise too_large("a number of files", len(found), FILES_MAX)
    doubtful = [] if with_secrets else [each.path for each in found if looks_secret(each.path)]
    if doubtful:
        names = ", ".join(f'"{path}"' for path in doubtful[:NAMES_SHOWN])
        more = f" and {len(doubtful) - NAMES_SHOWN} more" if len(doubtful) > NAMES_SHOWN else ""
        raise InvalidParams(
            f"cannot build a package: {names}{more} may hold secrets; list them in {IGNORE_FILE},"
            " or build with --with-secrets",
            paths=doubtful[:100],
            reason="secrets",
        )
    return sorted(found, key=lambda source: source.path)


def looks_secret(path: str) -> bool:
    """Returns whether a file has the name of one that holds secrets."""
    name = path.rpartition("/")[2].lower()
    return name not in NOT_SECRET and any(fnmatchcase(name, pattern) for pattern in SECRETS)


def _walk(root: str, prefix: str, rules: "GitIgnoreSpec", depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the files below a folder that are not ignored, with their paths; a folder that is ignored is not entered."""
    with os.scandir(os.path.join(root, prefix)) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = f"{prefix}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        if _is_text(path) and rules.match_file(f"{path}/" if is_folder else path):
            continue
        if (problem := path_problem(path)) and not (is_folder and problem.startswith("is too long")):
            raise _refusal(path, problem)
        if is_folder:
            yield from _walk(root, f"{path}/", rules, depth + 1)
        else:
            yield path, entry


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _source(root: str, path: str, entry: os.DirEntry[str]) -> Source:
    file = entry.path
    if entry.is_symlink():
        file = os.path.realpath(entry.path)
        if os.path.commonpath((root, file)) != root:
            raise _refusal(path, "is a link to something outside of the folder")
        if os.path.isdir(file):
            raise _refusal(path, "is a link to a folder")
        if not os.path.exists(file):
            raise _refusal(path, "is a link to something that is not there")
    status = os.stat(file, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, f"is no regular file but {_kind(status.st_mode)}")
    if status.st_size > CONTENT_MAX_BYTES:
        raise too_large(f"the size of {path!a}", status.st_size, CONTENT_MAX_BYTES)
    return Source(path, file, bool(status.st_mode & stat.S_IXUSR))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a character device"}
    return {**kinds, stat.S_IFBLK: "a block device"}.get(stat.S_IFMT(mode), "something else")


def _refusal(path: str, what: str) -> InvalidParams:
    shown = ascii(path)
    words = f"cannot build a package: {shown} {what}; remove it, or list it in {IGNORE_FILE}"
    return InvalidParams(words, path=shown.strip("'\""), reason=what)


def _ignore_rules(root: str) -> "GitIgnoreSpec":
    """Returns the rules of the folder: ours, then those of its .corralignore; the last that matches counts."""
    from pathspec import GitIgnoreSpec  # noqa: PLC0415  # only who builds pays

    lines: list[str] = []
    try:
        with open(os.path.join(root, IGNORE_FILE), encoding="utf-8") as file:
            lines = file.read(MAX_BYTES).splitlines()
        return GitIgnoreSpec.from_lines([*IGNORED, *lines])
    except FileNotFoundError:
        return GitIgnoreSpec.from_lines(IGNORED)
    except ValueError as error:  # a pattern that is none, or no UTF-8
        words = f"cannot build a package: {IGNORE_FILE} cannot be read: {error}"
        raise InvalidParams(words, path=IGNORE_FILE, reason=str(error)) from error


def _manifest(spec: PackageSpec, sources: dict[str, Source]) -> Manifest:
    files: list[FileEntry] = []
    total = 0
    for source in sources.values():
        with _open(source.file) as file:
            found, size = hashlib.sha256(), 0
            while data := file.read(CHUNK):
                found.update(data)
                size += len(data)
                if total + size > CONTENT_MAX_BYTES:
                    raise too_large("a content", total + size, CONTENT_MAX_BYTES)
        total += size
        files.append(FileEntry(source.path, size, found.hexdigest(), source.executable))
    check_files(tuple(files))
    return Manifest(FORMAT, spec.name, spec.version, tuple(files))


def _open(path: str) -> BinaryIO:
    """Opens a file that `collect` has seen, unless it has become something else meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(fd, "rb", buffering=0)


def _umask() -> int:
    """Returns the umask of this process, which Linux tells without changing it."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


_TOML = """\
name = "{name}"
version = "0.1.0"
description = "Answers a greeting"
entrypoint = "{module}:agent"
dependencies = []                       # such as ["httpx>=0.27"]
requires-runtime = {{ python = ">=3.11" }}

[needs]
mcp = []                                # such as ["git", {{ name = "time", optional = true }}]
secrets = []
"""

_MODULE = '''\
"""Greets: the handler of the package {name}."""

from corral.worker import Agent, Task

agent = Agent("{name}")


@agent.task
def greet(task: Task) -> object:
    """Returns a greeting."""
    return {{"greeting": f"hello, {{task.objective}}"}}


if __name__ == "__main__":
    agent.run()
'''


def scaffold(folder: Path, name: str) -> Sequence[str]:
    """Writes the files of a new package into a new folder, and returns their names."""
    module = name.replace("-", "_")
    toml = _TOML.format(name=name, module=module)
    decode_package(toml.encode())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f'cannot make a package: "{folder}" exists', path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        PACKAGE_TOML: toml,
        f"{module}.py": _MODULE.format(name=name),
        IGNORE_FILE: "# Files that are no part of the package, as .gitignore has them.\ntests/\n",
    }
    for path, text in files.items():
        (folder / path).write_text(text, "utf-8")
    return list(files)


def describe(built: Built) -> dict[str, object]:
    """Returns what was built, as `--json` prints it."""
    return {
        "path": built.path,
        "name": built.spec.name,
        "version": built.spec.version,
        "digest": built.digest,
        "size_bytes": built.size,
        "files": len(built.manifest.files),
        "content_bytes": built.manifest.size_bytes,
        "signer": built.signer or None,
    }
