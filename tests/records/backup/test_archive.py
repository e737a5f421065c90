"""The archive of a backup: it comes back as it was written, and anything else is refused by name."""

import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from corral.supervisor.records.backup.archive import Changed, File, Manifest, Reader, path_problem, write
from corral.worker.contract.errors import Corrupted

CONTENTS = {
    "state/corral.db": b"a store" * 1000,
    "state/secrets.d/KEY": b"{}",
    "state/empty": b"",
    f"state/{'deep/' * 40}file": b"x" * 513,
    "config/corral.toml": b"[agents]\n",
}


def manifest_of(contents: dict[str, bytes], **more: object) -> Manifest:
    files = [
        File(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in contents.items()
    ]
    known: dict[str, object] = {"format": 1, "version": "1", "store_version": 1, "generation": 1}
    known |= {"created_at": "", "created": 1.0, "state_dir": "/s"}
    return msgspec.convert({**known, "files": msgspec.to_builtins(files), **more}, Manifest)


def reading(contents: dict[str, bytes]) -> Callable[[File], io.BytesIO]:
    return lambda file: io.BytesIO(contents[file.path])


def archive_of(contents: dict[str, bytes], manifest: Manifest | None = None) -> bytes:
    sink = io.BytesIO()
    made = manifest_of(contents) if manifest is None else manifest
    write(made, reading(contents), sink.write)
    return sink.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    reader = Reader(io.BytesIO(data), "b")
    return {member.file.path: b"".join(member.pieces) for member in reader.members()}


def refusal(data: bytes) -> str:
    with pytest.raises(Corrupted) as refused:
        read(data)
    return str(refused.value.data["reason"])


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as file:
        for member, data in members:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return zstandard.ZstdCompressor().compress(tar.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def first(manifest: Manifest) -> tuple[tarfile.TarInfo, bytes]:
    return member("manifest.json"), msgspec.json.encode(manifest)


def test_an_archive_is_read_as_it_was_written() -> None:
    assert read(archive_of(CONTENTS)) == CONTENTS


def test_a_tar_program_can_unpack_it(tmp_path: Path) -> None:
    data = zstandard.ZstdDecompressor().stream_reader(archive_of(CONTENTS)).read()
    subprocess.run(["tar", "-x", "-C", tmp_path], input=data, check=True)
    assert (tmp_path / "state/corral.db").read_bytes() == CONTENTS["state/corral.db"]


def test_a_file_that_changes_while_it_is_written_is_named() -> None:
    manifest = manifest_of(CONTENTS)
    for other in (b"b store" * 1000, b"short"):
        changed = {**CONTENTS, "state/corral.db": other}
        with pytest.raises(Changed, match=r"corral\.db"):
            write(manifest, reading(changed), io.BytesIO().write)
    longer = {**CONTENTS, "state/corral.db": CONTENTS["state/corral.db"] + b"appended"}
    assert read(archive_of(longer, manifest)) == CONTENTS


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "state/corral.db"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.DIRTYPE, ""),
    ],
)
def test_links_devices_and_folders_are_refused(kind: bytes, link: str) -> None:
    data = packed(first(manifest_of({"state/a": b""})), (member("state/a", kind, link), b""))
    assert refusal(data) == "kind"


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "state/../../x", "state//x", "state/./x", "../x", "other/x", "state"),
        *("state/restore/ready.json", "state/backup/x", "state/a\nb", "state/" + "x/" * 3000 + "y"),
        "",
    ],
)
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    assert path_problem(name)
    assert refusal(packed(first(manifest_of({name: b""})), (member("state/a"), b""))) == "name"


def test_what_is_not_as_the_manifest_says_is_refused() -> None:
    manifest = manifest_of({"state/a": b"right", "state/b": b"b"})
    a, b = (member("state/a"), b"right"), (member("state/b"), b"b")
    assert read(packed(first(manifest), a, b)) == {"state/a": b"right", "state/b": b"b"}
    cases: list[tuple[str, bytes]] = [
        ("hash", packed(first(manifest), (member("state/a"), b"wrong"), b)),
        ("manifest", packed(first(manifest), (member("state/a"), b"longer"), b)),
        ("manifest", packed(first(manifest), b, a)),
        ("manifest", packed(first(manifest), a, b, (member("state/c"), b"more"))),
        ("truncated", packed(first(manifest), a)),
        ("manifest", packed(a, b)),
        ("manifest", packed((member("manifest.json"), b"{}"), a, b)),
        ("newer-version", packed(first(manifest_of({}, format=2)))),
        ("name", packed(first(manifest_of({"state/a": b"", "state/a/b": b""})))),
        ("manifest", packed(first(manifest_of({}, config="config/none.toml")))),
        ("compression", b"no archive at all"),
    ]
    for reason, data in cases:
        assert refusal(data) == reason


def test_a_bomb_is_refused_after_what_its_manifest_says() -> None:
    """A hundred million zeros behind a manifest that names one small file, in ten kilobytes."""
    manifest = manifest_of({"state/a": b"small"})
    data = packed(first(manifest), (member("state/a"), bytes(100_000_000)))
    assert len(data) < 20_000
    assert refusal(data) == "manifest"


def test_a_header_that_would_fill_the_memory_is_refused() -> None:
    big = member("state/a")
    big.pax_headers = {"comment": "x" * 200_000}
    assert refusal(packed(first(manifest_of({"state/a": b""})), (big, b""))) == "header"


def test_no_damaged_archive_is_taken_for_a_whole_one() -> None:
    """Each is refused with a reason, or has every byte as it was: 500 from a printed seed."""
    whole = archive_of(CONTENTS)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    ways: list[Callable[[bytearray], None]] = [
        lambda data: data.__setitem__(chance.randrange(len(data)), chance.randrange(256)),
        lambda data: data.__delitem__(slice(chance.randrange(len(data)), None)),
        lambda data: data.extend(chance.randbytes(20)),
    ]
    for _ in range(500):
        data = bytearray(whole)
        chance.choice(ways)(data)
        try:
            found = read(bytes(data))
        except Corrupted:
            continue
        assert found == CONTENTS
