"""An agent that is itself an MCP client: a task's input is what it sends to a `corral mcp serve` of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from corral.worker import Agent, Task

agent = Agent("editing")


@agent.task
def run(task: Task) -> Any:
    command = [str(Path(sys.executable).parent / "corral"), "mcp", "serve"]
    requests: Any = task.input  # a list of method and params
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[Any] = []
        for number, (method, params) in enumerate(requests):
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while (answer := json.loads(process.stdout.readline())).get("id") != number:
                pass
            answers.append(answer.get("result", answer.get("error")))
        process.stdin.close()
        assert process.wait() == 0
    return answers
