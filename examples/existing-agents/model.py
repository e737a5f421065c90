"""A model on loopback for `demo.py`: scripted, in the shapes of four APIs, and it counts for itself what it has served.

It knows one kind of job: look at the newest commits with a tool of the pool, run the command of the job, write a report. It
calls whichever tools the agent offers, and composes the report of their results: the work is done by the agent.

    POST /v1/chat/completions, /v1/responses, /v1/messages, /v1beta/models/NAME:generateContent (and the streams of each)
    GET /counts         what was served, by agent          POST /hold, /release {"agent": …}   holds the answers to an agent

The address is printed as one line. It ends with its stdin.
"""

import asyncio
import json
import re
import sys
from collections import Counter, defaultdict

from aiohttp import web
from jobs import COMMANDS, MARK, report

BODY_BYTES = 32 * 1024 * 1024

RUN = (
    ("bash", lambda line: {"command": line, "description": "Runs the command of the job"}),
    ("Bash", lambda line: {"command": line, "description": "Runs the command of the job"}),
    ("exec_command", lambda line: {"cmd": line}),
    ("shell_command", lambda line: {"command": line}),
    ("shell", lambda line: {"command": ["bash", "-c", line]}),
    ("run_shell_command", lambda line: {"command": line, "description": "Runs the job"}),
    ("execute", lambda line: {"command": line}),
)
WRITE = (
    ("write", lambda path, text: {"filePath": path, "content": text}),
    ("Write", lambda path, text: {"file_path": path, "content": text}),
    ("write_file", lambda path, text: {"file_path": path, "content": text}),
    ("write_text_file", lambda path, text: {"path": path, "content": text}),
)
"""Tools of the agents of the day, and how each takes its arguments."""


class Conversation:
    """What an agent has sent, whatever the API: the tools, and the turn that is under way."""

    def __init__(self, tools, items):
        self.tools = tools
        self.spaces = {}
        asked = [at for at, (kind, text) in enumerate(items) if kind == "user" and MARK.search(text)]
        orders = [order for at in asked for order in MARK.finditer(items[at][1])]
        self.turns = len(orders)  # a conversation that is told again is one text with several
        self.job = orders[-1] if orders else None
        since = items[asked[-1] :] if asked else []
        self.results = [text for kind, text in since if kind == "result"]

    def tool(self, ending):
        """The tool of the pool of this name, with whichever prefix the agent puts before it."""
        return next((name for name in self.tools if re.search(rf"(^|_){ending}$", name)), None)

    def next(self):
        """The next step: a text, or a tool with its arguments."""
        if self.job is None:
            return "Nothing to do."
        name, repo = self.job["job"], self.job["repo"]
        line, path = COMMANDS[name], f"{repo}/review/{name}.md"
        steps = []
        if log := self.tool("git__git_log"):
            steps.append((log, {"repo_path": repo, "max_count": 3}))
        run = next(((each, made) for each, made in RUN if each in self.tools), None)
        write = next(((each, made) for each, made in WRITE if each in self.tools), None)
        store = self.tool("cortex__cortex_store")
        got = [*self.results, "", ""]
        commits, found = (got[0], got[1]) if log else ("", got[0])
        if run:
            steps.append((run[0], run[1](f"cd {repo} && {line}")))
        if write:
            steps.append((write[0], write[1](path, report(name, commits, found))))
        elif run:
            text = report(name, commits, found)
            there = f"mkdir -p {repo}/review && cat > {path} <<'END'\n{text}END"
            steps.append((run[0], run[1](there)))
        elif store:
            steps.append((store, {"content": report(name, commits, ""), "namespace": "review"}))
        if len(self.results) < len(steps):
            return steps[len(self.results)]
        return f"The report on {name} is written. This is turn {self.turns} of our conversation."


# -- the four APIs: what an agent says, as pairs of kind and text


