"""Certificates for the tests of HTTPS."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Makes a certificate of "localhost", signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("nothing to make a certificate with")
    cert, key = folder / f"{name}.cert", folder / f"{name}.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2"
    more = ["-subj", f"/O={name}/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *words.split(), *more, *files], capture_output=True, check=True)
    key.chmod(0o600)
    return cert, key
