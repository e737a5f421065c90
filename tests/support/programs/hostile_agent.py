"""An agent that tries, one by one, to reach what is not its own; its task says what came of an attempt.

The objective of a task is the name of an attempt, its input has the places of others. The answer is {"got", "by"}: whether
it got there, and what stopped it. Standard library alone, and the protocol by hand, so that it may say what the SDK does not.
"""

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
FLOOD_BYTES = 64 * 1024 * 1024
FLOOD_MESSAGES = 400

Given = dict[str, Any]  # JSON
ATTEMPTS: dict[str, Callable[[Given], object]] = {}


class Stopped(Exception):
    """An attempt got nowhere: the text is what stopped it."""


def attempt(work: Callable[[Given], object]) -> Callable[[Given], object]:
    ATTEMPTS[work.__name__.rstrip("_").replace("_", "-")] = work
    return work


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# -- files


@attempt
def read_a_file(given: Given) -> object:
    with open(given["file"], "rb") as file:
        return file.read(100).decode()


@attempt
def write_a_file(given: Given) -> object:
    file = os.open(given["file"], os.O_WRONLY | os.O_APPEND)  # one that is there
    return os.write(file, b"x")


@attempt
def list_a_folder(given: Given) -> object:
    folder: str = given["folder"]
    return os.listdir(folder)[:3]


@attempt
def read_the_store(given: Given) -> object:
    with open(f"{given['state']}/corral.db", "rb") as file:
        return len(file.read(100))


@attempt
def read_logs(given: Given) -> object:
    return os.listdir(f"{given['state']}/logs")


@attempt
def read_another_tenant(given: Given) -> object:
    return os.listdir(f"{given['state']}/tenants/beta")


@attempt
def read_temporary_folders(given: Given) -> object:
    return os.listdir(f"{given['state']}/tmp")


@attempt
def read_the_configuration(given: Given) -> object:
    with open(given["config"], "rb") as file:
        return len(file.read(100))


@attempt
def follow_a_link(given: Given) -> object:
    link = f"{os.environ['HOME']}/link"
    with contextlib.suppress(FileExistsError):
        os.symlink(given["file"], link)
    with open(link, "rb") as file:
        return file.read(100).decode()


@attempt
def write_in_tmp(_given: Given) -> object:
    path = f"/tmp/hostile-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"x")
    os.unlink(path)
    if os.getpid() < 100:  # in a sandbox, whose /tmp is no one else's
        raise Stopped("a /tmp of its own")
    return path


@attempt
def write_in_shared_memory(_given: Given) -> object:
    path = f"/dev/shm/hostile-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"x")
    os.unlink(path)
    if os.getpid() < 100:
        raise Stopped("a /dev of its own")
    return path


# -- processes


@attempt
def read_environ(given: Given) -> object:
    with open(f"/proc/{given['pid']}/environ", "rb") as file:
        return len(file.read())


@attempt
def read_environ_of_the_daemon(given: Given) -> object:
    with open(f"/proc/{given['daemon']}/environ", "rb") as file:
        return len(file.read())


@attempt
def read_memory(given: Given) -> object:
    with open(f"/proc/{given['pid']}/mem", "rb") as file:
        return len(file.read(1))


@attempt
def signal_(given: Given) -> object:
    os.kill(given["pid"], 0)
    return "it may"


@attempt
def signal_the_daemon(given: Given) -> object:
    os.kill(given["daemon"], 0)
    return "it may"


@attempt
def ptrace(given: Given) -> object:
    checked(LIBC.ptrace(PTRACE_ATTACH, given["pid"], None, None))
    LIBC.ptrace(PTRACE_DETACH, given["pid"], None, None)
    return "it may"


@attempt
def become_root(_given: Given) -> object:
    os.setresuid(0, 0, 0)
    return os.geteuid()


# -- sockets and memory


@attempt
def control_socket(given: Given) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(given["socket"])
        sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"agent.list"}\n')
        answer = json.loads(sock.makefile().readline() or '{"error": {"name": "hung up"}}')
    if "error" in answer:
        raise Stopped(str(answer["error"].get("message", "refused"))[:80])
    return answer["result"]


@attempt
def inherited_sockets(_given: Given) -> object:
    found: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(fd) > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                found.append(fd)
    if not found:
        raise Stopped("no socket is inherited")
    return found


@attempt
def abstract_socket(given: Given) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(f"\0{given['name']}")
    return "connected"