def words(content):
    """The text of a content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    parts = [each if isinstance(each, str) else each.get("text") or "" for each in content or []]
    return "\n".join(map(str, parts))


def of_chat(body):
    tools = [each["function"]["name"] for each in body.get("tools") or [] if "function" in each]
    kinds = {"user": "user", "tool": "result"}
    items = [(kinds.get(each["role"], "other"), words(each.get("content"))) for each in body["messages"]]
    return Conversation(tools, items)


def of_responses(body):
    tools, spaces = [], {}
    for each in body.get("tools") or []:
        inner = [one["name"] for one in each.get("tools") or ()]
        spaces |= dict.fromkeys(inner, each.get("name"))
        tools += inner or [each.get("name") or each["type"]]
        if each.get("type") == "namespace":
            tools += [f"{each['name']}{one['name']}" for one in each.get("tools", ())]
    given = body["input"]
    items = []
    for each in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        if str(each.get("type")).endswith("_output"):
            items.append(("result", words(each["output"])))
        elif each.get("role"):
            items.append((each["role"], words(each.get("content"))))
    found = Conversation(tools, items)
    found.spaces = spaces
    return found


def of_messages(body):
    tools = [each["name"] for each in body.get("tools") or []]
    items = []
    for message in body["messages"]:
        content = message["content"]
        for each in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if each["type"] == "tool_result":
                items.append(("result", words(each.get("content"))))
            elif each["type"] == "text":
                items.append((message["role"], each["text"]))
    return Conversation(tools, items)


def of_gemini(body):
    tools = [one["name"] for each in body.get("tools") or [] for one in each.get("functionDeclarations") or []]
    items = []
    for content in body["contents"]:
        for part in content.get("parts") or []:
            if "functionResponse" in part:
                found = part["functionResponse"].get("response") or {}
                text = str(found.get("output", found))
                items.append(("result", re.sub(r"^Output: ", "", text, flags=re.MULTILINE)))
            elif "text" in part:
                items.append((content.get("role", "user"), part["text"]))
    return Conversation(tools, items)


class Server:
    """Serves the four, and counts."""

    def __init__(self):
        self.tokens, self.calls = Counter(), Counter()
        self.holds = defaultdict(asyncio.Event)
        self.held = set()
        self.waiting = Counter()
        self.number = 0

    async def answer(self, request, conversation_of):
        """The next step of a conversation, and its usage: what was read and what is said, in fours of characters."""
        body = await request.json()
        conversation = conversation_of(body)
        who = request.headers.get("x-agent", "")
        step = conversation.next()
        if who in self.held and conversation.job:
            self.waiting[who] += 1
            try:
                await self.holds[who].wait()
            finally:
                self.waiting[who] -= 1
        self.number += 1
        said = step if isinstance(step, str) else json.dumps(step)
        usage = len(json.dumps(body)) // 4 + 1, len(said) // 4 + 1
        self.tokens[who] += sum(usage)
        self.calls[who] += 1
        done = {"agent": who, "turn": conversation.turns, "results": len(conversation.results)}
        print(json.dumps({**done, "step": said[:300]}), file=sys.stderr, flush=True)
        return body, step, usage

    async def chat(self, request):
        body, step, (read, told) = await self.answer(request, of_chat)
        usage = {"prompt_tokens": read, "completion_tokens": told, "total_tokens": read + told}
        if isinstance(step, str):
            message, reason = {"role": "assistant", "content": step}, "stop"
        else:
            function = {"name": step[0], "arguments": json.dumps(step[1])}
            call = {"index": 0, "id": f"call_{self.number}", "type": "function", "function": function}
            message, reason = ({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")
        head = {"id": f"c{self.number}", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(whole)
        head["object"] = "chat.completion.chunk"
        choice = {"index": 0, "delta": message, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": reason}
        chunks = [{**head, "choices": [choice]}, {**head, "choices": [end]}]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": usage})
        return await stream(request, [("", each) for each in chunks], "[DONE]")

    async def responses(self, request):
        body, step, (read, told) = await self.answer(request, of_responses)
        if isinstance(step, str):
            text = {"type": "output_text", "text": step, "annotations": []}
            item = {"type": "message", "id": f"m{self.number}", "role": "assistant"}
            item |= {"status": "completed", "content": [text]}
        else:
            item = {"type": "function_call", "id": f"f{self.number}", "status": "completed"}
            item |= {"call_id": f"call_{self.number}", "name": step[0]}
            if space := of_responses(body).spaces.get(step[0]):
                item["namespace"] = space
            item |= {"arguments": json.dumps(step[1])}
        usage = {"input_tokens": read, "input_tokens_details": {"cached_tokens": 0}}
        usage |= {"output_tokens": told, "output_tokens_details": {"reasoning_tokens": 0}}
        usage |= {"total_tokens": read + told}
        whole = {"id": f"r{self.number}", "object": "response", "created_at": 1}
        whole |= {"model": body["model"], "status": "completed", "output": [item], "usage": usage}
        whole |= {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
        if not body.get("stream"):
            return web.json_response(whole)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        events = [{"type": "response.created", "response": begun}]
        events.append({"type": "response.output_item.added", "output_index": 0, "item": item})
        if isinstance(step, str):
            delta = {"type": "response.output_text.delta", "item_id": item["id"], "output_index": 0}
            events.append({**delta, "content_index": 0, "delta": step, "logprobs": []})
        events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
        events.append({"type": "response.completed", "response": whole})
        for number, event in enumerate(events):
            event["sequence_number"] = number
        return await stream(request, [(each["type"], each) for each in events])

    async def messages(self, request):
        body, step, (read, told) = await self.answer(request, of_messages)
        if isinstance(step, str):
            block, reason = {"type": "text", "text": step}, "end_turn"
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": step}
        else:
            block = {"type": "tool_use", "id": f"toolu_{self.number}", "name": step[0]}
            empty = {**block, "input": {}}
            block, reason = {**block, "input": step[1]}, "tool_use"
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step[1])}
        usage = {"input_tokens": read, "output_tokens": told}
        message = {"id": f"msg_{self.number}", "type": "message", "role": "assistant"}
        message |= {"model": body["model"], "stop_sequence": None, "stop_reason": reason}
        message |= {"content": [block], "usage": usage}
        if not body.get("stream"):
            return web.json_response(message)
        begun = {**message, "content": [], "stop_reason": None}
        begun["usage"] = {**usage, "output_tokens": 1}
        end = {"stop_reason": reason, "stop_sequence": None}
        events = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": told}},
            {"type": "message_stop"},
        ]
        return await stream(request, [(each["type"], each) for each in events])

    async def gemini(self, request):
        _, step, (read, told) = await self.answer(request, of_gemini)
        part = {"text": step} if isinstance(step, str) else None
        part = part or {"functionCall": {"name": step[0], "args": step[1]}}
        candidate = {"index": 0, "content": {"role": "model", "parts": [part]}}
        usage = {"promptTokenCount": read, "candidatesTokenCount": told}
        whole = {"candidates": [{**candidate, "finishReason": "STOP"}]}
        whole |= {"usageMetadata": {**usage, "totalTokenCount": read + told}}
        if request.match_info["verb"] == "generateContent":
            return web.json_response(whole)
        return await stream(request, [("", whole)])

    async def count_tokens(self, request):
        size = len(await request.read()) // 4 + 1
        return web.json_response({"input_tokens": size, "totalTokens": size})

    async def models(self, _request):
        model = {"id": "scripted", "object": "model", "created": 1, "owned_by": "loopback"}
        return web.json_response({"object": "list", "data": [model]})

    async def counts(self, _request):
        found = {"tokens": self.tokens, "calls": self.calls, "waiting": self.waiting}
        return web.json_response(found)

    async def hold(self, request):
        self.held.add((await request.json())["agent"])
        return web.json_response({})

    async def release(self, request):
        who = (await request.json())["agent"]
        self.held.discard(who)
        self.holds.pop(who, asyncio.Event()).set()
        return web.json_response({})


async def stream(request, events, last=""):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for name, event in events:
        head = f"event: {name}\n" if name else ""
        await response.write(f"{head}data: {json.dumps(event)}\n\n".encode())
    if last:
        await response.write(f"data: {last}\n\n".encode())
    await response.write_eof()
    return response


async def main():
    server = Server()
    app = web.Application(client_max_size=BODY_BYTES)
    app.add_routes(
        [
            web.post("/v1/chat/completions", server.chat),
            web.post("/v1/responses", server.responses),
            web.post("/v1/messages", server.messages),
            web.post("/v1/messages/count_tokens", server.count_tokens),
            web.post("/v1beta/models/{model}:{verb:(generate|streamGenerate)Content}", server.gemini),
            web.post("/v1beta/models/{model}:countTokens", server.count_tokens),
            web.get("/v1/models", server.models),
            web.get("/counts", server.counts),
            web.post("/hold", server.hold),
            web.post("/release", server.release),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
