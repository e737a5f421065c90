"""A stored package is whole or not there, the same content is one package, and a changed byte is found."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from configurations import configuration, in_force
from corral.supervisor.agents.packages.builder import build, scaffold
from corral.supervisor.agents.packages.package import generate, read_secret
from corral.supervisor.agents.packages.store import IDLE_S, UPLOADS_MAX, Packages
from corral.supervisor.config.spec.spec import Packages as Settings
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import (
    Conflict,
    Corrupted,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
)

pytestmark = pytest.mark.shell

AT = "2026-01-01T00:00:00Z"


class Rig:
    """A store of packages with its clock, settings and users."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.in_force = in_force()
        self.used: list[str] = []
        self.now = 0.0
        self.folder = folder
        self.packages = Packages(store, folder, self.in_force, lambda: self.now)
        self.packages.keep_for(lambda _name, _digest: self.used)

    async def add(self, data: bytes, sha256: str | None = None) -> str:
        """Uploads in two chunks, adds, and returns the digest."""
        half = len(data) // 2
        key, size = await self.packages.upload(None, 0, encoded(data[:half]))
        await self.packages.upload(key, size, encoded(data[half:]))
        return (await self.packages.add(key, sha256, "tester", AT)).digest

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def run(path: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        store = await asyncio.to_thread(Store.open, path / "store.db")
        try:
            rig = Rig(store, path / "packages")
            await rig.packages.load()
            await test(rig)
        finally:
            await store.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def made(path: Path, version: str = "0.1.0", text: str = "", secret: bytes | None = None) -> bytes:
    folder = path / f"source-{len(list(path.iterdir()))}"
    scaffold(folder, "greeter")
    toml = folder / "package.toml"
    toml.write_text(toml.read_text().replace('"0.1.0"', f'"{version}"'))
    (folder / "data.txt").write_text(text)
    return Path(build(folder, path / f"{folder.name}.corral", secret=secret).path).read_bytes()


def test_a_package_is_added_once_and_found_after_a_restart(tmp_path: Path) -> None:
    data = made(tmp_path)

    async def first(rig: Rig) -> None:
        digest = await rig.add(data)
        assert await rig.add(data) == digest
        assert rig.files == [f"{digest}.corral"]

    async def second(rig: Rig) -> None:
        (found,) = rig.packages.list()
        assert (found.reference, found.added_by, found.added_at) == ("greeter@0.1.0", "tester", AT)
        assert await rig.packages.find("greeter") == found
        target = tmp_path / "target"
        target.mkdir()
        rig.packages.unpack(found.digest, target)
        assert (target / "greeter.py").is_file()

    run(tmp_path, first)
    run(tmp_path, second)


def test_another_content_of_the_same_version_is_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path, text="other")

    async def test(rig: Rig) -> None:
        digest = await rig.add(one)
        with pytest.raises(Conflict):
            await rig.add(other)
        assert rig.files == [f"{digest}.corral"]

    run(tmp_path, test)


def test_a_name_alone_is_its_highest_final_version(tmp_path: Path) -> None:
    versions = ["1.9", "1.10", "2.0rc1"]
    archives = [made(tmp_path, version) for version in versions]

    async def test(rig: Rig) -> None:
        for each in archives:
            await rig.add(each)
        assert rig.packages.of("greeter").reference == "greeter@1.10"
        assert rig.packages.of("greeter@2.0-RC1").reference == "greeter@2.0rc1"
        assert [each.spec.version for each in rig.packages.list()] == ["2.0rc1", "1.10", "1.9"]
        for reference in ("greeter@3", "nobody", "greeter@", "@1"):
            if reference != "greeter@":
                with pytest.raises(NotFound):
                    rig.packages.of(reference)

    run(tmp_path, test)


