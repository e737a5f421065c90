"""The demo on a real repository: what the crew reports is what git says, and nothing of it is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import pytest

CREW = Path(__file__).resolve().parents[2] / "examples" / "crew"
BIN = Path(sys.executable).parent
BOUND_S = 60

Report = dict[str, Any]  # the demo's JSON: its shape is what is tested


# -- a repository with what repositories have


class Person(NamedTuple):
    name: str
    email: str


ANN = Person("Ann Ümlaut", "ann@example.org")
BOB = Person('Bob "Quote" O\'Neil', "bob@example.org")
EVE = Person("Eve", "eve@example.org")

# What a parser of lines may take for something else: headers, hunks, other line ends, half a last line.
TRICKY = "-- old\n++ new\n@@ -1 +1 @@\n\n--- a/x\n+++ b/x\nform\ffeed\x85\u2028sep\r\nno newline at end"
MESSAGE = f"""A message like a log

Commit: {"0" * 40}
Author: nobody
Date: 2001-01-01 00:00:00+00:00
Message: not a commit

--- a/not
+++ b/a diff
"""


class Repository:
    """Made by git commands alone, a day between commits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.day = 0
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, stdin: bytes = b"", person: Person = ANN) -> str:
        date = f"2024-{1 + self.day // 28:02}-{1 + self.day % 28:02}T23:30:00 -0700"
        settled = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        for role in ("AUTHOR", "COMMITTER"):
            settled |= {f"GIT_{role}_NAME": person.name, f"GIT_{role}_EMAIL": person.email}
            settled |= {f"GIT_{role}_DATE": date}
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(self.path), *arguments],
            input=stdin,
            capture_output=True,
            check=True,
            env=settled,
        )
        return done.stdout.decode(errors="replace")

    def commit(self, person: Person, files: Mapping[str | bytes, bytes], message: str = "") -> None:
        for name, content in files.items():
            target = os.path.join(os.fsencode(self.path), os.fsencode(name))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
        self.git("add", "--all")
        self.day += 1
        words = message or f"commit of day {self.day}"
        self.git("commit", "--quiet", "--file=-", stdin=words.encode(), person=person)


def lines(count: int, word: str) -> bytes:
    return b"".join(b"%s %d\n" % (word.encode(), number) for number in range(count))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("made") / "a 'repository'")
    readme = b"# Crew\n\nA project that is read by a crew, see [how](docs/how.md).\n\n[gone](docs/gone.md)\n"
    made.commit(ANN, {"README.md": readme, "LICENSE": b"free\n", "core.py": lines(40, "ann")}, MESSAGE)
    made.commit(ANN, {"docs/how.md": b"Start with core.py and `with space.txt`.\n", "empty": b""})
    odd: dict[str | bytes, bytes] = {
        "with space.txt": lines(9, "space"),
        'quo"te.txt': lines(3, "quote"),
        "t\tab": lines(2, "tab"),
        "new\nline": lines(5, "newline"),
        "ünïcode/日本.txt": lines(4, "unicode"),
        " leading": b"x\n",
        b"latin\xe9": b"latin\n",
        "tricky": TRICKY.encode(),
        "latin1.txt": "é\n".encode("latin-1") * 3,
    }
    made.commit(BOB, odd)
    made.commit(BOB, {"picture.bin": bytes(range(256)) * 8, "core.py": lines(40, "ann") + lines(2, "bob")})
    (made.path / "core.py").chmod(0o755)
    os.symlink("core.py", made.path / "link")
    made.commit(ANN, {"tricky": "\n".join(reversed(TRICKY.split("\n"))).encode()})
    made.git("mv", "with space.txt", "moved here.txt")
    made.commit(EVE, {"moved here.txt": lines(10, "space"), "picture.bin": bytes(range(255)) * 8})
    made.git("checkout", "--quiet", "-b", "side", "HEAD~3")
    made.commit(EVE, {"side/one.py": lines(30, "eve"), "core.py": lines(39, "ann")})
    made.commit(BOB, {"side/one.py": lines(31, "eve")}, "")
    made.git("checkout", "--quiet", "main")
    made.git("merge", "--quiet", "--no-commit", "--no-ff", "-s", "ours", "side")
    made.commit(ANN, {"evil": lines(7, "only in the merge")}, "Merge, and something of its own")
    made.git("rm", "--quiet", 'quo"te.txt')
    for number in range(12):
        person = (ANN, BOB, EVE)[number % 3]
        made.commit(person, {"hot.py": lines(number + 1, person.name), f"day/{number}": b"1\n"})
    made.git("commit", "--quiet", "--allow-empty", "-m", "none")
    return made


# -- the demo, as a process


class Run(NamedTuple):
    status: int
    output: str
    errors: str
    report: Report


