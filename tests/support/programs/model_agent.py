"""An agent that calls models by the official clients, as its input says, and returns what they have seen.

Input: {"calls": [{"api": "chat|responses|embed|models|messages|count", "model": "…", "stream": bool, "hang_up": number,
"via": "environment|task"}…], "name": the model of the configuration, "report": tokens to report}.
"""

import asyncio
import os
from functools import cache
from typing import Any

import anthropic
import openai

from corral.worker import Agent, Task

agent = Agent("caller")


async def _chat(client: openai.AsyncOpenAI, call: dict[str, Any]) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": "hello"}]
    more: dict[str, Any] = {}
    if call.get("asks"):
        more["stream_options"] = {"include_usage": True}
    if not call.get("stream"):
        done = await client.chat.completions.create(model=call["model"], messages=messages)
        assert done.usage is not None
        return {"tokens": done.usage.total_tokens, "text": done.choices[0].message.content}
    words, tokens = 0, None
    async with await client.chat.completions.create(
        model=call["model"], messages=messages, stream=True, **more
    ) as stream:
        async for chunk in stream:
            if chunk.usage is not None:
                tokens = chunk.usage.total_tokens
            words += bool(chunk.choices and chunk.choices[0].delta.content)
            if call.get("hang_up") and words >= call["hang_up"]:
                break
    return {"words": words, "tokens": tokens}


async def _responses(client: openai.AsyncOpenAI, call: dict[str, Any]) -> dict[str, Any]:
    if not call.get("stream"):
        done = await client.responses.create(model=call["model"], input="hello")
        assert done.usage is not None
        return {"tokens": done.usage.total_tokens, "text": done.output_text}
    words = 0
    async with await client.responses.create(model=call["model"], input="hello", stream=True) as stream:
        async for event in stream:
            words += event.type == "response.output_text.delta"
    return {"words": words}


async def _messages(client: anthropic.AsyncAnthropic, call: dict[str, Any]) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": "hello"}]
    if not call.get("stream"):
        done = await client.messages.create(model=call["model"], max_tokens=99, messages=messages)
        return {"tokens": done.usage.input_tokens + done.usage.output_tokens}
    words = 0
    async with await client.messages.create(
        model=call["model"], max_tokens=99, messages=messages, stream=True
    ) as stream:
        async for event in stream:
            words += event.type == "content_block_delta"
            if call.get("hang_up") and words >= call["hang_up"]:
                break
    return {"words": words}


@cache
def _openai(retries: int, **where: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(max_retries=retries, **where)


@cache
def _anthropic(retries: int, **where: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(max_retries=retries, **where)


async def _call(task: Task, call: dict[str, Any]) -> dict[str, Any]:
    retries = call.get("retries", 0)
    where = task.model(call["name"])._asdict() if call.get("name") else {}
    try:
        if call["api"] == "messages":
            return await _messages(_anthropic(retries, **where), call)
        if call["api"] == "count":
            counted = await _anthropic(retries, **where).messages.count_tokens(
                model=call["model"], messages=[{"role": "user", "content": "hello"}]
            )
            return {"tokens": counted.input_tokens}
        client = _openai(retries, **where)
        match call["api"]:
            case "chat":
                return await _chat(client, call)
            case "responses":
                return await _responses(client, call)
            case "embed":
                found = await client.embeddings.create(model=call["model"], input="hello", encoding_format="float")
                return {"tokens": found.usage.total_tokens}
            case _:
                return {"models": [each.id async for each in client.models.list()]}
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return {
            "status": error.status_code,
            "type": type(error).__name__,
            "body": error.body,
            "headers": dict(error.response.headers),
        }
    except (openai.APIError, anthropic.APIError) as error:
        return {"error": type(error).__name__, "message": str(error)}


@agent.task
async def run(task: Task) -> Any:
    """Makes the calls, one after the other, or all at a time."""
    asked: Any = task.input
    if asked.get("environment"):
        return {name: value for name, value in os.environ.items() if name in asked["environment"]}
    if asked.get("report"):
        task.usage(asked["report"])
    if asked.get("together"):
        found = await asyncio.gather(*(_call(task, call) for call in asked["calls"]))
    else:
        found = [await _call(task, call) for call in asked["calls"]]
    if asked.get("report_after"):
        task.usage(asked["report_after"])
    return found
