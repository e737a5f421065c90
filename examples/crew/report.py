"""The lead's report as text for people, and the git commands that check it."""

import shlex
import textwrap
import unicodedata

WIDTH = 100


def text(report):
    """The report, in lines of at most about WIDTH columns."""
    sections = (_scope, _authors, _hot_files, _at_risk, _months, _documents, _crew, _checks)
    return "\n\n".join("\n".join(section(report)) for section in sections)


def plain(words, width=WIDTH):
    """On one line whatever characters a name has, and cut in its middle where it is too long."""
    line = "".join(c if unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in str(words))
    half = (width - 1) // 2
    return line if len(line) <= width else f"{line[: width - 1 - half]}…{line[-half:]}"


def checks(report):
    """Shell commands by which git itself gives the figures."""
    git = f"git -C {shlex.quote(report['repo'])} -c core.quotePath=false"
    log = "log --no-merges -M --diff-algorithm=default"
    if report["cut"]:
        git, log = (f"{git} rev-list -n {report['limit']} HEAD | {git}", f"{log} --stdin --no-walk=unsorted")
    command = f"{git} {log}"
    return {
        "lines per commit and file": f"{command} --numstat --format='%n%h %an'",
        "commits per author": f"{command} --format=%an | sort | uniq -c | sort -rn",
        "commits per file": f"{command} --name-only --format= | sort | uniq -c | sort -rn",
        "commits per month": f"{command} --date=format:%Y-%m --format=%ad | sort | uniq -c",
    }


def _scope(report):
    read = report["commits"] + report["merges"] + len(report["unread"])
    yield f"REPORT on {plain(report['repo'])}"
    if report["cut"]:
        yield f"  the newest {read} commits only (--commits N reads more)"
    yield f"  {_number(report['commits'], 'commit')} counted, {_number(report['merges'], 'merge')} left out"
    for commit in report["unread"]:
        yield f"  not counted: {commit['sha'][:10]}, {plain(commit['why'], 70)}"
    for which in ("newest", "oldest"):
        commit = report[which]
        what = plain(f"{commit['author']}: {commit['subject']}", 66)
        yield f"  {which} {commit['sha'][:10]} {commit['date'][:10]} {what}"


def _number(count, what):
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _authors(report):
    rows = report["authors"]
    yield f"WHO CHANGED WHAT MOST ({_number(len(rows), 'author')})"
    yield f"  {'commits':>7} {'added':>9} {'removed':>9}  author, and where most"
    for row in rows[:10]:
        where = ", ".join(plain(path, 26) for path, _ in row["files"])
        counts = f"{row['commits']:>7,} {row['added']:>9,} {row['removed']:>9,}"
        yield f"  {counts}  {plain(row['author'], 30)}: {where}"


def _hot_files(report):
    yield "HOT FILES (changed most often, and still there)"
    yield f"  {'commits':>7} {'added':>9} {'removed':>9}  file"
    for row in report["hot_files"]:
        counts = f"{row['commits']:>7,} {row['added']:>9,} {row['removed']:>9,}"
        yield f"  {counts}  {plain(row['path'], 68)}"


def _at_risk(report):
    yield "KNOWLEDGE AT RISK (one author wrote at least 80 % of the lines added; the hottest first)"
    if len(report["authors"]) == 1:
        yield f"  everything: {plain(report['authors'][0]['author'], 40)} is the only author"
    yield f"  {'commits':>7} {'added':>9} {'share':>9}  file, its author, and the documents that name it"
    for row in report["at_risk"]:
        named = ", ".join(plain(path, 30) for path in row["named_in"][:3]) or "no document"
        counts = f"{row['commits']:>7,} {row['added']:>9,} {row['share']:>9.0%}"
        yield f"  {counts}  {plain(row['path'], 40)}, {plain(row['author'], 24)}, {named}"


def _months(report):
    months = report["months"]
    yield "ACTIVITY (commits per month)"
    most = max(months.values(), default=0)
    for month, count in list(months.items())[-12:]:
        yield f"  {month} {count:>6,} {'#' * -(-40 * count // most)}"
    if len(months) > 12:
        yield f"  and {_number(len(months) - 12, 'month')} before that"


def _documents(report):
    documents = report["documents"]
    yield "WHAT THE PROJECT SAYS OF ITSELF"
    if documents["says"]:
        said = f"{plain(documents['says'], 300)} ({documents['readme']})"
        yield textwrap.indent(textwrap.fill(said, WIDTH - 2), "  ")
    else:
        yield f"  nothing: {documents['readme'] or 'a README'} has no word of prose"
    yield f"  documents read: {', '.join(plain(path, 40) for path in documents['read']) or 'none'}"
    yield f"  not at the top: {', '.join(documents['missing']) or 'nothing that one expects'}"
    for path, document in documents["dangling"].items():
        yield f"  {plain(document, 40)} links to {plain(path, 50)}, which is not there"
    if documents["skipped"]:
        skipped = ", ".join(plain(path, 40) for path in documents["skipped"][:5])
        yield f"  not read, too long or too many: {_number(len(documents['skipped']), 'document')}, {skipped}"


def _crew(report):
    yield "WHO DID THE WORK"
    for number, part in enumerate(report["parts"], 1):
        again = f", from commit {part['begin'] + 1} on" if part["attempt"] > 1 else ""
        yield f"  part {number}: {part['worker']}, attempt {part['attempt']}{again}"


def _checks(report):
    yield "CHECK IT (renames are not followed: a file counts under the name that it had)"
    if report["unread"]:
        yield "  these count the commits, too, that are not counted above"
    for command in checks(report).values():
        yield f"  {command}"
