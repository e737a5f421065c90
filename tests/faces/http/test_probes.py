"""The probes of a real daemon: /healthz, without a token, and /readyz."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

CONFIG = """
[daemon]
http = "127.0.0.1:0"

[agents.good]
command = ["sleep", "1000"]
protocol = "none"

[agents.bad]
command = ["false"]
protocol = "none"
recovery = { max_restart_attempts = 0 }
"""


def get(daemon: DaemonProcess, path: str, *, token: bool = True) -> tuple[int, Any]:
    address = daemon.call("daemon.status", names=[])["daemon"]["http"]
    request = urllib.request.Request(f"http://{address}{path}")
    if token:
        text = (daemon.state_dir / "http.token").read_text().strip()
        request.add_header("Authorization", f"Bearer {text}")
    try:
        with urllib.request.urlopen(request, timeout=BOUND_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_probes_say_that_the_daemon_lives_and_what_is_down(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        assert get(daemon, "/healthz", token=False) == (200, {"status": "ok"})
        status, body = get(daemon, "/readyz", token=False)
        assert (status, body["error"]["name"]) == (401, "PermissionDenied")
        daemon.await_worker("good-0", lambda w: w["state"] == "Ready")
        daemon.await_worker("bad-0", lambda w: w["state"] == "Terminated")
        assert get(daemon, "/readyz") == (503, {"status": "not ready", "draining": False, "down": ["bad"]})
        daemon.call("agent.stop", names=["bad"], all=False)
        end = time.monotonic() + BOUND_S
        while (found := get(daemon, "/readyz"))[0] != 200:
            assert time.monotonic() < end, found
        assert found[1] == {"status": "ready", "draining": False, "down": []}
        status, body = get(daemon, "/nothing")
        assert (status, body["error"]["name"]) == (404, "NotFound")
