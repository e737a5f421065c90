"""An agent that calls models by plain HTTP: its input is a list of [name of the model or a path, script].

{"together": LIST} makes them all at a time. A call may have a third word, which says how it names its task: "header" or "trace".
"""

import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from corral.worker import Agent, SyncTask

agent = Agent("plain")


def call(task: SyncTask, name: str, script: str, way: str = "") -> dict[str, Any]:
    url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    gateway = url.rsplit("/", 2)[0]
    path = name if name.startswith("/") else "/v1/chat/completions"
    name = url.split("/")[-2] if name.startswith("/") else name
    own = {"header": {"X-Corral-Task": task.id}, "trace": {"traceparent": task.traceparent or ""}}
    request = urllib.request.Request(
        f"{gateway}/{name}{path}",
        json.dumps({"model": script}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **own.get(way, {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            body, status, headers = json.load(answer), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        body, status, headers = json.load(error), error.code, error.headers
    found = {each.lower(): value for each, value in headers.items()}
    return {"status": status, "body": body, "headers": found, "model": found.get("x-corral-model")}


@agent.task
def run(task: SyncTask) -> Any:
    """Makes the calls, one after the other or together."""
    calls: Any = task.input
    if "together" in calls:
        with ThreadPoolExecutor(64) as threads:
            made = [threads.submit(call, task, *each) for each in calls["together"]]
            return [each.result() for each in made]
    return [call(task, *each) for each in calls]
