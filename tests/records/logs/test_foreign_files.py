"""Foreign files where log files are expected: they stop no worker, and nothing is written through them."""

import gzip
import os
from pathlib import Path

import pytest

from corral.supervisor.records.logs.bgzf import SUFFIX
from corral.supervisor.records.logs.store import LogStore
from log_folder import BOUND_S, MIB, compress_files, compressed, read, texts, writer_of

pytestmark = pytest.mark.shell


def store_of(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "logs", compress_after_s=0)


def plant(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        (path / "within").mkdir(parents=True)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        (path.parent / "elsewhere").write_bytes(b"mine\n")
        path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file_in_the_place_of_the_log_is_trouble_until_it_goes(tmp_path: Path, kind: str) -> None:
    logs = store_of(tmp_path)
    path = logs.directory / "echo" / "echo-0.log"
    plant(path, kind)
    writer = writer_of(logs)
    stream = writer.stream("stdout")
    stream.write(b"lost\n" * 20_000)  # more than a pipe holds
    assert (writer.lost_lines, writer.lost_bytes) == (20_000, 100_000)
    assert writer.trouble is not None
    assert read(logs) == []
    if kind == "link":
        assert (path.parent / "elsewhere").read_bytes() == b"mine\n"
    path.rename(path.with_name("away"))
    stream.write(b"kept\n")
    note, kept = read(logs)
    assert (note["lost_lines"], kept["text"]) == (20_000, "kept")
    logs.close()


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file_in_the_place_of_an_older_one_is_passed_over_and_nothing_is_lost(
    tmp_path: Path, kind: str
) -> None:
    logs = store_of(tmp_path)
    for number in (1, 2, 4):
        plant(logs.directory / "echo" / f"echo-0.log.{number}", kind) if kind != "link" else None
    if kind == "link":
        plant(logs.directory / "echo" / "echo-0.log.2", kind)
    writer = writer_of(logs, max_file_bytes=4_096, max_files=6)
    stream = writer.stream("stdout")
    for number in range(300):
        stream.write(b"%099d\n" % number)
        if number % 10 == 0:
            logs.check()
    compress_files(logs, 4)
    assert writer.lost_lines == 0
    numbers = [int(str(text)) for text in texts(read(logs))]
    assert numbers == list(range(numbers[0], 300))
    assert len(numbers) > 100
    assert texts(read(logs, n=50)) == texts(read(logs))[-50:]
    logs.close()


def test_a_folder_whose_name_is_no_text_hides_nothing_else(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer_of(logs).stream("stdout").write(b"hello\n")
    odd = os.fsencode(logs.directory) + b"/o\xff"
    os.mkdir(odd)
    with open(odd + b"/o-0.log", "wb") as file:
        file.write(b"2026-01-01T00:00:00.000000000Z stdout F odd\n")
    assert texts(read(logs)) == ["hello"]
    assert logs.names() == {"echo", "echo-0"}
    logs.close()


def test_a_compressed_file_that_has_gone_bad_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    logs = store_of(tmp_path)
    writer = writer_of(logs, max_file_bytes=200_000, max_files=9)
    stream = writer.stream("stdout")
    for number in range(6_000):
        stream.write(b"%099d\n" % number)
    compress_files(logs, 2)
    before = texts(read(logs))
    victim = logs.directory / "echo" / compressed(logs)[0]
    whole = victim.read_bytes()
    lines = gzip.decompress(whole).count(b"\n")
    middle = len(whole) // 2
    victim.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    os.utime(victim)
    again = store_of(tmp_path)
    found = read(again)
    (gap,) = [record for record in found if record["stream"] == "corral"]
    assert gap["skipped_lines"] is None
    kept = texts([record for record in found if record["stream"] != "corral"])
    assert set(kept) <= set(before)
    assert len(before) - lines <= len(kept) < len(before)
    assert texts(read(again, n=100)) == before[-100:]
    assert SUFFIX in victim.name
    logs.close()
    again.close()


def test_a_folder_that_comes_back_is_private_again(tmp_path: Path) -> None:
    logs = LogStore(tmp_path / "state" / "logs")
    writer_of(logs, max_file_bytes=MIB).stream("stdout").write(b"secret\n")
    for folder in (logs.directory, logs.directory / "echo"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert BOUND_S > 0
    logs.close()