def test_what_a_killed_daemon_left_is_removed_at_the_start(tmp_path: Path) -> None:
    data = made(tmp_path)

    async def first(rig: Rig) -> None:
        await rig.add(data)
        await rig.packages.upload(None, 0, encoded(b"half"))
        (rig.folder / f"{'0' * 64}.corral").write_bytes(b"placed, and never recorded")
        assert len(rig.files) == 3

    async def second(rig: Rig) -> None:
        assert len(rig.files) == 1
        await rig.packages.find("greeter")

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    data = made(tmp_path, text="x" * 5000)

    async def test(rig: Rig) -> None:
        digest = await rig.add(data)
        path = rig.folder / f"{digest}.corral"
        path.chmod(0o600)
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:  # a bit of the frame's header may mean nothing
                await rig.packages.find("greeter")
            except Corrupted:
                continue
            assert at < 18
        path.unlink()
        with pytest.raises(Corrupted):
            await rig.packages.find("greeter")

    run(tmp_path, test)


def test_a_changed_byte_is_corruption_when_the_package_is_added(tmp_path: Path) -> None:
    data = made(tmp_path, text="x" * 5000)

    async def test(rig: Rig) -> None:
        digest = await rig.add(data)
        taken: list[int] = []
        for at in range(24, len(data)):  # behind the headers of frame and block: without those it is no package
            try:
                assert await rig.add(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) == digest
                taken.append(at)
            except Corrupted:
                continue
        assert len(taken) <= 2, "a bit that fills the last byte of a stream means nothing"

    run(tmp_path, test)


def test_a_required_signature_has_to_be_of_a_trusted_key(tmp_path: Path) -> None:
    public = generate(tmp_path / "key")
    signed = made(tmp_path, secret=read_secret(tmp_path / "key"))
    plain, other = made(tmp_path, "2"), made(tmp_path, "3", secret=os.urandom(32))

    async def test(rig: Rig) -> None:
        await rig.add(plain)
        rig.in_force.adopt(configuration(packages=Settings(require_signature=True, trusted_keys=(public,))))
        await rig.add(signed)
        for data in (other, made(tmp_path, "4")):
            with pytest.raises(PermissionDenied):
                await rig.add(data)
        with pytest.raises(PermissionDenied):  # it was taken before
            await rig.packages.find("greeter@2")
        assert (await rig.packages.find("greeter@0.1.0")).signer == public
        assert len(rig.files) == 2

    run(tmp_path, test)


def test_uploads_are_bounded_and_repeatable(tmp_path: Path) -> None:
    data = made(tmp_path)

    async def test(rig: Rig) -> None:
        packages = rig.packages
        key, size = await packages.upload(None, 0, encoded(data[:10]))
        assert await packages.upload(key, 0, encoded(data[:10])) == (key, size)  # a lost answer
        with pytest.raises(Conflict):
            await packages.upload(key, 11, encoded(b"x"))
        with pytest.raises(InvalidParams):
            await packages.upload(key, 10, "no base64!")
        for _ in range(UPLOADS_MAX - 1):
            await packages.upload(None, 0, encoded(b"x"))
        with pytest.raises(Overloaded):
            await packages.upload(None, 0, encoded(b"x"))
        rig.now = IDLE_S + 1
        digest = await rig.add(data)
        assert rig.files == [f"{digest}.corral"]
        with pytest.raises(NotFound):
            await packages.upload(key, 10, encoded(b"x"))
        rig.in_force.adopt(configuration(packages=Settings(max_bytes=1024)))
        with pytest.raises(ResourceLimitExceeded):
            await packages.upload(None, 0, encoded(bytes(1025)))
        assert rig.files == [f"{digest}.corral"]

    run(tmp_path, test)


def test_a_file_with_another_sum_or_that_is_no_package_leaves_nothing(tmp_path: Path) -> None:
    data = made(tmp_path)

    async def test(rig: Rig) -> None:
        with pytest.raises(InvalidParams):
            await rig.add(data, "0" * 64)
        with pytest.raises(InvalidParams):
            await rig.add(data[:-1])
        assert (rig.files, rig.packages.list()) == ([], [])

    run(tmp_path, test)


def test_a_package_in_use_stays(tmp_path: Path) -> None:
    data = made(tmp_path)

    async def test(rig: Rig) -> None:
        await rig.add(data)
        rig.used = ["greeter"]
        with pytest.raises(Conflict) as caught:
            await rig.packages.remove("greeter")
        assert caught.value.data["used_by"] == ["greeter"]
        rig.used = []
        await rig.packages.remove("greeter")
        assert (rig.files, rig.packages.list()) == ([], [])
        await rig.add(data)

    run(tmp_path, test)
