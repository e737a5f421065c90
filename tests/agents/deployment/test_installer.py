"""Real installations of tiny wheels from a folder, by uv and by pip, through a launcher."""

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from corral.supervisor.agents.deployment.installer import Installation, Installer
from corral.supervisor.agents.deployment.runner import Dependencies, Limits, Tool
from corral.supervisor.config.spec.spec import Process, Spec
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.worker.contract.errors import Conflict, NotFound, ResourceLimitExceeded, SpawnFailed, Timeout
from wheels import offline, wheel

pytestmark = pytest.mark.shell

BOUND_S = 100.0
UV = shutil.which("uv", path=os.path.dirname(sys.executable))
PIP = Tool("pip", sys.executable)
needs_uv = pytest.mark.skipif(UV is None, reason="uv is not installed beside this interpreter")
USUAL = PIP if UV is None else Tool("uv", UV)
TOOLS = [pytest.param(Tool("uv", UV or ""), marks=needs_uv, id="uv"), pytest.param(PIP, id="pip")]


def run(test: Coroutine[None, None, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())


@dataclass
class Site:
    """An installer with a launcher of its own, and a folder of wheels."""

    installer: Installer
    logs: LogStore
    folder: Path
    steps: list[str] = field(default_factory=list[str])

    async def install(
        self,
        dependencies: Dependencies,
        *,
        name: str = "kit-1",
        files: dict[str, str] | None = None,
        limits: Limits | None = None,
        user: str | None = None,
    ) -> Installation:
        def unpack(target: Path) -> None:
            for path, text in (files or {"kit.py": "import alpha\n"}).items():
                (target / path).write_text(text)
                (target / path).chmod(0o755 if path.endswith(".sh") else 0o644)

        spec = Spec(
            name="kit",
            kind="agent",
            source="test",
            command=("true",),
            process=Process(working_directory="/", user=user),
        )
        bounds = limits or Limits(timeout_s=60.0)
        return await self.installer.install(spec, dependencies, unpack, name, bounds, self.steps.append)

    async def log(self) -> list[str]:
        return [str(record["text"]) for record in await self.logs.read(["kit-install"])]

    def left(self) -> list[str]:
        """All that is in the folders of installations, the caches apart."""
        roots = (self.folder / "environments", self.folder / "installed")
        return sorted(each.name for root in roots for each in root.iterdir())


@contextlib.asynccontextmanager
async def site(folder: Path, tool: Tool = USUAL) -> AsyncGenerator[Site, None]:
    links = folder / "links"
    wheel(links, "alpha", "1.0")
    wheel(links, "alpha", "2.0")
    wheel(links, "beta", "1.0", requires=["alpha<2"])
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **offline(links, folder / "cache")}
    environ["A_SECRET"] = "hunter2"
    state = folder / "state"
    host = Host(environ, folder, ordinary_user=os.getuid() != 0)
    launcher = Launcher()
    commands = Commands(launcher, host, 1)
    logs = LogStore(state / "logs")
    installer = Installer(commands, host, lambda spec: (spec, None), logs, state, tool)
    assert installer.prepare() == []
    await launcher.start()
    try:
        yield Site(installer, logs, state)
    finally:
        await launcher.close()
        logs.close()


def imported(python: str, what: str) -> str:
    code = f"import {what}; print({what}.VERSION)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS)
def test_a_package_gets_an_environment_with_the_newest_versions_that_fit_each_other(tmp_path: Path, tool: Tool) -> None:
    async def test() -> None:
        async with site(tmp_path, tool) as at:
            found = await at.install(Dependencies(python=("beta", "alpha")))
            assert imported(found.python, "alpha") == "1.0"
            assert "alpha==1.0" in found.lock
            assert "--hash=sha256:" in found.lock
            assert (Path(found.folder) / "kit.py").read_text() == "import alpha\n"
            assert at.left() == sorted([found.environment, "kit-1"])
            assert any(line.startswith("$ ") and " pip " in line for line in await at.log())

    run(test())


def test_the_same_lock_has_one_environment_and_brings_the_same_versions_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            first = await at.install(Dependencies(python=("alpha",)))
            again = await at.install(Dependencies(python=("alpha",)), name="kit-2")
            assert again.environment == first.environment
            wheel(tmp_path / "links", "alpha", "3.0")
            newer = await at.install(Dependencies(python=("alpha",)), name="kit-3")
            assert newer.environment != first.environment
            back = await at.install(Dependencies(python=("alpha",), lock=first.lock), name="kit-4")
            assert back.environment == first.environment
            assert imported(back.python, "alpha") == "2.0"

    run(test())


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS)
def test_a_distribution_with_other_bytes_than_its_lock_says_is_not_installed(tmp_path: Path, tool: Tool) -> None:
    async def test() -> None:
        async with site(tmp_path, tool) as at:
            lock = f"alpha==2.0 --hash=sha256:{'0' * 64}\n"
            with pytest.raises(SpawnFailed) as caught:
                await at.install(Dependencies(python=("alpha",), lock=lock))
            assert "hash" in str(caught.value.data["output"]).lower()
            assert at.left() == []

    run(test())


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("python", "word"), [(("beta", "alpha>=2"), "alpha"), (("absent-thing",), "absent-thing")])
def test_requirements_that_cannot_be_met_are_named_in_the_words_of_the_resolver(
    tmp_path: Path, tool: Tool, python: tuple[str, ...], word: str
) -> None:
    async def test() -> None:
        async with site(tmp_path, tool) as at:
            with pytest.raises(Conflict) as caught:
                await at.install(Dependencies(python=python))
            assert word in str(caught.value.data["output"])
            assert at.left() == []

    run(test())


