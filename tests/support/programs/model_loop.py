"""An agent that calls a model by plain HTTP, again and again until it is refused, whatever fails: its input is [number of calls, script of a call].

A script with the word "stream" asks for a stream. Returns the number of calls that were answered to their end.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from corral.worker import Agent, SyncTask

agent = Agent("loop")


@agent.task
def run(task: SyncTask) -> int:
    """Makes the calls."""
    asked: Any = task.input
    calls, script = asked
    access = task.model("main")
    body = {"model": script, "stream": "stream" in script.split("+")}
    answered = 0
    for _ in range(calls):
        request = urllib.request.Request(
            f"{access.base_url}/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {access.api_key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                text = answer.read()
            answered += b"[DONE]" in text if body["stream"] else bool(text)
        except urllib.error.HTTPError as error:
            if error.code == 429:
                break
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            time.sleep(0.05)  # the gateway starts again; the kill of a daemon ends this process
    return answered
