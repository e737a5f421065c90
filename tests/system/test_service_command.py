"""`corral install-service` and `corral man`: the files are those of `make install`, and the pages are well formed.

What they do under a systemd is in test_systemd.py.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S

ROOT = Path(__file__).parents[2]
PAGES = {"man1/corral.1", "man5/corral.toml.5", "man8/corrald.8"}


def corral(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "corral"), *words],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("scope", ["system", "user"])
def test_a_dry_run_prints_the_files_that_make_install_writes(tmp_path: Path, scope: str) -> None:
    home = tmp_path / "home"
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    done = corral("install-service", f"--{scope}", "--dry-run", "--json", **environ)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    paths = [f"{key}={each}" for key, each in {"PREFIX": BIN.parent, "CORRALD": BIN / "corrald"}.items()]
    target = "install" if scope == "system" else "install-user"
    make = ["make", "--silent", "-C", str(ROOT / "systemd"), target, f"DESTDIR={tmp_path / 'root'}"]
    units = [] if scope == "system" else [f"USER_UNITS={home}/.config/systemd/user"]
    subprocess.run([*make, *paths, *units], check=True, env={**os.environ, **environ})
    root = tmp_path / "root"
    made = {"/" + str(p.relative_to(root)): p for p in root.rglob("*") if not p.is_dir()}
    manual = {path for path in plan["files"] if "/man/" in path}
    assert {path.partition("/man/")[2] for path in manual} == PAGES
    written = {path: each.read_text() for path, each in made.items() if not each.is_symlink()}
    expected = plan["files"] if scope == "system" else {k: v for k, v in plan["files"].items() if k not in manual}
    assert written == expected
    assert {path: os.readlink(each) for path, each in made.items() if each.is_symlink()} == plan["links"]
    assert ["systemctl", "daemon-reload"] in [[c[0], c[-1]] for c in plan["commands"]]


@pytest.mark.long
@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_nothing_is_installed_and_the_reason_is_reported() -> None:
    for words in (["install-service", "--user"], ["uninstall-service", "--user"]):
        done = corral(*words, "--json")
        assert done.returncode == 4
        assert json.loads(done.stdout)["error"]["data"]["reason"] == "no systemd"


@pytest.mark.long
def test_the_manual_pages_have_every_command_option_and_key(tmp_path: Path) -> None:
    done = corral("man", "--write", str(tmp_path))
    assert done.returncode == 0, done.stderr
    texts = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.*") if p.is_file()}
    assert set(texts) == PAGES
    plain = {name: text.replace("\\-", "-").replace("\\fB", "").replace("\\fP", "") for name, text in texts.items()}
    for words in ("corral mcp import", "corral install-service", "--selector LABEL", "CORRAL_SOCKET"):
        assert words in plain["man1/corral.1"]
    assert "--state-dir DIR" in plain["man8/corrald.8"]
    for words in ("[AGENTS.NAME]", "max_memory_bytes", "labels", "secrets_file"):
        assert words in plain["man5/corral.toml.5"]
    assert "](" not in plain["man5/corral.toml.5"]  # links are their text
    for page in ("corral", "corrald", "corral.toml"):
        assert (
            corral("man", page).stdout
            == texts[next(name for name in texts if f"/{page}." in name and name.count(".") == page.count(".") + 1)]
        )
    if shutil.which("man") and shutil.which("groff"):
        for name in texts:
            command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(tmp_path / name)]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
            assert (shown.returncode, shown.stderr) == (0, "")
