"""An archive is read only where each of its bytes is the one that its manifest determines."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.supervisor.agents.packages import manifest as bounds
from corral.supervisor.agents.packages.archive import END, LEVEL, MANIFEST, WINDOW_LOG, Reader, header, opened
from corral.supervisor.agents.packages.builder import build, scaffold
from corral.supervisor.agents.packages.manifest import FileEntry, Manifest, decode_manifest
from corral.supervisor.agents.packages.package import Package, read_package
from corral.worker.contract.errors import CorralError, Corrupted, InvalidParams, ResourceLimitExceeded

TOML = b'name = "evil"\nversion = "1"\ncommand = ["true"]\n'


def compressed(tar: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(compression_level=LEVEL, window_log=WINDOW_LOG, write_checksum=1)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(tar)


def entry(path: str, content: bytes, **changes: object) -> FileEntry:
    facts: dict[str, object] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return FileEntry(path, **{**facts, **changes})  # type: ignore[arg-type]  # facts by name


def tar_of(files: dict[str, bytes], manifest: bytes | None = None) -> bytes:
    """Makes the tar of a package by hand, so that anything in it can be wrong."""
    entries = tuple(entry(path, files[path]) for path in sorted(files))
    encoded = manifest if manifest is not None else Manifest(1, "evil", "1", entries).encode()
    found = block(header(MANIFEST, len(encoded), 0o644), encoded)
    for path in sorted(files):
        found += block(header(f"files/{path}", len(files[path]), 0o644), files[path])
    return found + END


def block(head: bytes, content: bytes) -> bytes:
    return head + content + bytes(-len(content) % 512)


def read(data: bytes) -> Package:
    return read_package(io.BytesIO(data))


GOOD = tar_of({"a.py": b"print(1)\n", "package.toml": TOML})


def test_a_package_made_by_hand_is_read() -> None:
    found = read(compressed(GOOD))
    assert (found.reference, [e.path for e in found.manifest.files]) == ("evil@1", ["a.py", "package.toml"])


# Each is a tar entry that stands where the file a.py should be.
MEMBERS = {
    "a symbolic link": (tarfile.SYMTYPE, "files/a.py", "/etc/passwd"),
    "a hard link": (tarfile.LNKTYPE, "files/a.py", "../../etc/passwd"),
    "a character device": (tarfile.CHRTYPE, "files/a.py", ""),
    "a block device": (tarfile.BLKTYPE, "files/a.py", ""),
    "a FIFO": (tarfile.FIFOTYPE, "files/a.py", ""),
    "a folder": (tarfile.DIRTYPE, "files/a.py", ""),
    "a GNU sparse file": (tarfile.GNUTYPE_SPARSE, "files/a.py", ""),
    "a pax header": (tarfile.XHDTYPE, "files/a.py", ""),
    "files/../../a.py": (tarfile.REGTYPE, "files/../../a.py", ""),
    "'/a.py'": (tarfile.REGTYPE, "/a.py", ""),
}


@pytest.mark.parametrize("what", MEMBERS)
def test_an_entry_that_is_no_plain_file_of_the_manifest_is_refused_by_name(what: str) -> None:
    kind, name, link = MEMBERS[what]
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 0
    start = GOOD.index(b"files/a.py")
    tar = GOOD[:start] + member.tobuf(tarfile.USTAR_FORMAT) + GOOD[start + 512 :]
    with pytest.raises(InvalidParams) as caught:
        read(compressed(tar))
    assert what in caught.value.message


@pytest.mark.parametrize("bit", [0o4000, 0o2000, 0o1000, 0o022])
def test_a_mode_that_no_package_has_is_refused(bit: int) -> None:
    start = GOOD.index(b"files/a.py")
    head = header("files/a.py", 9, 0o644 | bit)
    with pytest.raises(InvalidParams):
        read(compressed(GOOD[:start] + head + GOOD[start + 512 :]))


PATHS = {
    "..": "../a",
    "a .. within": "a/../../b",
    "absolute": "/etc/passwd",
    "empty part": "a//b",
    "dot": "./a",
    "NUL": "a\0b",
    "newline": "a\nb",
    "bidirectional mark": "a\u202eb",
    "backslash": "..\\a",
    "not NFC": "e\u0301.py",
    "too deep": "d/" * 40 + "a",
    "part too long": "a" * 101,
    "too long": "/".join(["a" * 90] * 4),
    "lone surrogate": "a\ud800",
}


@pytest.mark.core
@pytest.mark.parametrize("why", PATHS)
def test_a_path_that_no_package_has_is_refused(why: str) -> None:
    assert bounds.path_problem(PATHS[why])


@pytest.mark.core
@pytest.mark.parametrize("paths", [["A.py", "a.py"], ["a", "a/b"], ["D/x", "d/y"], ["straße", "strasse"], ["a", "a"]])
def test_paths_that_are_one_file_somewhere_are_refused(paths: list[str]) -> None:
    files = (*[entry(path, b"") for path in paths], entry("package.toml", TOML))
    with pytest.raises(InvalidParams):
        decode_manifest(Manifest(1, "evil", "1", files).encode())


LIES: dict[str, dict[str, object]] = {
    "size": {"size": 8},
    "negative size": {"size": -1},
    "SHA-256": {"sha256": "0" * 64},
    "no SHA-256": {"sha256": "x"},
    "mode": {"executable": True},
    "path": {"path": "b.py"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_about_a_file_is_refused(lie: str) -> None:
    content = b"print(1)\n"
    facts: dict[str, object] = {"path": "a.py", **LIES[lie]}
    files = (entry(str(facts.pop("path")), content, **facts), entry("package.toml", TOML))
    manifest = Manifest(1, "evil", "1", files).encode()
    with pytest.raises(Corrupted if lie == "SHA-256" else InvalidParams):
        read(compressed(tar_of({"a.py": content, "package.toml": TOML}, manifest)))


@pytest.mark.parametrize("key", ["name", "version", "format"])
def test_a_manifest_that_contradicts_the_package_toml_is_refused(key: str) -> None:
    facts: dict[str, object] = {"format": 1, "name": "evil", "version": "1", key: 2}
    facts = {key: str(value) if key != "format" else value for key, value in facts.items()}
    facts["format"] = 2 if key == "format" else 1
    manifest = Manifest(**facts, files=(entry("package.toml", TOML),))  # type: ignore[arg-type]  # by name
    with pytest.raises(InvalidParams):
        read(compressed(tar_of({"package.toml": TOML}, manifest.encode())))


def test_a_manifest_that_is_not_canonical_is_refused() -> None:
    encoded = Manifest(1, "evil", "1", (entry("package.toml", TOML),)).encode()
    for other in (encoded.replace(b":", b": "), encoded[:-1] + b',"x":1}', b"[" * 100_000, b"\xff"):
        with pytest.raises(InvalidParams):
            read(compressed(tar_of({"package.toml": TOML}, other)))


def test_more_files_than_a_package_may_have_are_refused() -> None:
    files = tuple(entry(f"f{n:07}", b"") for n in range(bounds.FILES_MAX + 1))
    with pytest.raises(ResourceLimitExceeded):
        read(compressed(tar_of({}, Manifest(1, "evil", "1", files).encode())))
    million = Manifest(1, "evil", "1", tuple(entry(f"f{n:07}", b"") for n in range(100_000)))
    with pytest.raises(ResourceLimitExceeded):
        read(compressed(tar_of({}, million.encode())))


def test_a_content_beyond_the_bound_is_refused_by_its_manifest_alone() -> None:
    files = (entry("a", b"", size=bounds.CONTENT_MAX_BYTES + 1), entry("package.toml", TOML))
    with pytest.raises(ResourceLimitExceeded):
        read(compressed(tar_of({"package.toml": TOML}, Manifest(1, "evil", "1", files).encode())))


def zeros_frame(size: int) -> bytes:
    """Makes a frame of zeros, which is 4 bytes for each 128 KiB, whatever its header says."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b11000100, 13 << 3]) + size.to_bytes(8, "little")
    blocks = -(-size // (128 << 10))
    rle = (128 << 10) << 3 | 0b010
    return (
        head
        + (rle.to_bytes(3, "little") + b"\0") * (blocks - 1)
        + (((128 << 10) << 3 | 0b011).to_bytes(3, "little") + b"\0" + bytes(4))
    )


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    bomb = zeros_frame(10 << 30)
    assert len(bomb) < 1 << 20
    with pytest.raises(ResourceLimitExceeded):
        read(bomb)
    with pytest.raises(Corrupted):  # one that is permitted, and has a wrong checksum
        read(zeros_frame(64 << 20))


def test_a_frame_of_empty_blocks_is_refused_without_walking_all() -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b11000100, 13 << 3]) + (1024).to_bytes(8, "little")
    with pytest.raises(InvalidParams):
        read(head + bytes(3) * 1_000_000)


