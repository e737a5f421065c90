"""Packages under a whole daemon: built and added by command, verified, listed over HTTP, kept over kill -9."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from corral.worker.contract.errors import Conflict, Corrupted, InvalidParams, NotFound
from daemon_process import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "packaged"


@pytest.fixture
def daemon(tmp_path: Path) -> DaemonProcess:
    return DaemonProcess(tmp_path, '[daemon]\nstate_dir = "state"\n')


def corral(daemon: DaemonProcess, *words: str) -> str:
    done = daemon.corral(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(daemon: DaemonProcess) -> list[Path]:
    state = daemon.call("daemon.status")["daemon"]["state_dir"]
    return sorted((Path(state) / "packages").iterdir())


def test_a_package_goes_from_a_new_folder_into_the_daemon_and_out(daemon: DaemonProcess, tmp_path: Path) -> None:
    folder, file = str(tmp_path / "greeter"), str(tmp_path / "x.corral")
    with daemon:
        corral(daemon, "package", "new", "greeter", folder)
        built = json.loads(corral(daemon, "--json", "package", "build", folder, "-o", file))
        assert corral(daemon, "package", "verify", file).startswith("greeter@0.1.0 is whole")
        added = json.loads(corral(daemon, "--json", "package", "add", file))
        assert added["digest"] == built["digest"]
        assert json.loads(corral(daemon, "--json", "package", "add", file)) == added
        corral(daemon, "package", "verify", "greeter@0.1.0")
        assert "greeter" in corral(daemon, "package", "list")
        shown = json.loads(corral(daemon, "package", "show", "greeter"))
        assert shown["agent"]["entrypoint"] == "greeter:agent"
        daemon.kill()
        daemon.start()
        assert [each.name for each in stored(daemon)] == [f"{built['digest']}.corral"]
        (path,) = stored(daemon)
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(Corrupted):
            daemon.call("package.verify", package="greeter")
        path.write_bytes(data)
        corral(daemon, "package", "rm", "greeter")
        assert stored(daemon) == []
        with pytest.raises(NotFound):
            daemon.call("package.show", package="greeter")


def test_the_command_reads_an_address_and_the_daemon_checks_the_sum(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "x.corral"
    with daemon:
        corral(daemon, "package", "build", str(EXAMPLE), "-o", str(file))
        data = file.read_bytes()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            url = f"http://127.0.0.1:{server.server_port}/x.corral"
            try:
                wrong = daemon.corral("package", "add", url, "--sha256", "0" * 64)
                assert wrong.returncode == 2
                right = hashlib.sha256(data).hexdigest()
                corral(daemon, "package", "add", url, "--sha256", right)
            finally:
                server.shutdown()
                thread.join()
        assert daemon.corral("package", "add", str(tmp_path / "nothing")).returncode == 3
        with pytest.raises(InvalidParams):
            daemon.call("package.add", data="bm90aGluZw==")
        assert len(stored(daemon)) == 1


@pytest.mark.long
def test_another_content_of_a_version_is_refused(daemon: DaemonProcess, tmp_path: Path) -> None:
    folder, file = tmp_path / "greeter", str(tmp_path / "x.corral")
    with daemon:
        corral(daemon, "package", "new", "greeter", str(folder))
        corral(daemon, "package", "build", str(folder), "-o", file)
        corral(daemon, "package", "add", file)
        (folder / "more.txt").write_text("x")
        corral(daemon, "package", "build", str(folder), "-o", file)
        done = daemon.corral("package", "add", file)
        assert done.returncode == Conflict.exit_status
