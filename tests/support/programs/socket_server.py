"""A server that is handed its sockets (LISTEN_FDS). A request is a line: seconds until the answer, which has the pid.

After SIGTERM it accepts no more, answers what it has begun, and ends. `deaf` ignores SIGTERM; `brief` ends by itself once it
has answered one request; `LIFE` in the environment is in each answer.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys


class Server:
    """Serves all sockets in one loop; nothing that was accepted is dropped."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.busy: set[asyncio.Task[None]] = set()
        self.sockets: list[socket.socket] = []

    def listen(self, fd: int, name: str) -> None:
        listening = socket.socket(fileno=fd)
        listening.setblocking(False)
        self.sockets.append(listening)
        self.loop.add_reader(listening, self._accept, listening, name)

    def _accept(self, listening: socket.socket, name: str) -> None:
        with contextlib.suppress(BlockingIOError):  # another worker has taken it
            client, _ = listening.accept()
            task = self.loop.create_task(self._serve(client, name))
            self.busy.add(task)
            task.add_done_callback(self.busy.discard)

    def stop(self) -> None:
        if self.mode == "deaf":
            return
        for each in self.sockets:
            self.loop.remove_reader(each)
            each.close()
        self.sockets.clear()
        self.ended.set()

    async def _serve(self, client: socket.socket, name: str) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        is_first = True  # a connection that was accepted is served
        with contextlib.suppress(ConnectionError):
            while is_first or not self.ended.is_set():
                line = asyncio.ensure_future(reader.readline())
                end = asyncio.ensure_future(self.ended.wait())
                awaited = {line} if is_first else {line, end}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                end.cancel()
                if not line.done():
                    line.cancel()
                    break
                if not (asked := line.result()):
                    break
                is_first = False
                await asyncio.sleep(float(asked))
                writer.write(f"{os.getpid()} {name} {os.environ.get('LIFE', '')}\n".encode())
                await writer.drain()
                if self.mode == "brief":
                    self.stop()
            writer.close()
            await writer.wait_closed()


async def main(mode: str) -> None:
    assert int(os.environ["LISTEN_PID"]) == os.getpid()
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == int(os.environ["LISTEN_FDS"])
    server = Server(mode)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    for n, name in enumerate(names):
        server.listen(3 + n, name)
    print("serving", flush=True)
    await server.ended.wait()
    while server.busy:
        await asyncio.wait(server.busy)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ""))
