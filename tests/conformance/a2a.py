"""The compatibility kit of A2A against an agent of corral: `python -P tests/conformance/a2a.py FOLDER [arguments of the kit]`.

FOLDER is a checkout of `a2a-tck` with its `.venv`. A small proxy adds the bearer token, for which the kit has no word, and has the
agent's card where the kit looks for it.
"""

import asyncio
import contextlib
import socket
import sys
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from daemon_process import DaemonProcess

KIT_S = 900.0

CONFIG = """
[daemon]
http = "127.0.0.1:{port}"
a2a_push = ["https://example.com", "http://localhost:*"]
[agents.sut]
entrypoint = "a2a_agent:sut"
description = "Does as the kit says"
process = {{ working_directory = "{folder}" }}
resources = {{ max_concurrent_requests = 50 }}
tasks = {{ max_attempts = 1 }}
"""

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


async def passed_on(request: web.BaseRequest, http: aiohttp.ClientSession, port: int, token: str) -> web.StreamResponse:
    path = str(request.rel_url)
    if path.startswith("/.well-known/"):
        path = f"/a2a/sut{path}"
    headers = {key: text for key, text in request.headers.items() if key.lower() not in HOP_BY_HOP}
    headers["Authorization"] = f"Bearer {token}"
    body = await request.read()
    url = f"http://127.0.0.1:{port}{path}"
    async with http.request(request.method, url, data=body or None, headers=headers) as upstream:
        answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        for name, text in upstream.headers.items():
            if name.lower() not in HOP_BY_HOP:
                answer.headers.add(name, text)
        with contextlib.suppress(ConnectionError):
            await answer.prepare(request)
            async for chunk in upstream.content.iter_any():  # a card comes in one
                await answer.write(chunk.replace(f"127.0.0.1:{port}".encode(), request.host.encode()))
            await answer.write_eof()
        return answer


async def run(kit: Path, arguments: list[str], port: int, token: str) -> int:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        runner = web.ServerRunner(web.Server(lambda one: passed_on(one, http, port, token)))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            own = f"http://127.0.0.1:{runner.addresses[0][1]}"
            python = str(kit / ".venv/bin/python")
            command = (python, "run_tck.py", "--sut-host", own, *arguments)
            process = await asyncio.create_subprocess_exec(*command, cwd=kit)
            try:
                async with asyncio.timeout(KIT_S):
                    return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        finally:
            await runner.cleanup()


def main() -> int:
    kit = Path(sys.argv[1]).absolute()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = CONFIG.format(port=port, folder=Path(__file__).parent)
    with tempfile.TemporaryDirectory(prefix="corral-a2a-") as folder, DaemonProcess(Path(folder), config) as daemon:
        token = (daemon.state_dir / "http.token").read_text().strip()
        return asyncio.run(run(kit, sys.argv[2:], port, token))


if __name__ == "__main__":
    sys.exit(main())
