"""An agent that has its model write, and streams the words; with the standard library alone, as any client would do."""

import json
import urllib.error
import urllib.request

from corral.worker import Agent, SyncTask
from corral.worker.errors import TaskFailed

agent = Agent("writer")


@agent.task
def write(task: SyncTask) -> str:
    """Returns the words of the model; a refusal of the gateway ends the task."""
    model = task.model(str(task.config.get("model", "small")))
    asked = {"messages": [{"role": "user", "content": task.objective}], "stream": True}
    request = urllib.request.Request(
        f"{model.base_url}/chat/completions",
        json.dumps({"model": "parrot", **asked}).encode(),
        {"Authorization": f"Bearer {model.api_key}", "Content-Type": "application/json"},
    )
    words = ""
    try:
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                data = line.decode().removeprefix("data: ").strip()
                if data and data != "[DONE]":
                    word = json.loads(data)["choices"][0]["delta"]["content"]
                    task.stream(word)
                    words += word
    except urllib.error.HTTPError as refusal:
        error = json.load(refusal)["error"]
        raise TaskFailed(error["message"], **error.get("corral", {})) from None
    return words.strip()