def test_a_window_beyond_the_bound_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=3, window_log=25, write_checksum=1, write_content_size=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with pytest.raises(ResourceLimitExceeded):
        read(compressor.compress(os.urandom(40 << 20)))


def test_every_beginning_of_a_package_is_refused() -> None:
    whole = compressed(GOOD)
    for end in range(len(whole)):
        with pytest.raises(InvalidParams):
            read(whole[:end])


@pytest.mark.parametrize(
    "more",
    [b"\0", b"x" * 1000, compressed(b""), compressed(b"more"), b"\x50\x2a\x4d\x18\0\0\0\0"],
    ids=["NUL", "garbage", "empty frame", "frame", "skippable frame"],
)
def test_anything_after_the_end_is_refused(more: bytes) -> None:
    with pytest.raises(InvalidParams):
        read(compressed(GOOD) + more)
    with pytest.raises(InvalidParams):
        read(compressed(GOOD + more))


def test_a_package_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InvalidParams), opened(path) as file:
            read_package(file)


def test_the_manifest_alone_is_read_without_the_files() -> None:
    found = Reader(io.BytesIO(compressed(GOOD))).archive
    assert found.manifest.name == "evil"
    assert found.digest == read(compressed(GOOD)).digest


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("package")
    scaffold(folder / "greeter", "greeter")
    (folder / "greeter" / "data").write_bytes(bytes(range(256)) * 40)
    return Path(build(folder / "greeter", folder / "x.corral", secret=b"s" * 32).path).read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_package_is_refused_or_equal_and_writes_nothing_outside(
    real: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = read(real)
    tar = zstandard.ZstdDecompressor().decompress(real)
    inside = data.draw(st.booleans(), label="inside the compression")
    changed = bytearray(tar if inside else real)
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        at = data.draw(st.integers(0, len(changed) - 1), label="at")
        how = data.draw(st.sampled_from(["set", "insert", "delete", "swap"]), label="how")
        if how == "set":
            changed[at] = data.draw(st.integers(0, 255), label="byte")
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=600), label="bytes")
        elif how == "delete":
            del changed[at : at + data.draw(st.integers(1, 600), label="count")]
        else:
            changed[at : at + 512] = changed[at : at + 512][::-1]
        if not changed:
            return
    packed = compressed(bytes(changed)) if inside else bytes(changed)
    folder = tmp_path_factory.mktemp("target")
    target = folder / "inner"
    target.mkdir()
    try:
        found = read_package(io.BytesIO(packed), target)
    except CorralError:
        found = None
    assert found in (None, original)
    assert [path.name for path in folder.iterdir()] == ["inner"]
