"""What mcp-server-git says of commits, read into plain values that can travel as JSON.

Its texts are for models: a path may hold a newline, a message may look like a commit. So the parts of
a `git_show` are taken in their order, and the lines of a hunk counted. A `git_log` cannot be read so:
what a message made up is found out when the commit is to be shown.
"""

import re

ENTRY = re.compile(r"^Commit: ([0-9a-f]{40,64})\nAuthor: (.*)\nDate: (.*)\nMessage: ", re.M)
HEAD = re.compile(r"commit ([0-9a-f]{40,64})\nAuthor: (.*) <.*>\nDate:   (.*)\n\n((?:    .*\n)*)")
SIDES = re.compile(
    r"\n--- (?:/dev/null|a/(?P<old>.+?))\n\+\+\+ (?:/dev/null|b/(?P<new>.+?))\n"
    r"(?=@@ |Binary files |\n--- |\Z)",
    re.S,
)
HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n")
BINARY = re.compile(r"Binary files .+? differ\n", re.S)
LINE = re.compile(r"([ +\-\\]?).*(?:\n|\Z)")


def read_log(text):
    """The commits of a `git_log`, newest first: sha, author, date and subject."""
    entries = list(ENTRY.finditer(text))
    ends = [entry.start() for entry in entries[1:]] + [len(text)]
    found = {}
    for entry, end in zip(entries, ends, strict=True):
        sha, author, date = entry.groups()
        subject = " ".join(text[entry.end() : end].partition("\n\n")[0].split())
        found.setdefault(sha, {"sha": sha, "author": author, "date": date, "subject": subject})
    return list(found.values())


def read_show(text):
    """One commit of a `git_show`: sha, author, date, and per file the lines [added, removed].

    Raises:
        ValueError: the text is not what the server is known to write.
    """
    head = HEAD.match(text)
    if head is None:
        raise ValueError("its head is not as expected")
    sha, author, date, _ = head.groups()
    files, at = {}, head.end()
    while at < len(text):
        sides = SIDES.match(text, at)
        if sides is None:
            raise ValueError(f"its diff is not as expected at character {at}")
        added, removed, at = _count(text, sides.end())
        lines = files.setdefault(sides["new"] or sides["old"], [0, 0])
        lines[0] += added
        lines[1] += removed
    return {"sha": sha, "author": author, "date": date, "files": files}


def _count(text, at):
    """The lines added and removed in the hunks that begin at `at`, and where they end."""
    if binary := BINARY.match(text, at):
        return 0, 0, binary.end()
    total = {"+": 0, "-": 0}
    while hunk := HUNK.match(text, at):
        old, new = (1 if size is None else int(size) for size in hunk.groups())
        at = hunk.end()
        while (old > 0 or new > 0 or text.startswith("\\", at)) and at < len(text):
            line = LINE.match(text, at)
            sign, at = line[1], line.end()
            old -= sign in (" ", "", "-")
            new -= sign in (" ", "", "+")
            if sign in total:
                total[sign] += 1
    return total["+"], total["-"], at
