"""What git says by itself: every figure of the report once more, without the crew and its tools."""

import os
import subprocess
from posixpath import basename

import figures

LOG = ("log", "--no-merges", "-M", "--diff-algorithm=default")


class GitFailed(Exception):
    """Git's own words, the first line of them."""


def git(repo, *arguments, stdin=""):
    """What git prints. In a hook the environment names another repository: git is not told."""
    told = ("GIT_CEILING_DIRECTORIES",)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in told}
    try:
        done = subprocess.run(
            ["git", "-C", repo, "-c", "i18n.logOutputEncoding=UTF-8", *arguments],
            input=stdin.encode(),
            capture_output=True,
            check=False,
            env={**kept, "LC_ALL": "C"},
        )
    except OSError as error:
        raise GitFailed(f"cannot start git: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise GitFailed(said or f"git {arguments[0]} ended with status {done.returncode}")
    return done.stdout.decode(errors="replace")


def disagreements(report):
    """The names of the figures of a report that git does not confirm."""
    repo = report["repo"]
    shas = git(repo, "rev-list", f"--max-count={report['limit']}", "HEAD").split()
    unread = {commit["sha"] for commit in report["unread"]}
    known = [sha for sha in shas if sha not in unread]
    counted = _commits(repo, known) if known else []
    there = _files(repo)
    touched = [file for file in figures.files(counted) if file["path"] in there]
    documents = report["documents"]
    texts = {path: git(repo, "show", f"HEAD:{path}") for path in documents["read"]}
    said = {
        "newest": (known or shas)[0],
        "oldest": (known or shas)[-1],
        "commits": len(counted),
        "merges": len(known) - len(counted),
        "authors": figures.authors(counted),
        "hot_files": touched[: figures.ROWS],
        "at_risk": [
            {**file, "named_in": sorted(d for d in texts if basename(file["path"]) in texts[d])}
            for file in figures.at_risk(touched)[: figures.ROWS]
        ],
        "months": figures.months(counted),
        "dangling": [path for path in documents["dangling"] if path not in there],
    }
    reported = {
        **report,
        "newest": report["newest"]["sha"],
        "oldest": report["oldest"]["sha"],
        "dangling": list(documents["dangling"]),
    }
    return [name for name, value in said.items() if reported[name] != value]


def _files(repo):
    """The files of the newest commit; not those whose name is no UTF-8, which no tool can be asked for."""
    entries = git(repo, "ls-tree", "-r", "-z", "HEAD").split("\0")
    paths = {path for kind, _, path in (entry.partition("\t") for entry in entries) if " blob " in kind}
    return {path for path in paths if "\ufffd" not in path}


def _commits(repo, shas):
    """The commits among these that are no merges, in the shape of `commits.read_show`."""
    shape = ("--numstat", "-z", "--date=format:%Y-%m-%d", "--format=%x01%H%x00%an%x00%ad")
    words = git(repo, *LOG, *shape, "--stdin", "--no-walk=unsorted", stdin="\n".join(shas))
    found = []
    tokens = iter(words.split("\0"))
    for token in tokens:
        if token.startswith("\x01"):
            commit = {"sha": token[1:], "author": next(tokens), "date": next(tokens), "files": {}}
            found.append(commit)
        elif token:
            added, removed, path = token.removeprefix("\n").split("\t", 2)
            if not path:  # a rename: its old name comes next, then the new one
                _, path = next(tokens), next(tokens)
            commit["files"][path] = [0 if n == "-" else int(n) for n in (added, removed)]
    return found