def test_a_script_runs_in_the_installed_folder_and_finds_the_environment(tmp_path: Path) -> None:
    script = "#!/bin/sh\nset -e\npwd > where\ncommand -v python > which\n"

    async def test() -> None:
        async with site(tmp_path) as at:
            found = await at.install(Dependencies(install=("./install.sh",)), files={"install.sh": script})
            assert (Path(found.folder) / "where").read_text().strip() == found.folder
            assert (Path(found.folder) / "which").read_text().strip() == found.python

    run(test())


def test_a_script_that_fails_ends_the_installation_with_its_last_words_and_leaves_nothing(tmp_path: Path) -> None:
    script = "#!/bin/sh\nseq 1 5000\necho no such library >&2\nexit 3\n"

    async def test() -> None:
        async with site(tmp_path) as at:
            with pytest.raises(SpawnFailed) as caught:
                await at.install(
                    Dependencies(install=("./install.sh",), uses_python=False), files={"install.sh": script}
                )
            assert "no such library" in caught.value.message
            assert caught.value.data["code"] == 3
            assert at.left() == []
            lines = await at.log()
            assert {"1", "5000"} <= set(lines), "the log has all of it"

    run(test())


@pytest.mark.parametrize(
    ("script", "limits", "error"),
    [
        ("sleep 1000", Limits(timeout_s=0.5), Timeout),
        (
            "head -c 30000000 /dev/zero > big; sleep 1000",
            Limits(timeout_s=60.0, size_bytes=10_000_000),
            ResourceLimitExceeded,
        ),
    ],
)
def test_an_installation_is_bounded_in_time_and_disk(
    tmp_path: Path, script: str, limits: Limits, error: type[Exception]
) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            with pytest.raises(error):
                await at.install(
                    Dependencies(install=("./install.sh",), uses_python=False),
                    files={"install.sh": f"#!/bin/sh\n{script}\n"},
                    limits=limits,
                )
            assert at.left() == []

    run(test())


def test_the_log_of_an_installation_is_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            await at.install(
                Dependencies(install=("./install.sh",), uses_python=False),
                files={"install.sh": "#!/bin/sh\nyes | head -n 100000\n"},
                limits=Limits(timeout_s=60.0, output_bytes=1000),
            )
            lines = await at.log()
            assert len(lines) < 600
            assert any("left out" in line for line in lines)

    run(test())


def test_a_python_that_is_not_here_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path, PIP) as at:
            with pytest.raises(NotFound) as caught:
                await at.install(Dependencies(requires_python=">=9"))
            assert caught.value.data["python"] == ">=9"
            assert at.left() == []

    run(test())


def test_an_installation_sees_the_settings_of_indexes_and_no_other_variable_of_the_daemon(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            found = await at.install(
                Dependencies(install=("./install.sh",), uses_python=False),
                files={"install.sh": "#!/bin/sh\nenv > seen\n"},
            )
            seen = (Path(found.folder) / "seen").read_text()
            assert "UV_FIND_LINKS" in seen
            assert "A_SECRET" not in seen

    run(test())


def test_what_a_killed_daemon_left_is_found_at_the_next_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            found = await at.install(Dependencies())
            at.installer.installed.begin("kit-9")
            at.installer.environments.folders.begin("0123")
            left = at.installer.prepare()
            assert [each.name for each in left] == [".kit-9", ".0123"]
            whole = at.installer.environments.folders
            assert whole.unused({"other"}) == [whole.path_of(found.environment)]
            assert whole.unused({found.environment}) == []

    run(test())


@pytest.mark.skipif(os.getuid() != 0, reason="only root runs agents as another user")
def test_an_agent_of_another_user_installs_as_itself_and_cannot_change_its_files_afterwards() -> None:
    script = "#!/bin/sh\nset -e\nid -u > made\necho changed >> kit.py\nmkdir sub\n: > sub/own\nln -s /etc/shadow link\n"
    nobody = pwd.getpwnam("nobody")

    async def test(folder: Path) -> None:
        async with site(folder) as at:
            found = await at.install(
                Dependencies(install=("./install.sh",), uses_python=False),
                files={"install.sh": script, "kit.py": "import alpha\n"},
                user="nobody",
            )
            files = Path(found.folder)
            assert (files / "made").read_text().strip() == str(nobody.pw_uid)
            assert (files / "kit.py").read_text().endswith("changed\n"), "it may change them then"
            owners = {path.lstat().st_uid for path in files.rglob("*") if not path.is_symlink()}
            assert owners == {0}
            assert Path("/etc/shadow").stat().st_uid == 0
            can = "test -r kit.py && cat sub/own kit.py > /dev/null && ! (echo x >> kit.py) 2> /dev/null"
            can += " && ! touch new sub/new 2> /dev/null"
            command = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
            subprocess.run([*command, "sh", "-c", can], cwd=files, check=True)

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        run(test(Path(folder)))
