"""The jobs of the review, and its reports: what the model orders, and what the demo checks by itself."""

import re

COMMANDS = {
    "files": "git ls-files | wc -l",
    "kinds": "git ls-files | sed -n 's/.*\\.//p' | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2 | head -8",
    "folders": "git ls-files | sed -n 's,/.*,,p' | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2 | head -8",
    "marks": "git grep -I -c -E 'TODO|FIXME' | wc -l",
    "size": "git ls-tree -r -l HEAD | awk '{sum += $4} END {print sum}'",
    "months": "git log -200 --date=format:%Y-%m --format=%ad | LC_ALL=C sort | uniq -c",
    "authors": "git log -200 --format=%an | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2",
}
"""The command of each job, whose output is the report."""

MARK = re.compile(r"review: (?P<job>[a-z]+) of (?P<repo>/\S+)")
"""By which the model knows a job in the words of a task."""

COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


def report(name, commits, found):
    """The report of a job: the newest commits as the git server tells them, and what the command has printed."""
    known = ", ".join(each[:10] for each in COMMIT.findall(commits)[:3])
    return f"# {name}\n\nNewest commits: {known}\n\n{figures(found)}\n"


def figures(found):
    """The lines of a command's output that begin with a number: agents add lines of their own."""
    lines = [line.strip() for line in found.splitlines()]
    return "\n".join(" ".join(line.split()) for line in lines if re.match(r"[0-9]+(\s|$)", line))
