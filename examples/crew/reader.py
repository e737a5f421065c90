"""Reads the documents: what the project says of itself, and what it leaves unsaid."""

import re
from posixpath import dirname, join, normpath

from corral.worker import Agent

agent = Agent("reader", capabilities=["documents"])

# What one expects at the top of a repository, and the names that it goes by.
EXPECTED = {
    "README": ("README", "Readme", "readme"),
    "LICENSE": ("LICENSE", "LICENCE", "COPYING"),
    "CONTRIBUTING": ("CONTRIBUTING",),
    "CHANGELOG": ("CHANGELOG", "CHANGES", "HISTORY", "NEWS"),
    "SECURITY": ("SECURITY",),
}
SUFFIXES = (".md", "", ".rst", ".txt")
LINK = re.compile(r"\]\(([^()#?:%\s]+\.(?:md|rst|txt))(?:#[^()\s]*)?\)")
MARKUP = re.compile(r"#|==|--|[-*+] |\d+\. |\[?!|<|```|\||\.\. |:|>|    |\t")
DOCUMENTS_MAX = 50
CHARACTERS_MAX = 50_000


@agent.task
async def run(task):
    texts, missing, dangling, skipped = {}, [], {}, []
    for what, words in EXPECTED.items():
        for name in [word + suffix for word in words for suffix in SUFFIXES]:
            if await read(task, name, texts, skipped):
                break
        else:
            missing.append(what)
    waiting = list(texts)
    for path in waiting:
        for link in LINK.findall(texts[path]):
            target = normpath(join(dirname(path), link))
            outside = target.startswith(("..", "/"))
            if outside or target in texts or target in dangling or target in skipped:
                continue
            if not await read(task, target, texts, skipped):
                dangling[target] = path
            elif target in texts:
                waiting.append(target)
    readme = next((path for path in texts if path.upper().startswith("README")), None)
    return {
        "read": list(texts),
        "skipped": skipped,
        "missing": missing,
        "dangling": dangling,
        "readme": readme,
        "says": purpose(texts.get(readme, "")),
    }


async def read(task, path, texts, skipped):
    """Whether there is such a document; what it says goes to `texts`, and to the crew's memory."""
    repo = task.input["repo"]
    shown = await task.tool("git__git_show", repo_path=repo, revision=f"HEAD:{path}", check=False)
    if shown.is_error:
        return False
    if len(texts) == DOCUMENTS_MAX or len(shown.text) > CHARACTERS_MAX:
        skipped.append(path)
        return True
    texts[path] = shown.text
    await task.progress(len(texts), f"reads {path}")
    if shown.text.strip():
        given = {"key": path, "namespace": repo[-256:], "tags": ["document"], "content": shown.text}
        await task.tool("cortex__cortex_store", given)
    return True


def purpose(text):
    """The first paragraph that is prose, the first 300 characters of it."""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if len(paragraph.split()) > 3 and not any(map(MARKUP.match, lines)):
            said = " ".join(paragraph.split())
            return said if len(said) <= 300 else f"{said[:299]}…"
    return ""


agent.run()
