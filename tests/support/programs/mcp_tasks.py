"""MCP servers with tools that run as tasks only: of 2025-11-25 by the standard library, of 2026-07-28 by the official SDK."""

import json
import sys
from typing import Any

CALLS: dict[str, int] = {}
"""Number of questions about each task."""

CANCELLED: list[str] = []

REQUIRED = ("slow", "fails", "forgets", "endless", "left", "odd", "garbage", "dies", "asks")


def text(words: str, *, is_error: bool = False) -> Any:
    return {"content": [{"type": "text", "text": words}], "isError": is_error}


def shown(task: str, status: str) -> Any:
    moment = "2026-01-01T00:00:00Z"
    return {
        "taskId": task,
        "status": status,
        "createdAt": moment,
        "lastUpdatedAt": moment,
        "ttl": 60_000,
        "pollInterval": 1,
    }


class Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.wire = {"code": code, "message": message}


def call(params: Any) -> Any:
    name = params["name"]
    if name == "cancelled":
        return text(",".join(CANCELLED))
    if name == "looked_at":
        return text(",".join(task for task, count in CALLS.items() if count))
    if name == "optional":
        return text("plain" if "task" not in params else "task")
    if "task" not in params:
        raise Refused(-32601, "a task is required")
    if name == "garbage":
        return {"task": {"taskId": 7}}
    CALLS[name] = 0
    return {"task": shown(name, "working")}


def about(method: str, task: str) -> Any:
    CALLS[task] += 1
    if method == "tasks/cancel":
        CANCELLED.append(task)
        return shown(task, "cancelled")
    if method == "tasks/result":
        if task == "asks":
            return ask()
        return text(f"{task} is done", is_error=task == "fails")
    match task:
        case "forgets":
            raise Refused(-32602, "no such task")
        case "odd":
            return shown(task, "nearly")
        case "dies":
            sys.exit(1)
        case "endless" | "left":
            return shown(task, "working")
        case "asks":
            return shown(task, "input_required")
        case _:
            pass
    ended = "failed" if task == "fails" else "completed"
    return shown(task, "working" if CALLS[task] < 3 else ended)


def ask() -> Any:
    params: Any = {"message": "sure?", "requestedSchema": {"type": "object", "properties": {}}}
    send({"id": "q", "method": "elicitation/create", "params": params})
    answer = json.loads(sys.stdin.readline())
    return text(str(answer.get("result", {}).get("action")))


def send(message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answered(method: str, params: Any) -> Any:
    if method == "initialize":
        tasks: Any = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, "tasks": tasks},
            "serverInfo": {"name": "tasked", "version": "1"},
        }
    if method == "tools/list":
        support = {**dict.fromkeys(REQUIRED, "required"), "optional": "optional"}
        tools = [
            {"name": name, "inputSchema": {"type": "object"}, "execution": {"taskSupport": how}}
            for name, how in support.items()
        ]
        plain = [{"name": name, "inputSchema": {"type": "object"}} for name in ("cancelled", "looked_at")]
        return {"tools": [*tools, *plain]}
    if method == "tools/call":
        return call(params)
    if method.startswith("tasks/"):
        return about(method, params["taskId"])
    raise Refused(-32601, "no such method")


def legacy() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        try:
            result = answered(message["method"], message.get("params") or {})
            send({"id": message["id"], "result": result})
        except Refused as refused:
            send({"id": message["id"], "error": refused.wire})


def modern() -> None:
    import anyio  # noqa: PLC0415  only this server has the SDK
    from mcp.server.extension import Extension, MethodBinding  # noqa: PLC0415  as above
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415  as above
    from mcp_types import RequestParams  # noqa: PLC0415  as above
    from pydantic import Field  # noqa: PLC0415  as above

    from mcp import MCPError  # noqa: PLC0415  as above

    identifier = "io.modelcontextprotocol/tasks"

    class About(RequestParams):
        task_id: str = Field(alias="taskId")
        responses: Any = Field(None, alias="inputResponses")

    said: list[str] = []
    forms: Any = {
        "which": {
            "method": "elicitation/create",
            "params": {
                "message": "Which?",
                "mode": "form",
                "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
        }
    }

    def of_task(task: str, status: str, **more: Any) -> Any:
        found = {**shown(task, status), "ttlMs": 60_000, "pollIntervalMs": 1, **more}
        return {key: found[key] for key in found if key not in ("ttl", "pollInterval")}

    class Tasks(Extension):
        def __init__(self) -> None:
            self.identifier = identifier

        def methods(self) -> Any:
            return [
                MethodBinding("tasks/get", About, self.get),
                MethodBinding("tasks/cancel", About, self.cancel),
                MethodBinding("tasks/update", About, self.update),
            ]

        async def update(self, _context: Any, params: Any) -> Any:
            said.append(params.responses["which"]["content"]["name"])
            CALLS[params.task_id] = 1  # it takes a moment to notice
            return {}

        async def get(self, _context: Any, params: Any) -> Any:
            CALLS[params.task_id] += 1
            if params.task_id == "asks" and (not said or CALLS[params.task_id] < 3):
                return of_task(params.task_id, "input_required", inputRequests=forms)
            if params.task_id == "asks":
                return of_task(params.task_id, "completed", result=text(said.pop()))
            if params.task_id == "endless" or CALLS[params.task_id] < 3:
                return of_task(params.task_id, "working")
            if params.task_id == "fails":
                error = {"code": -32603, "message": "broken"}
                return of_task(params.task_id, "failed", error=error)
            return of_task(params.task_id, "completed", result=text(f"{params.task_id} is done"))

        async def cancel(self, _context: Any, params: Any) -> Any:
            CANCELLED.append(params.task_id)
            return {}

        async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
            if params.name == "cancelled":
                return await call_next(ctx)
            meta: Any = ctx.meta or {}
            declared: Any = meta.get("io.modelcontextprotocol/clientCapabilities") or {}
            if identifier not in (declared.get("extensions") or {}):
                needed: Any = {"extensions": {identifier: {}}}
                raise MCPError(-32021, "tasks are required", {"requiredCapabilities": needed})
            CALLS[params.name] = 0
            return {"resultType": "task", **of_task(params.name, "working")}

    server = MCPServer("tasked", extensions=[Tasks()])

    for name in ("slow", "fails", "endless", "asks"):
        server.tool(name=name)(lambda: "never")
    server.tool(name="cancelled")(lambda: ",".join(CANCELLED))
    anyio.run(server.run_stdio_async)


if __name__ == "__main__":
    {"legacy": legacy, "modern": modern}[sys.argv[1]]()
