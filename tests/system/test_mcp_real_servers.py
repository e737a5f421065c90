"""Real MCP servers, as people run them, through session and pool: listed, called, crashed, started again."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.mcp.pool.backend import Concurrency
from corral.mcp.pool.pool import Pool
from corral.mcp.protocol.catalog import Access
from corral.worker.contract.errors import CorralError, ToolFailed
from programs.mcp_process import BOUND_S, ODD, ProcessBackend, ended, life

GIT_SERVER = (sys.executable, "-m", "mcp_server_git")


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    asyncio.run(bounded())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of three commits."""
    git = ("git", "-C", str(tmp_path), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for n in range(3):
        (tmp_path / "file").write_text(f"{n}\n")
        subprocess.run([*git, "add", "file"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"change {n}"], check=True)
    return tmp_path


@asynccontextmanager
async def pooled(*backends: ProcessBackend) -> AsyncGenerator[Pool, None]:
    pool = Pool()
    for backend in backends:
        backend.pool = pool
        pool.add(backend)
    try:
        yield pool
    finally:
        await pool.close()
        for backend in backends:
            await backend.stop()


def odd(name: str = "odd", **options: Any) -> ProcessBackend:
    return ProcessBackend(name, ODD, **options)


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


def text(result: Any) -> str:
    return str(result["content"][0]["text"])


@pytest.mark.parametrize("version", ["auto", "2026-07-28"])
def test_the_git_server_speaks_both_eras_and_ends_at_eof(version: str, repository: Path) -> None:
    async def test() -> None:
        async with life(GIT_SERVER, protocol_version=version) as server:
            assert server.session.version == ("2025-11-25" if version == "auto" else version)
            log = await server.text("git_log", repo_path=str(repository), max_count=2)
            assert "change 2" in log
            assert "change 0" not in log
            server.session.close_input()
            assert await ended(server.process) == 0

    run(test())


@pytest.mark.long
def test_the_git_server_in_the_pool_is_found_called_killed_and_called_again(repository: Path) -> None:
    async def test() -> None:
        git = ProcessBackend("git", GIT_SERVER)
        async with pooled(git, odd()) as pool:
            arguments: dict[str, object] = {"repo_path": str(repository)}
            assert "change 1" in text(await pool.call("git__git_log", arguments))
            assert "change 1" in text(await pool.call("git_log", arguments))
            assert "git__git_status" in {record["name"] for record in pool.tools(Access(("git__*",)))}
            assert len(git.started) == 1

            git.started[0].kill()
            git.started[0].wait(BOUND_S)
            assert "git__git_status" in {record["name"] for record in pool.tools()}
            assert "change 1" in text(await pool.call("git__git_log", arguments))
            assert len(git.started) == 2

            branch = {**arguments, "branch_name": "side"}
            assert not (await pool.call("git__git_create_branch", branch)).get("isError")
            wrong = await pool.call("git__git_log", {"repo_path": "/nowhere"})
            assert wrong["isError"] is True

    run(test())


@pytest.mark.parametrize(
    ("tool", "max_retries", "survives"),
    [
        ("crash_once", 3, False),
        ("crash_once_reading", 3, True),
        ("crash_once_idempotent", 1, True),
        ("crash_once_reading", 0, False),
    ],
)
def test_a_call_during_which_the_server_dies_is_repeated_only_when_that_is_safe(
    tool: str, max_retries: int, survives: bool, tmp_path: Path
) -> None:
    async def test() -> None:
        backend = odd(max_retries=max_retries)
        async with pooled(backend) as pool:
            arguments: dict[str, object] = {"mark": str(tmp_path / "mark")}
            if survives:
                assert text(await pool.call(tool, arguments)) == "survived"
            else:
                error = await refusal(pool.call(tool, arguments))
                assert (error.code, error.data["server"]) == (ToolFailed.code, "odd")
                assert text(await pool.call(tool, arguments)) == "survived"
            assert len(backend.started) == 2

    run(test())


def test_the_last_of_many_deaths_is_reported() -> None:
    async def test() -> None:
        backend = odd()
        async with pooled(backend) as pool:
            for _ in range(3):
                error = await refusal(pool.call("odd__crash", {}))
                assert error.data["lost"] is True
            assert text(await pool.call("odd__echo", {"text": "hi"})) == "hi"
            assert len(backend.started) == 4
            assert (pool.stats("odd").calls, pool.stats("odd").failures) == (4, 3)

    run(test())


@pytest.mark.parametrize("concurrency", ["auto", "serial", "parallel"])
def test_many_callers_of_one_server_are_all_answered(concurrency: Concurrency) -> None:
    async def test() -> None:
        async with pooled(odd(concurrency=concurrency)) as pool:
            calls = [pool.call("odd__echo", {"text": str(n)}) for n in range(500)]
            assert [text(r) for r in await asyncio.gather(*calls)] == [str(n) for n in range(500)]

    run(test())


def test_a_server_that_hangs_holds_up_nobody_else() -> None:
    async def test() -> None:
        async with pooled(odd("stuck"), odd("well")) as pool:
            stuck = asyncio.create_task(pool.call("stuck__hold", {}))
            for n in range(20):
                assert text(await pool.call("well__echo", {"text": str(n)})) == str(n)
            assert not stuck.done()
            await pool.call("stuck__release", {})  # it is read-only and overlaps
            assert text(await stuck) == "released"

    run(test())


def test_a_tool_with_a_long_name_is_called_by_its_exposed_one() -> None:
    async def test() -> None:
        name = "t" * 70
        backend = ProcessBackend("odd", (*ODD, f"--extra={name}"))
        async with pooled(backend) as pool:
            await pool.list_servers()
            exposed = {record["tool"]: record["name"] for record in pool.tools()}[name]
            assert len(str(exposed)) == 48
            error = await refusal(pool.call(str(exposed), {}))
            assert error.data["tool"] == name  # it got there; the server knows no such tool

    run(test())
