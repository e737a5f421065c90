"""Reads a part of the history, commit by commit: who changed how many lines of which file."""

from collections import Counter

from commits import read_show

from corral.worker import Agent, ResourceLimitExceeded, ToolFailed

agent = Agent("historian", capabilities=["history"])

SAVES = 20  # checkpoints in a part, so that a long one is not saved all the time


@agent.task
async def run(task):
    repo, shas = task.input["repo"], task.input["commits"]
    # A first attempt begins with nothing, the one after a crash with what was saved last.
    commits, merges, unread = task.checkpoint or ([], [], [])
    begin = len(commits) + len(merges) + len(unread)
    for done, sha in enumerate(shas[begin:], begin):
        if done > begin and done % (len(shas) // SAVES + 1) == 0:
            await task.save_checkpoint([commits, merges, unread])
        await task.progress(done, f"reads commit {sha[:10]}", total=len(shas))
        try:
            if await is_merge(task, repo, sha):
                merges.append(sha)
            else:
                shown = await task.tool("git__git_show", repo_path=repo, revision=sha)
                commits.append(read_show(shown.text))
        except (ToolFailed, ResourceLimitExceeded, ValueError) as error:
            task.log(f"cannot read commit {sha}: {error}", level="warning")
            unread.append({"sha": sha, "why": str(error)[:200]})
    # Under a key: a second attempt replaces what the first one stored.
    await task.tool(
        "cortex__cortex_store",
        key=f"commits {shas[0][:12]} to {shas[-1][:12]}",
        namespace=repo[-256:],
        tags=["history"],
        content=finding(commits),
    )
    return {
        "by": {"worker": task.worker, "attempt": task.attempt, "begin": begin},
        "commits": commits,
        "merges": merges,
        "unread": unread,
    }


async def is_merge(task, repo, sha):
    """Whether the commit has a second parent: then that can be shown."""
    parent = await task.tool("git__git_show", repo_path=repo, revision=f"{sha}^2", check=False)
    return not parent.is_error


def finding(commits):
    """What these commits tell, in words: they are there to be searched."""
    lines = {}
    for commit in commits:
        of_author = lines.setdefault(commit["author"], Counter())
        for path, (added, removed) in commit["files"].items():
            of_author[path] += added + removed
    words = [
        f"{author} changed {sum(paths.values())} lines in {len(paths)} files, most of them in "
        + ", ".join(path for path, _ in paths.most_common(5))
        for author, paths in lines.items()
    ]
    return "\n".join(words) or "Nothing but merges."


agent.run()