@attempt
def posix_shared_memory(given: Given) -> object:
    with open(f"/dev/shm/{given['name']}", "rb") as file:
        return file.read(100).decode()


@attempt
def system_v_shared_memory(given: Given) -> object:
    return checked(LIBC.shmget(given["key"], 4096, 0o600))


# -- messages


@attempt
def delegate_to_the_owner(_given: Given) -> object:
    return ask("task/delegate", agent="bystander", objective="x")


@attempt
def delegate_to_another_tenant(_given: Given) -> object:
    return ask("task/delegate", agent="beta/bystander", objective="x")


@attempt
def delegate_to_a_worker(_given: Given) -> object:
    return ask("task/delegate", agent="beta/bystander-0", objective="x")


@attempt
def delegate_by_capability(_given: Given) -> object:
    return ask("task/delegate", capability="of-beta", objective="x")


@attempt
def publish_a_reserved_event(_given: Given) -> object:
    return ask("event/publish", type="task.finished", data={"task": "x"})


@attempt
def call_a_tool_of_another(_given: Given) -> object:
    return ask("tools/call", name="beta/tools__x", arguments={})


@attempt
def read_memory_of_another(_given: Given) -> object:
    found = ask("memory/get", key="secret", session="of-beta")
    if found in (None, {"value": None}):
        raise Stopped("it has none of this key")
    return found


@attempt
def forge_progress(given: Given) -> object:
    send({"method": "progress", "params": {"task": given["task"], "progress": 0.99, "message": "forged"}})
    send({"method": "usage", "params": {"task": given["task"], "tokens": 1000000, "cost_cents": 9e9}})
    raise Stopped("seen in the record of the task")


@attempt
def forge_a_result(given: Given) -> object:
    for number in range(200):
        send({"id": f"{given['generation']}-{number}", "result": {"output": "forged"}})
    raise Stopped("seen in the record of the task")


# -- floods


@attempt
def flood_the_log(_given: Given) -> object:
    line = b"x" * 1023 + b"\n"
    for _ in range(FLOOD_BYTES // 1024):
        os.write(2, line)
    raise Stopped("seen in the size of the log")


@attempt
def flood_the_store(_given: Given) -> object:
    for number in range(FLOOD_MESSAGES):
        ask("memory/put", key=f"k{number}", value="x" * 200_000)
    return "all were taken"


@attempt
def flood_the_queue(_given: Given) -> object:
    for _ in range(FLOOD_MESSAGES):
        send({"id": f"q{_}", "method": "task/delegate", "params": {"agent": "idle", "objective": "hang"}})
    refused = 0
    for _ in range(FLOOD_MESSAGES):
        answer = receive()
        if "error" in answer:
            refused += 1
            if refused >= FLOOD_MESSAGES // 4:
                raise Stopped(str(answer["error"]["message"])[:80])
    return "all were taken"


@attempt
def fork(_given: Given) -> object:
    children: list[int] = []
    try:
        for _ in range(2000):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        raise Stopped(f"{errno.errorcode.get(error.errno or 0)} after {len(children)} forks") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return len(children)


@attempt
def hang(_given: Given) -> object:
    signal.pause()
    return None


# -- the protocol

numbers = iter(range(1, 1 << 30))


def send(message: Given) -> None:
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def receive() -> Given:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    found: Given = json.loads(line)
    return found


def ask(method: str, **params: object) -> object:
    number = f"h{next(numbers)}"
    send({"id": number, "method": method, "params": params})
    while (answer := receive()).get("id") != number or "method" in answer:
        handle(answer)
    if "error" in answer:
        raise Stopped(str(answer["error"]["message"])[:100])
    return answer["result"]


def handle(message: Given) -> None:
    method = message.get("method")
    params: Given = message.get("params") or {}
    if "id" not in message:
        if method == "shutdown":
            sys.exit(0)
        return
    result: Given = {}
    if method == "initialize":
        result = {"protocolVersion": "1", "name": "hostile", "version": "1", "capabilities": []}
    elif method == "task/run":
        result = {"output": outcome(params)}
    elif method is None:
        return
    send({"id": message["id"], "result": result})


def outcome(params: Given) -> Given:
    try:
        got = ATTEMPTS[params["objective"]](params.get("input") or {})
    except Stopped as stopped:
        return {"got": False, "by": str(stopped)}
    except OSError as error:
        return {"got": False, "by": errno.errorcode.get(error.errno or 0, str(error))}
    return {"got": True, "by": repr(got)[:100]}


if __name__ == "__main__":
    while True:
        handle(receive())
