"""An agent of the Agent Client Protocol by the standard library alone: it keeps notes, and asks before it writes."""

import itertools
import json
import os
import sys

numbers = itertools.count(1)
sessions = {}


def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def ask(method, **params):
    """Sends a request to the client, and returns its result."""
    number = next(numbers)
    send(id=number, method=method, params=params)
    for line in sys.stdin:
        answer = json.loads(line)
        if answer.get("id") == number and "method" not in answer:
            return answer.get("result") or {}
    sys.exit(0)


def say(session, text):
    content = {"type": "text", "text": text}
    update = {"sessionUpdate": "agent_message_chunk", "content": content}
    send(method="session/update", params={"sessionId": session, "update": update})


def prompt(params):
    session = params["sessionId"]
    text = params["prompt"][0]["text"]
    notes = sessions[session]
    notes.append(text)
    call = {"toolCallId": "1", "title": f"Write {len(notes)} notes", "kind": "edit"}
    options = [
        {"optionId": "yes", "name": "Write", "kind": "allow_once"},
        {"optionId": "no", "name": "Do not write", "kind": "reject_once"},
    ]
    asked = ask("session/request_permission", sessionId=session, toolCall=call, options=options)
    if asked["outcome"].get("optionId") != "yes":
        notes.pop()
        say(session, "not written")
    else:
        path = os.path.join(os.getcwd(), "notes.txt")
        ask("fs/write_text_file", sessionId=session, path=path, content="\n".join(notes) + "\n")
        say(session, f"written: {text}")
    return {"stopReason": "end_turn"}


def new_session(_params):
    name = f"notes-{len(sessions) + 1}"
    sessions[name] = []
    return {"sessionId": name}


METHODS = {
    "initialize": lambda _: {"protocolVersion": 1, "agentInfo": {"name": "notes", "version": "1"}},
    "session/new": new_session,
    "session/prompt": prompt,
}

for line in sys.stdin:
    message = json.loads(line)
    method = METHODS.get(message.get("method"))
    if method is not None:
        send(id=message["id"], result=method(message["params"]))
    elif "id" in message:
        send(id=message["id"], error={"code": -32601, "message": "no such method"})