class Stage:
    """Where a demo runs: a home by which all its processes are known, whatever becomes of them."""

    def __init__(self, folder: Path, crew: Path = CREW) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.command = [sys.executable, "-P", str(crew / "demo.py")]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
        self.environment = {**kept, "HOME": str(self.home), "TMPDIR": str(self.temporary)}

    def demo(self, *arguments: str | Path) -> Run:
        file = self.folder / "report.json"
        file.unlink(missing_ok=True)
        done = subprocess.run(
            [*self.command, *arguments, "--report", file],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        report: Report = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return Run(done.returncode, done.stdout, done.stderr, report)

    def processes(self) -> list[int]:
        """Every process that has our home in its environment, or our folder among its open files.

        Only the files tell whose a corrald is: what it calls itself is written over its environment.
        """
        mark = f"\0HOME={self.home}\0".encode()
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            try:
                files = [os.readlink(file) for file in (entry / "fd").iterdir()]
                named = mark in b"\0" + (entry / "environ").read_bytes()
            except OSError:
                continue  # no process, one that has just ended, or another user's
            if named or any(file.startswith(f"{self.folder}/") for file in files):
                found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]

    def sweep(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.sweep()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # nothing announces the end of a process that is not ours


# -- what git says, by other commands than the demo's own


def numbers(repository: Repository, sha: str) -> dict[str, tuple[int, int]]:
    """Lines added and removed by one commit, per file."""
    text = repository.git("show", "--format=", "--numstat", "-z", "-M", sha)
    parts = text.removesuffix("\0").split("\0") if text else []
    found: dict[str, tuple[int, int]] = {}
    while parts:
        added, removed, path = parts.pop(0).lstrip("\n").split("\t", 2)
        if not path:
            parts.pop(0)
            path = parts.pop(0)
        found[path] = (0 if added == "-" else int(added), 0 if removed == "-" else int(removed))
    return found


def expected(repository: Repository, limit: int) -> Report:
    shas = repository.git("rev-list", f"-n{limit}", "HEAD").split()
    plain = [sha for sha in shas if len(repository.git("rev-parse", f"{sha}^@").split()) < 2]
    author_of = {sha: repository.git("show", "-s", "--format=%an", sha).strip("\n") for sha in plain}
    commits: Counter[str] = Counter()
    added: dict[str, Counter[str]] = defaultdict(Counter)
    touched: dict[str, Counter[str]] = defaultdict(Counter)
    by: dict[str, Counter[str]] = defaultdict(Counter)
    months: Counter[str] = Counter()
    for sha in plain:
        author = author_of[sha]
        commits[author] += 1
        months[repository.git("show", "-s", "--format=%ad", "--date=format:%Y-%m", sha).strip()] += 1
        for path, (plus, minus) in numbers(repository, sha).items():
            added[author].update({"added": plus, "removed": minus})
            touched[path].update({"commits": 1, "added": plus, "removed": minus})
            by[path][author] += plus
    there = repository.git("ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")
    lasting = {path: dict(touched[path]) for path in touched if path in there}
    return {
        "shas": shas,
        "merges": len(shas) - len(plain),
        "authors": {name: {"commits": commits[name], **dict(added[name])} for name in commits},
        "files": lasting,
        "by": by,
        "months": dict(months),
    }


def check(report: Report, repository: Repository, limit: int) -> None:
    """Every figure of the report."""
    git = expected(repository, limit)
    keys = ("commits", "added", "removed")
    assert [report["newest"]["sha"], report["oldest"]["sha"]] == [git["shas"][0], git["shas"][-1]]
    assert (report["commits"], report["merges"]) == (len(git["shas"]) - git["merges"], git["merges"])
    assert report["months"] == git["months"]
    assert {r["author"]: {key: r[key] for key in keys} for r in report["authors"]} == git["authors"]
    changed = [row["added"] + row["removed"] for row in report["authors"]]
    assert changed == sorted(changed, reverse=True)
    assert all({key: row[key] for key in keys} == git["files"][row["path"]] for row in report["hot_files"])
    hottest = sorted((file["commits"] for file in git["files"].values()), reverse=True)[:10]
    assert [row["commits"] for row in report["hot_files"]] == hottest
    risky = {
        path: (author, round(count / sum(git["by"][path].values()), 4))
        for path in git["files"]
        for author, count in git["by"][path].most_common(1)
        if count and count >= 0.8 * sum(git["by"][path].values())
    }
    assert {row["path"]: (row["author"], row["share"]) for row in report["at_risk"]}.items() <= risky.items()
    hottest = sorted((git["files"][path]["commits"] for path in risky), reverse=True)[:10]
    assert [row["commits"] for row in report["at_risk"]] == hottest


# -- the tests


def test_the_report_is_what_git_says_although_a_historian_is_killed(repository: Repository, stage: Stage) -> None:
    run = stage.demo("--repo", repository.path)
    assert run.status == 0, run.output + run.errors
    check(run.report, repository, 200)
    assert not run.report["cut"]
    again, once = sorted(run.report["parts"], key=lambda part: -part["attempt"])
    assert (again["attempt"], once["attempt"], once["begin"]) == (2, 1, 0)
    assert again["begin"] > 0, "the second attempt went on where the first one had saved its work"
    assert [each["sha"] for each in run.report["unread"]] == ["0" * 40]
    documents = run.report["documents"]
    assert documents["read"] == ["README.md", "LICENSE", "docs/how.md"]
    assert documents["dangling"] == {"docs/gone.md": "README.md"}
    assert documents["missing"] == ["CONTRIBUTING", "CHANGELOG", "SECURITY"]
    assert documents["says"].startswith("A project that is read")
    named = {row["path"]: row["named_in"] for row in run.report["at_risk"]}
    assert named["core.py"] == ["docs/how.md"]
    assert stage.processes() == []
    assert list(stage.temporary.iterdir()) == []


@pytest.mark.long
def test_a_long_history_is_cut_to_its_newest_commits_and_the_report_says_so(
    repository: Repository, stage: Stage
) -> None:
    run = stage.demo("--repo", repository.path / "day", "--commits", "14")
    assert run.status == 0, run.output + run.errors
    assert run.report["cut"]
    check(run.report, repository, 14)


@pytest.mark.long
def test_one_commit_is_enough(stage: Stage) -> None:
    small = Repository(stage.folder / "small")
    small.commit(BOB, {"a b": b"1\n"})
    run = stage.demo("--repo", small.path)
    assert run.status == 0, run.output + run.errors
    check(run.report, small, 200)
    assert [part["attempt"] for part in run.report["parts"]] == [2]


@pytest.mark.long
def test_a_commit_without_its_parent_in_a_shallow_clone_is_named_and_not_counted(
    repository: Repository, stage: Stage
) -> None:
    shallow = stage.folder / "shallow"
    repository.git("clone", "--quiet", "--depth=1", repository.path.as_uri(), str(shallow))
    run = stage.demo("--repo", shallow)
    # Its only commit may be read before a historian can be killed in the middle of it.
    was_quick = "no historian was killed in the middle of its task" in run.output
    assert run.status == (1 if was_quick else 0), run.output + run.errors
    assert (run.report["commits"], run.report["merges"], len(run.report["unread"])) == (0, 0, 1)
    assert run.report["newest"] == run.report["oldest"]
    assert run.report["documents"]["read"]


def nothing(folder: Path) -> Path:
    return folder / "missing"


def a_file(folder: Path) -> Path:
    path = folder / "file"
    path.write_text("x")
    return path


def no_repository(folder: Path) -> Path:
    path = folder / "plain"
    path.mkdir()
    return path


def an_empty_repository(folder: Path) -> Path:
    return Repository(folder / "none").path


def a_repository_of_somebody_else(folder: Path) -> Path:
    if os.getuid() != 0:
        pytest.skip("only root can give a repository away")
    foreign = Repository(folder / "foreign")
    foreign.commit(ANN, {"a": b"1\n"})
    for path in (foreign.path, foreign.path / ".git"):
        os.chown(path, 65534, 65534)
    return foreign.path


@pytest.mark.parametrize("make", [nothing, a_file, no_repository, an_empty_repository, a_repository_of_somebody_else])
def test_what_is_no_readable_repository_is_refused_in_one_line(make: Callable[[Path], Path], stage: Stage) -> None:
    # Above the folder there may be a repository: it must not be taken instead.
    stage.environment["GIT_CEILING_DIRECTORIES"] = str(stage.folder)
    run = stage.demo("--repo", make(stage.folder))
    assert (run.status, run.output, run.report) == (2, "", {})
    assert len(run.errors.splitlines()) == 1
    assert stage.processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_interrupted_leaves_nothing(
    number: signal.Signals, repository: Repository, stage: Stage
) -> None:
    with subprocess.Popen(
        [*stage.command, "--repo", repository.path],
        env=stage.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()  # the daemon is up
        demo.send_signal(number)
        assert demo.wait(BOUND_S) == 128 + number
    until(lambda: stage.processes() == [])
    assert list(stage.temporary.iterdir()) == []


@pytest.mark.long
def test_a_crew_that_is_kept_takes_tasks_until_it_is_stopped(repository: Repository) -> None:
    folder = Path(mkdtemp(prefix="kept-"))  # short: the socket lies within
    crew = folder / "examples" / "crew"
    shutil.copytree(CREW, crew)
    stage = Stage(folder, crew)
    try:
        first = stage.demo("--repo", repository.path, "--keep")
        assert first.status == 0, first.output + first.errors
        corral = [str(BIN / "corral"), "--json", "--socket", f"{folder}/.demo/corral.sock"]
        order = json.dumps({"repo": str(repository.path), "commits": 3})
        again = subprocess.run(
            [*corral, "run", "lead", "again", "--input", order], capture_output=True, timeout=BOUND_S, check=True
        )
        assert json.loads(again.stdout)["output"]["limit"] == 3
        assert stage.demo("--repo", repository.path, "--keep").status == 1
        status = subprocess.run([*corral, "status"], capture_output=True, timeout=BOUND_S, check=True)
        os.kill(json.loads(status.stdout)["daemon"]["pid"], signal.SIGTERM)
        until(lambda: stage.processes() == [])
    finally:
        stage.sweep()
        until(lambda: stage.processes() == [])
        shutil.rmtree(folder)
