"""Mistakes of a new author: an agent that cannot serve is not Ready, and its status says where and what to write."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

FILES = {
    "calendar.py": """
import calendar as standard
from email.utils import formatdate
from corral.worker import Agent
mine = Agent()
@mine.task
def run(task):
    if task.objective == "fail":
        return {}["x"]
    return {"days": standard.monthrange(2024, 2)[1], "at": formatdate(0)[:3]}
mine.run()
""",
    "bare.py": "from corral.worker import Agent\nagent = Agent()\nagent.run()\n",
    "wrong.py": """from corral.worker import Agent
agent = Agent()
@agent.task
async def run():
    return 1
agent.run()
""",
    "hook.py": """from corral.worker import Agent
agent = Agent()
@agent.task
async def run(task): ...
@agent.checkpoint
def save(state): ...
agent.run()
""",
    "synt.py": "import os\n\n\ndef run(:\n",
    "keyed.py": 'import os\nKEY = os.environ["OPENAI_API_KEY"]\n',
    "script.py": 'print("done")\n',
    "importer.py": "import bare\n",
}

RETRIED = "restart-limit"
FAILED = "exec-failed"

MISTAKES = {
    "name": ('entrypoint = "calendar:agent"', RETRIED, ["calendar.py", "it has mine"]),
    "bare": ('entrypoint = "bare:agent"', FAILED, ["bare.py, line 2", "@agent.task"]),
    "barecold": ('command = ["python", "bare.py"]', FAILED, ["bare.py, line 2", "@agent.task"]),
    "wrong": ('entrypoint = "wrong:agent"', FAILED, ["wrong.py, line 3", "async def run(task):"]),
    "hook": ('entrypoint = "hook:agent"', FAILED, ["hook.py, line 5", "def save():"]),
    "synt": ('entrypoint = "synt:agent"', RETRIED, ["SyntaxError", "synt.py, line 4"]),
    "syntcold": ('command = ["python", "synt.py"]', RETRIED, ["SyntaxError", "synt.py, line 4"]),
    "keyed": ('entrypoint = "keyed:agent"', RETRIED, ["keyed.py, line 2", "inherit_environment"]),
    "script": ('command = ["python", "script.py"]', RETRIED, ['protocol = "none"']),
    "importer": ('command = ["python", "importer.py"]', RETRIED, ["bare is imported"]),
    "shell": ('command = ["cd", "/tmp", "&&", "ls"]', FAILED, ['["sh", "-c", "cd /tmp && ls"]']),
    "home": ('command = ["~/run"]', FAILED, ["nothing expands ~"]),
    "dash": ('entrypoint = "bare:agent"\npython = "/bin/sh"', RETRIED, ["no Python interpreter"]),
}
"""Of each agent: its keys, the result of its last exit, and what the message has to name."""

MENDED = "bare"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    agents = "\n".join(f"[agents.{name}]\n{keys}" for name, (keys, _, _) in MISTAKES.items())
    own = '\n[agents.standard]\nentrypoint = "calendar:mine"\n'
    recovery = '[recovery]\nmax_restart_attempts = 1\nrestart_backoff_base = "10ms"\n'
    with DaemonProcess(folder, recovery + agents + own) as daemon:
        yield daemon


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_named_with_its_place_and_its_remedy(daemon: DaemonProcess, name: str) -> None:
    _, result, words = MISTAKES[name]
    worker = daemon.await_worker(
        f"{name}-0", lambda status: status["last_exit"] and status["last_exit"]["result"] in (RETRIED, FAILED)
    )
    assert (worker["state"], worker["last_exit"]["result"]) == ("Terminated", result)
    message = worker["last_exit"]["message"]
    assert [word for word in words if word not in message] == []
    shown = daemon.corral("status", name).stdout
    assert shown.count(words[0]) == 1, "it is told once"


def test_an_agent_may_have_the_name_of_a_module_of_the_standard_library(daemon: DaemonProcess) -> None:
    done = daemon.call("task.run", agent="standard", objective="count")
    assert done["output"] == {"days": 29, "at": "Thu"}


def test_an_exception_in_a_handler_is_reported_with_its_place(daemon: DaemonProcess) -> None:
    shown = daemon.corral("run", "standard", "fail")
    assert shown.returncode == 1
    assert "calendar.py, line 9" in shown.stderr
    assert "corral logs standard" in shown.stderr


def test_a_mended_file_starts_what_had_failed(daemon: DaemonProcess) -> None:
    path = daemon.folder / "bare.py"
    handler = "@agent.task\ndef run(task): return 1\n"
    path.write_text(FILES["bare.py"].replace("agent.run()", handler + "agent.run()"))
    daemon.await_worker(f"{MENDED}-0", lambda status: status["state"] == "Ready")


def test_importing_a_module_that_ends_in_run_never_ends_the_importer(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(FILES["bare.py"])
    code = "import bare; print(bare.agent)"
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Agent(None)\n", "")
