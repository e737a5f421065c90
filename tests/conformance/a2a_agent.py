"""The agent that the compatibility kit of A2A calls: the beginning of a message's id says what it does."""

from corral.worker import Agent, Task

sut = Agent("sut")

FILE = {"filename": "output.txt", "mediaType": "text/plain"}

OUTPUTS: dict[str, object] = {
    "artifact-text": "Generated text content",
    "artifact-file-url": {"url": "https://example.com/output.txt", **FILE},
    "artifact-file": {"raw": "T3V0cHV0", **FILE},
    "artifact-data": {"key": "value", "count": 42},
    "stream-artifact-file": {"raw": "T3V0cHV0", **FILE},
    "stream-artifact-text": "Streamed text content",
    "stream-ordering-001": "Ordered output",
    "stream-001": "Stream hello from TCK",
    "stream-003": "Stream task lifecycle",
}


@sut.task
async def answer(task: Task) -> object:
    kind = str(task.context["a2a"]["messageId"]).removeprefix("tck-")
    if kind.startswith("input-required"):
        said, number = "", 0
        while not any(word in said.lower() for word in ("complete", "follow-up")):
            number += 1
            said = await task.ask("More?", key=f"more-{number}")
        return "Hello from TCK"
    if kind.startswith("reject-task"):
        raise ValueError("rejected")
    if kind.startswith("stream-artifact-chunked"):
        for chunk in ("chunk-1 ", "chunk-2"):
            await task.stream(chunk)
        return "chunk-1 chunk-2"
    found = next((value for key, value in OUTPUTS.items() if kind.startswith(key)), None)
    return "Hello from TCK" if found is None else found
