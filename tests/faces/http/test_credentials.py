"""HTTPS of a real daemon: where others may reach it, with which certificate, and one that was renewed."""

import http.client
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from corral.supervisor.faces.http.credentials import read_tls
from corral.supervisor.faces.http.listener import HANDSHAKE_S
from corral.worker.contract.errors import InvalidParams
from daemon_process import BIN, BOUND_S, DaemonProcess
from tls_files import certificate

pytestmark = pytest.mark.shell


def config(cert: Path, key: Path) -> str:
    return (
        f'[daemon]\nhttp = "0.0.0.0:0"\nhttp_tls_cert = "{cert}"\nhttp_tls_key = "{key}"\n'
        'http_hosts = ["corral.example.org"]\n'
    )


def place(daemon: DaemonProcess) -> tuple[str, int]:
    address = str(daemon.call("daemon.status", names=[])["daemon"]["http"])
    return "localhost", int(address.rpartition(":")[2])


def status(daemon: DaemonProcess, cert: Path, host: str) -> int:
    """The status of the probe, asked over TLS by a client that trusts `cert` alone."""
    context = ssl.create_default_context(cafile=str(cert))
    connection = http.client.HTTPSConnection(*place(daemon), context=context, timeout=BOUND_S)
    try:
        connection.request("GET", "/healthz", headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def test_with_a_certificate_others_are_served_and_a_renewed_one_counts_at_once(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    with DaemonProcess(tmp_path, config(cert, key)) as daemon:
        assert status(daemon, cert, "corral.example.org") == 200
        assert status(daemon, cert, "example.org") == 403
        (line,) = (f for f in daemon.call("daemon.doctor")["findings"] if f["topic"] == "http")
        assert line["verdict"] == "ok"
        assert "https://0.0.0.0:" in line["found"]
        old = cert.read_bytes()
        trusted = tmp_path / "old.cert"
        trusted.write_bytes(old)
        cert.write_text("no certificate")
        daemon.call("daemon.reload")
        assert status(daemon, trusted, "corral.example.org") == 200  # the one before stays
        new_cert, new_key = certificate(tmp_path, "two")
        new_cert.replace(cert)
        new_key.replace(key)
        daemon.call("daemon.reload")
        assert status(daemon, cert, "corral.example.org") == 200
        with pytest.raises(ssl.SSLError):
            status(daemon, trusted, "corral.example.org")


def test_who_speaks_no_tls_or_an_old_one_is_not_served_and_not_logged(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    with DaemonProcess(tmp_path, config(cert, key)) as daemon:
        for data in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01" * 99):
            with socket.create_connection(place(daemon), timeout=BOUND_S) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(100)
            assert not answer.startswith(b"HTTP")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(place(daemon), timeout=BOUND_S) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        assert status(daemon, cert, "corral.example.org") == 200
        assert daemon.log.read_text().rpartition(" ready ")[2].count("\n") == 1


@pytest.mark.long
def test_handshakes_that_never_end_keep_nobody_out(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    with DaemonProcess(tmp_path, config(cert, key)) as daemon:
        open_ones = [socket.create_connection(place(daemon), timeout=BOUND_S) for _ in range(600)]
        try:
            daemon.call("daemon.ping")
            begin = time.monotonic()
            assert status(daemon, cert, "corral.example.org") == 200
            assert time.monotonic() - begin < HANDSHAKE_S
        finally:
            for each in open_ones:
                each.close()


@pytest.mark.parametrize(
    "keys",
    [
        'http = "0.0.0.0:0"',
        'http = "127.0.0.1:0"\nhttp_tls_cert = "CERT"',
        'http = "127.0.0.1:0"\nhttp_tls_key = "KEY"',
        'http = "127.0.0.1:0"\nhttp_tls_cert = "CERT"\nhttp_tls_key = "FOLDER/none"',
        'http = "127.0.0.1:0"\nhttp_tls_cert = "KEY"\nhttp_tls_key = "CERT"',
        'http = "127.0.0.1:0"\nhttp_hosts = ["a b"]',
    ],
)
def test_a_daemon_that_could_not_serve_safely_does_not_start(tmp_path: Path, keys: str) -> None:
    cert, key = certificate(tmp_path, "one")
    for word, path in (("CERT", cert), ("KEY", key), ("FOLDER", tmp_path)):
        keys = keys.replace(word, str(path))
    file = tmp_path / "corral.toml"
    file.write_text(f"[daemon]\n{keys}\n")
    words = ["--config", str(file), "--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state")]  # fmt: skip
    done = subprocess.run([BIN / "corrald", *words], capture_output=True, text=True, timeout=BOUND_S, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "daemon.http" in done.stderr or "http_" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    other = certificate(tmp_path, "two")[1]
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    locked = tmp_path / "locked.key"
    words = ["openssl", "ec", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(words, capture_output=True, check=True)
    assert read_tls(None, None) is None
    assert read_tls(str(cert), str(key)) is not None
    for pair, named in (
        ((None, str(key)), "daemon.http_tls_cert"),
        ((str(cert), None), "daemon.http_tls_key"),
        ((str(tmp_path / "none"), str(key)), "daemon.http_tls_cert"),
        ((str(tmp_path), str(key)), "daemon.http_tls_cert"),
        ((str(cert), str(tmp_path / "none")), "daemon.http_tls_key"),
        ((str(cert), str(open_key)), "daemon.http_tls_key"),
        ((str(cert), str(other)), "daemon.http_tls_cert"),
        ((str(cert), str(locked)), "daemon.http_tls_cert"),
    ):
        with pytest.raises(InvalidParams) as caught:
            read_tls(*pair)
        assert caught.value.data["key"] == named


def test_behind_a_proxy_any_address_and_any_host_are_served(tmp_path: Path) -> None:
    keys = '[daemon]\nhttp = "0.0.0.0:0"\nhttp_behind_proxy = true\n'
    with DaemonProcess(tmp_path, keys) as daemon:
        connection = http.client.HTTPConnection(*place(daemon), timeout=BOUND_S)
        headers = {"Host": "corral.example.org", "X-Forwarded-Host": "evil.example.org"}
        connection.request("GET", "/healthz", headers=headers)
        assert connection.getresponse().status == 200
        connection.close()
