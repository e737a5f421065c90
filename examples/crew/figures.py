"""The figures of the report, computed from commits as `commits.read_show` gives them.

Merges are not among them, renames are not followed, and a person is a name: so each figure is what
`git log --no-merges --numstat -M` adds up to.
"""

from collections import Counter

RISK_SHARE = 0.8
ROWS = 10  # of a table of files


def authors(commits):
    """Who changed what most: the most lines first."""
    found = {}
    for commit in commits:
        author = found.setdefault(commit["author"], {"commits": 0, "added": 0, "removed": 0, "files": Counter()})
        author["commits"] += 1
        for path, (added, removed) in commit["files"].items():
            author["added"] += added
            author["removed"] += removed
            author["files"][path] += added + removed
    rows = [{**author, "author": name, "files": _top(author["files"], 3)} for name, author in found.items()]
    return sorted(rows, key=lambda row: (-row["added"] - row["removed"], row["author"]))


def files(commits):
    """Per file its commits, lines, and lines added by author: the most often changed first."""
    found = {}
    for commit in commits:
        for path, (added, removed) in commit["files"].items():
            file = found.setdefault(path, {"path": path, "commits": 0, "added": 0, "removed": 0, "by": Counter()})
            file["commits"] += 1
            file["added"] += added
            file["removed"] += removed
            file["by"][commit["author"]] += added
    return sorted(found.values(), key=lambda file: (-file["commits"], -file["added"] - file["removed"], file["path"]))


def at_risk(files):
    """Of these files, in their order, those of which one author wrote most of the lines added."""
    found = []
    for file in files:
        [[author, added]] = _top(file["by"], 1)
        if added and added >= RISK_SHARE * file["added"]:
            found.append({**file, "author": author, "share": round(added / file["added"], 4)})
    return found


def months(commits):
    """Commits per month of the author's date, the oldest first."""
    return dict(sorted(Counter(commit["date"][:7] for commit in commits).items()))


def _top(counts, most):
    """The largest as [name, count], equals by name."""
    return [list(item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]
