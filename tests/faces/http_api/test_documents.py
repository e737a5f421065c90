"""`/openapi.json` and `/docs` of a real daemon."""

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path

import pytest

from corral.supervisor.faces.http_api.documents import PAGE
from daemon_process import BOUND_S, DaemonProcess
from node_packages import NODE

pytestmark = pytest.mark.shell


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("documents")
    with DaemonProcess(folder, 'daemon.http = "127.0.0.1:0"') as daemon:
        yield f"http://{daemon.call('daemon.status')['daemon']['http']}"


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    wanted: Mapping[str, str] = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=dict(wanted))
    try:
        with urllib.request.urlopen(request, timeout=BOUND_S) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.long
def test_the_document_is_open_and_known_again_by_its_tag(address: str) -> None:
    status, headers, body = get(f"{address}/openapi.json")
    assert status == 200
    assert headers.get_content_type() == "application/json"
    assert json.loads(body)["openapi"].startswith("3.1")
    again, _, nothing = get(f"{address}/openapi.json", If_None_Match=headers["ETag"])
    assert (again, nothing) == (304, b"")


def test_the_page_has_all_its_files_from_the_daemon(address: str) -> None:
    status, headers, page = get(f"{address}/docs")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page.decode())
    assert len(wanted) >= 3
    for path in wanted:
        found, file_headers, _ = get(address + path)
        assert found == 200, path
        assert file_headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_host(path: Path) -> None:
    text = path.read_text()
    assert "//" not in re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE).replace("*/", "")
    assert not re.search(r"<script>|<style>|\son\w+=|style=", text)


@pytest.mark.parametrize(
    "path", ["/docs/../documents.py", "/docs/%2e%2e/documents.py", "/docs/x.js", "/openapi.json/x"]
)
def test_another_path_is_not_found(address: str, path: str) -> None:
    assert get(address + path)[0] in (400, 401, 404)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_they_are_read_alone(address: str, path: str) -> None:
    status, headers, _ = get(address + path, "POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.skipif(not Path(NODE).exists(), reason="no node")
def test_the_script_of_the_page_is_read_by_node() -> None:
    done = subprocess.run([NODE, "--check", str(PAGE / "page.js")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
