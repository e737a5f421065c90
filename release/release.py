"""Makes the files of a release from the last commit, in dist/, and checks all that can be checked before an upload.

`make dist` is wheel, sdist, constraints with hashes and a list of all parts (SBOM); `make deb` a Debian package, for any
architecture and version of Python that the libraries have wheels for; `make image` a container image of it. `make release-check` makes
each twice where it has to be the same, installs each from nothing, and runs an agent with it. It uploads nothing.
"""

import argparse
import filecmp
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
WORK = ROOT / "build" / "release"
TOOLS = Path(sys.executable).parent
DEBIAN = ROOT / "release" / "debian"

PREFIX = Path("opt/corral")
"""Where the Debian package has its environment, below the root."""

PLATFORMS = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""Debian's name of an architecture -> that of its wheels."""

COMPLETIONS = {
    "bash": "bash-completion/completions/corral",
    "zsh": "zsh/vendor-completions/_corral",
    "fish": "fish/vendor_completions.d/corral.fish",
}
"""Shell -> the place of its completions below /usr/share."""

INSTALLATIONS = {
    "pip": ("{python} -m venv {home}", "{home}/bin/pip install --quiet {wheel}"),
    "pip-hashes": (
        "{python} -m venv {home}",
        "{home}/bin/pip install --quiet --require-hashes --requirement {constraints}",
        "{home}/bin/pip install --quiet --no-deps {wheel}",
    ),
    "pipx": ("{tools}/pipx install --python {python} {wheel}",),
    "uv-tool": ("{tools}/uv tool install --quiet --python {python} {wheel}",),
}
"""Way to install -> its commands, each into {home}/bin."""

OTHER_SYSTEMS = ("windows", "macos")

SCHEMA = ROOT / "docs/reference/corral.schema.json"

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def main() -> None:
    """Runs one target of the Makefile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["dist", "deb", "image", "release-check"])
    parser.add_argument("--python", metavar="3.N", help="of the Debian release; default: that of python3 in /usr/bin")
    parser.add_argument("--arch", choices=PLATFORMS, default="amd64")
    parser.add_argument("--base", default="debian:bookworm-slim", help="image of the same Debian release")
    options = parser.parse_args()
    os.umask(0o022)
    os.environ["SOURCE_DATE_EPOCH"] = git("log", "-1", "--format=%ct")
    if options.target == "release-check":
        sys.exit(check(options.base))
    dist(DIST)
    if options.target != "dist":
        package = deb(options.python or system_python(), options.arch)
        if options.target == "image":
            image(package, options.base)


def run(*command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end and returns what it prints; its errors are ours."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"cannot run {' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def git(*words: str) -> str:
    """Returns what git answers about this repository."""
    return run("git", *words).strip()


def fresh(folder: Path) -> Path:
    """Returns the folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- what is made ---------------------------------------------------------------------------------


def build(target: Path) -> Path:
    """Makes wheel and sdist from the last commit, and returns its files."""
    source = fresh(WORK / "source")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(source, filter="tar")
    run(sys.executable, "-m", "build", "--outdir", target, source)
    return source


def dist(target: Path) -> None:
    """Makes wheel, sdist, constraints and SBOM."""
    source = build(fresh(target))
    (wheel,) = target.glob("*.whl")
    constraints = target / "constraints.txt"
    every = ("--generate-hashes", "--universal", "--python-version", PROJECT["requires-python"].lstrip(">="))
    plain = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet")
    run(TOOLS / "uv", "pip", "compile", *every, *plain, source / "pyproject.toml", "--output-file", constraints)
    environment = fresh(WORK / "environment")
    run(TOOLS / "uv", "venv", "--quiet", "--python", sys.executable, "--clear", environment)
    install = (TOOLS / "uv", "pip", "install", "--quiet", "--python", environment / "bin/python")
    run(*install, "--require-hashes", "--requirement", constraints)
    run(*install, "--no-deps", wheel)
    parts = (
        "--output-reproducible",
        "--pyproject",
        source / "pyproject.toml",
        "--output-file",
        target / "corral.cdx.json",
    )
    run(TOOLS / "cyclonedx-py", "environment", *parts, environment / "bin/python")


