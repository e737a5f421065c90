"""A configuration as people keep it: in several files, with variables, checked as a whole before anything changes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from corral.worker.contract.errors import InvalidParams
from daemon_process import BIN, BOUND_S, DaemonProcess

SLEEPER = '[agents.{}]\nprotocol = "none"\ncommand = ["sleep", "{}"]\n'


def check(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "corrald"), "--check", f"--config={folder}/corral.toml"],
        env={"PATH": os.environ["PATH"], "HOME": "/", **environ},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_files_and_variables_are_those_of_the_daemon_and_are_read_again_at_a_reload(tmp_path: Path) -> None:
    parts = tmp_path / "conf.d"
    parts.mkdir()
    (parts / "two.toml").write_text(SLEEPER.format("two", "${SECONDS_OF_TWO}"))
    (tmp_path / ".env").write_text("SECONDS_OF_TWO=601\nSECONDS_OF_ONE=1\n")
    main = 'include = ["conf.d/*.toml"]\n' + SLEEPER.format("one", "${SECONDS_OF_ONE}")
    with DaemonProcess(tmp_path, main, environ={"SECONDS_OF_ONE": "602"}) as daemon:
        pids = {
            name: daemon.await_worker(f"{name}-0", lambda w: w["state"] == "Ready")["pid"] for name in ("one", "two")
        }
        said = {name: Path(f"/proc/{pid}/cmdline").read_bytes() for name, pid in pids.items()}
        assert said == {"one": b"sleep\x00602\x00", "two": b"sleep\x00601\x00"}
        shown = daemon.call("agent.show", name="two")
        assert shown["spec"]["command"] == ["sleep", "${SECONDS_OF_TWO}"]
        assert shown["source"] == str(parts / "two.toml")
        assert "SECONDS_OF_TWO" not in Path(f"/proc/{pids['two']}/environ").read_text()

        offline = subprocess.run(
            [str(BIN / "corral"), "--socket", "/nowhere", "schema", "team"],
            capture_output=True, text=True, timeout=BOUND_S, check=True,
        )  # fmt: skip
        assert json.loads(offline.stdout) == daemon.call("daemon.schema", document="team")

        assert daemon.corral("reload").stdout == "nothing has changed\n"
        (tmp_path / ".env").write_text("SECONDS_OF_TWO=603\n")
        assert daemon.call("daemon.reload")["changed"] == {"two": "restart"}
        (parts / "three.toml").write_text(SLEEPER.format("three", "604"))
        assert daemon.call("daemon.reload")["added"] == ["three"]
        (parts / "two.toml").unlink()
        assert daemon.call("daemon.reload")["removed"] == ["two"]

        (parts / "bad.toml").write_text(SLEEPER.format("one", "1") + "[agents.x]\ntypo = 1\n")
        with pytest.raises(InvalidParams) as refused:
            daemon.call("daemon.reload")
        assert len(refused.value.messages) == 2
        done = daemon.corral("reload")
        assert (done.returncode, done.stdout) == (2, "")
        assert [line.startswith(f"corral: cannot read {parts}/bad.toml, line ") for line in done.stderr.splitlines()] == [True, True]  # fmt: skip


def test_a_file_that_is_added_by_command_has_the_variables_of_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "added"
    folder.mkdir()
    (folder / "main.toml").write_text('include = ["other.toml"]\n' + SLEEPER.format("a", "${S}"))
    (folder / "other.toml").write_text(SLEEPER.format("b", "${FROM_FILE}") + 'instances = "${N:-2}"\n')
    (folder / ".env").write_text("FROM_FILE=601\n")
    with DaemonProcess(tmp_path, "", environ={"S": "1"}) as daemon:
        refused = daemon.corral("add", "--file", str(folder / "main.toml"))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert '"S"' in refused.stderr
        os.environ["S"] = "602"
        try:
            daemon.corral("add", "--file", str(folder / "main.toml"))
        finally:
            del os.environ["S"]
        assert daemon.call("agent.show", name="a")["spec"]["command"] == ["sleep", "602"]
        b = daemon.call("agent.show", name="b")["spec"]
        assert (b["command"], b["instances"]) == (["sleep", "601"], 2)
        daemon.stop()
        daemon.start()
        assert daemon.call("agent.show", name="b")["spec"]["command"] == ["sleep", "601"]


def test_a_check_reports_all_mistakes_and_warns_of_what_may_be_one(tmp_path: Path) -> None:
    main = tmp_path / "corral.toml"
    main.write_text(
        SLEEPER.format("a", "${S}")
        + 'environment = { P = "$HOME/x" }\n'
        + '[agents.b]\nentrypoint = "m:agent"\ntools = ["gti__*"]\n[mcp.servers.git]\ncommand = ["x"]\n'
    )
    bad = check(tmp_path)
    assert (bad.returncode, len(bad.stderr.splitlines())) == (2, 1)
    assert 'line 3: agents.a.command = "${S}"' in bad.stderr
    good = check(tmp_path, S="1")
    assert good.returncode == 0
    assert [line.split(":")[1] for line in good.stderr.splitlines()] == [" warning", " warning", " warning"]
    main.write_text("[agents.a]\n[agents.b]\ninstances = 0\n[process]\nnope = 1\n")
    worse = check(tmp_path)
    assert worse.returncode == 2
    assert [line.split(", ")[1].split(":")[0] for line in worse.stderr.splitlines()] == [
        "line 1",
        "line 2",
        "line 3",
        "line 5",
    ]
