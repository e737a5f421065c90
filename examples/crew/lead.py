"""Asks the crew about a repository, and makes one report of what they find."""

import asyncio
from posixpath import basename

from commits import read_log
from figures import ROWS, at_risk, authors, files, months

from corral.worker import Agent, ResourceLimitExceeded, ToolFailed

agent = Agent("lead")

PARTS = 2  # as many as there are historians


@agent.task
async def run(task):
    repo, limit = task.input["repo"], task.input["commits"]
    log = await task.tool("git__git_log", repo_path=repo, max_count=limit + 1)
    listed = read_log(log.text)
    newest = listed[:limit]
    size = -(-len(newest) // PARTS)
    parts = [newest[at : at + size] for at in range(0, len(newest), size)]
    await task.progress(0.1, f"gives out the work: commits {len(newest)}, parts {len(parts)}")

    documents, *histories = await asyncio.gather(
        task.delegate("reader", "what the project says of itself", input={"repo": repo}),
        *(who_changed_what(task, repo, part) for part in parts),
    )
    await task.progress(0.8, "has all answers and weighs them")

    found = [history.output for history in histories]
    commits = [commit for each in found for commit in each["commits"]]
    unread = [commit for each in found for commit in each["unread"]]
    missed = {commit["sha"] for commit in unread}
    known = [commit for commit in newest if commit["sha"] not in missed] or newest
    touched = files(commits)
    return {
        "repo": repo,
        "limit": limit,
        "cut": len(listed) > limit,
        "newest": known[0],
        "oldest": known[-1],
        "commits": len(commits),
        "merges": sum(len(each["merges"]) for each in found),
        "unread": unread,
        "authors": authors(commits),
        "hot_files": await lasting(task, repo, touched),
        "at_risk": [
            {**file, "named_in": await documents_naming(task, repo, file, documents.output["read"])}
            for file in await lasting(task, repo, at_risk(touched))
        ],
        "months": months(commits),
        "documents": documents.output,
        "parts": [{**history.output["by"], "task": history.id} for history in histories],
    }


def who_changed_what(task, repo, part):
    return task.delegate(
        capability="history",
        objective=f"who changed what, {part[-1]['date'][:10]} to {part[0]['date'][:10]}",
        input={"repo": repo, "commits": [commit["sha"] for commit in part]},
    )


async def lasting(task, repo, candidates):
    """The first of these files that the newest commit still has."""
    found = []
    for file in candidates:
        where = f"HEAD:{file['path']}"
        try:
            await task.tool("git__git_show", repo_path=repo, revision=where)
        except ToolFailed:
            continue
        except ResourceLimitExceeded:
            pass  # it is too long to be sent, so it is there
        found.append(file)
        if len(found) == ROWS:
            break
    return found


async def documents_naming(task, repo, file, documents):
    """Which documents name the file: the memory finds candidates, their text decides."""
    name = basename(file["path"])
    given = {"query": name, "namespace": repo[-256:], "tags": ["document"], "limit": 100}
    found = await task.tool("cortex__cortex_search", given)
    items = [item for item in found.structured["items"] if item["key"] in documents]
    return sorted(item["key"] for item in items if name in item["content"])


agent.run()