def system_python() -> str:
    """Returns the version of Debian's own Python, as in `3.11`."""
    return run("/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()


def deb(python: str, arch: str) -> Path:
    """Makes the Debian package of what `dist` has made, and returns it."""
    root = fresh(WORK / "deb")
    install_tree(root, python, arch)
    version = f"{version_of_wheel()}+py{python}"
    return packed(root, WORK / "source", WORK / "environment/bin/corral", DIST, version, python, arch)


def packed(root: Path, source: Path, corral: Path, target: Path, version: str, python: str, arch: str) -> Path:
    """Adds to an environment in `root` what belongs around it, packs it, and returns the package.

    `corral` writes the manual pages and completions, and runs on this machine.
    """
    units = (f"DESTDIR={root}", "LOCAL=/usr", "UNITS=/usr/lib/systemd/system", f"CORRAL={corral}")
    run("make", "--silent", "-C", source / "systemd", "install", *units)
    (root / "usr/bin/corrald").symlink_to("/" / PREFIX / "bin/corrald")
    for page in [*(root / "usr/share/man").rglob("*.[158]")]:
        zipped(page, page.read_bytes())
        page.unlink()
    for shell, path in COMPLETIONS.items():
        (root / "usr/share" / path).parent.mkdir(parents=True)
        (root / "usr/share" / path).write_text(run(corral, "completion", shell))
    about = root / "usr/share/doc/corral"
    about.mkdir(parents=True)
    licence = "".join(f" {line}\n" if line else " .\n" for line in (source / "LICENSE").read_text().splitlines()[4:])
    (about / "copyright").write_text((DEBIAN / "copyright").read_text().replace("@LICENSE@\n", licence))
    zipped(about / "changelog", (source / "CHANGELOG.md").read_bytes())
    for parts in target.glob("*.cdx.json"):
        zipped(about / parts.name, parts.read_bytes())
    control_files(root, {"@VERSION@": version, "@ARCH@": arch, "@PYTHON@": python})
    package = target / f"corral_{version}_{arch}.deb"
    run("dpkg-deb", "--root-owner-group", "--threads-max=1", "-Zzstd", "--build", root, package)
    return package


def install_tree(root: Path, python: str, arch: str) -> None:
    """Puts an environment of this Python into `root`: its interpreter is Debian's, and no program of the target runs here."""
    prefix = root / PREFIX
    site = prefix / f"lib/python{python}/site-packages"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python3").symlink_to(f"/usr/bin/python{python}")
    (prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    install = (TOOLS / "uv", "pip", "install", "--quiet", "--target", site, "--python-version", python)
    built = ("--python-platform", PLATFORMS[arch], "--only-binary", ":all:")
    run(*install, *built, "--require-hashes", "--requirement", DIST / "constraints.txt")
    # corral deploys packages by pip where uv is missing.
    run(*install, *built, "--no-deps", next(DIST.glob("*.whl")), "pip")
    shutil.rmtree(site / "bin")
    (site / ".lock").unlink(missing_ok=True)
    for name, where in PROJECT["scripts"].items():
        module, _, function = where.partition(":")
        script = prefix / "bin" / name
        script.write_text(
            f"#!/{PREFIX}/bin/python3\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        )
        script.chmod(0o755)


def zipped(path: Path, text: bytes) -> None:
    """Writes a file with the ending .gz, without a time in it."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text, mtime=0))


def version_of_wheel() -> str:
    """Returns the version in the name of the wheel."""
    return next(DIST.glob("*.whl")).name.split("-")[1]


def control_files(root: Path, words: Mapping[str, str]) -> None:
    """Writes DEBIAN/: control, the scripts, the list of files that an administrator edits, and the digests."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    folder = root / "DEBIAN"
    folder.mkdir()
    digests = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    (folder / "md5sums").write_text("".join(digests))
    (folder / "conffiles").write_text("/etc/corral/corral.toml\n")
    control = (DEBIAN / "control").read_text()
    kib = sum(path.stat().st_size for path in files) // 1024
    for word, value in {**words, "@KIB@": str(kib)}.items():
        control = control.replace(word, value)
    (folder / "control").write_text(control)
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(DEBIAN / script, folder)
        (folder / script).chmod(0o755)


def image(package: Path, base: str) -> str:
    """Makes the container image from the Debian package, and returns its name."""
    engine = shutil.which("podman") or shutil.which("docker")
    if engine is None:
        raise SystemExit("cannot make the image: there is neither podman nor docker")
    context = fresh(WORK / "image")
    shutil.copy(package, context / "corral.deb")
    shutil.copy(ROOT / "release/Containerfile", context)
    name = f"corral:{version_of_wheel()}"
    run(engine, "build", "--file", context / "Containerfile", "--build-arg", f"BASE={base}", "--tag", name, context)
    return name


# --- what is checked ------------------------------------------------------------------------------


def check(base: str) -> int:
    """Makes everything, and checks each thing; returns the exit status."""
    steps = {
        "commit": committed,
        "dist": same_bytes,
        "metadata": metadata,
        "systems": other_systems,
        **{way: lambda way=way: installed(way) for way in INSTALLATIONS},
        "pages": pages,
        "deb": debian,
        "image": lambda: container(base),
    }
    failed = 0
    for name, step in steps.items():
        started = time.monotonic()
        try:
            mark, told = "ok", step()
        except Skipped as reason:
            mark, told = "skipped", str(reason)
        except SystemExit as error:
            mark, told = "FAILED", str(error)
            failed += 1
        print(f"{mark:8} {name:9} {time.monotonic() - started:6.1f} s  {told}", flush=True)
    return 1 if failed else 0


class Skipped(Exception):
    """This machine lacks something for a check."""


def committed() -> str:
    """The commit is all that there is, and the list of changes has its version."""
    if changed := git("status", "--porcelain"):
        raise SystemExit(f"not committed:\n{changed}")
    (version,) = re.findall(r'^__version__ = "(.*)"', (ROOT / "src/corral/__init__.py").read_text(), re.MULTILINE)
    if f"## {version}\n" not in (ROOT / "CHANGELOG.md").read_text():
        raise SystemExit(f'CHANGELOG.md has no heading "## {version}"')
    tag = git("tag", "--points-at", "HEAD") or "no tag yet"
    return f"{version} at {git('rev-parse', '--short=12', 'HEAD')}, {tag}"


def same_bytes() -> str:
    """Two builds, under another umask, have the same bytes."""
    dist(DIST)
    os.umask(0o077)
    build(fresh(WORK / "again"))
    os.umask(0o022)
    made = sorted(path for path in DIST.iterdir() if path.suffix in (".whl", ".gz"))
    if differing := [path.name for path in made if not filecmp.cmp(path, WORK / "again" / path.name, shallow=False)]:
        raise SystemExit(f"another build differs: {differing}")
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in made) + ": twice the same bytes"


def metadata() -> str:
    """What an index checks, and what belongs into a wheel."""
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run(TOOLS / "twine", "check", "--strict", wheel, sdist)
    run(TOOLS / "check-wheel-contents", wheel)
    parts = json.loads((DIST / "corral.cdx.json").read_text())["components"]
    return f"twine check --strict, check-wheel-contents; {len(parts)} parts in the SBOM"


def other_systems() -> str:
    """The wheel installs elsewhere, where its commands say in one sentence that they need Linux."""
    (wheel,) = DIST.glob("*.whl")
    for system in OTHER_SYSTEMS:
        where = ("--python-platform", system, "--target", WORK / system, "--only-binary", ":all:")
        run(TOOLS / "uv", "pip", "install", "--dry-run", *where, wheel)
    return f"installs on {' and '.join(OTHER_SYSTEMS)}"


def installed(way: str) -> str:
    """Installs the wheel from nothing, and runs the agent of the README with it."""
    home = fresh(WORK / way)
    (wheel,) = DIST.glob("*.whl")
    words = {
        "wheel": wheel,
        "tools": TOOLS,
        "home": home,
        "python": sys.executable,
        "constraints": DIST / "constraints.txt",
    }
    environ = {"HOME": str(home), "PIPX_HOME": str(home / "pipx"), "PIPX_BIN_DIR": str(home / "bin"),
               "UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin"), "PIPX_DEFAULT_BACKEND": "pip"}  # fmt: skip
    started = time.monotonic()
    for command in INSTALLATIONS[way]:
        run(*(word.format(**words) for word in command.split()), cwd=home, environ=environ)
    took = time.monotonic() - started
    size = sum(path.lstat().st_size for path in home.rglob("*")) / 1e6
    version = run(home / "bin/corral", "--version").strip()
    first_agent(home / "bin", fresh(home / "project"))
    return f"{version} in {took:.1f} s, {size:.0f} MB; the first agent {time.monotonic() - started:.1f} s after nothing"


def first_agent(programs: Path, folder: Path) -> None:
    """Does what the README does first."""
    for name, text in re.findall(
        r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    ):
        (folder / name).write_text(text)
    socket = ("--socket", folder / "corral.sock")
    run(programs / "corrald", "--config", "corral.toml", *socket, "--detach", cwd=folder)
    try:
        told = run(programs / "corral", *socket, "run", "greeter", "say hello", "--input", "world", cwd=folder)
    finally:
        run(programs / "corral", *socket, "daemon", "stop", cwd=folder)
    if told != "hello, world\n":
        raise SystemExit(f"the first agent said {told!r}")


def pages() -> str:
    """The site builds; links lead somewhere; the interfaces are those that were promised; the file for editors is new."""
    run(sys.executable, "-P", "-m", "mkdocs", "build", "--strict")
    if json.loads(run(TOOLS / "corral", "schema")) != json.loads(SCHEMA.read_text()):
        raise SystemExit(f"corral schema | python -m json.tool --indent 1 > {SCHEMA.relative_to(ROOT)}")
    tests = ("tests/docs/test_links.py", "tests/docs/test_stability.py", "tests/api/schema/test_schema.py")
    return run(sys.executable, "-P", "-m", "pytest", "-q", *tests).strip().splitlines()[-1]


def debian() -> str:
    """The Debian package is installed, started, removed and purged in a root file system of its own under a systemd."""
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        raise Skipped("needs root and debootstrap")
    package = deb(system_python(), "amd64")
    before = package.read_bytes()
    if deb(system_python(), "amd64").read_bytes() != before:
        raise SystemExit(f"another build of {package.name} differs")
    root = WORK / "debian"
    if not (root / "usr/bin/dpkg").exists():
        release = run("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").strip()
        needed = "--include=systemd,systemd-sysv,dbus,iproute2,python3,man-db"
        run("debootstrap", "--variant=minbase", needed, release, fresh(root))
    environ = {"CORRAL_DEB": str(package), "CORRAL_DEB_ROOT": str(root)}
    test = (sys.executable, "-P", "-m", "pytest", "-q", "-rs", "tests/system/test_debian_package.py")
    told = run(*test, environ=environ).strip().splitlines()[-1]
    return f"{package.name} {package.stat().st_size / 1e6:.1f} MB, twice the same bytes: {told}"


def container(base: str) -> str:
    """The image runs as an ordinary user on a read-only root, and an agent in it answers."""
    engine = shutil.which("podman") or shutil.which("docker")
    if engine is None:
        raise Skipped("needs podman or docker")
    name = image(deb(system_python(), "amd64"), base)
    pid = run(engine, "run", "--detach", "--network=none", "--read-only", "--tmpfs=/tmp", name).strip()
    try:
        inside = (engine, "exec", pid)
        run(*inside, "corral", "add", "sleeper", "--protocol", "none", "--", "sleep", "86399")
        told = run(*inside, "sh", "-c", "id -u; touch /x 2>&1; corral status --json").split("\n")
        run(engine, "stop", pid)
    finally:
        run(engine, "rm", "--force", "--volumes", pid)
    if told[0] != "10001" or "Read-only" not in told[1] or '"sleeper"' not in told[2]:
        raise SystemExit(f"in the container: {told}")
    return f"{name}: uid 10001, a read-only root, an agent runs"


if __name__ == "__main__":
    main()
