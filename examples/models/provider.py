"""A provider of models for trying things out: it speaks as OpenAI's chat completions do, on loopback, and repeats what it is told.

A word is a token. GET /counts returns the tokens that it has served, to be compared with those that corral has measured.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

counts = {"calls": 0, "tokens": 0}


class Provider(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tells the counts."""
        self.answer(200, counts)

    def do_POST(self) -> None:
        """Answers a chat, whole or as a stream."""
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Bearer key-of-the-provider":
            self.answer(401, {"error": {"message": "wrong key", "type": "invalid_request_error"}})
            return
        if asked["model"] == "down":
            self.answer(503, {"error": {"message": "no capacity", "type": "server_error"}})
            return
        words = asked["messages"][-1]["content"].split()
        total = 2 * len(words)
        counts["calls"] += 1
        counts["tokens"] += total
        usage = {"prompt_tokens": total // 2, "completion_tokens": total // 2, "total_tokens": total}
        head = {"id": "1", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": " ".join(words)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self.answer(200, answer)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        head["object"] = "chat.completion.chunk"
        for word in words:
            delta = {"index": 0, "finish_reason": None, "delta": {"content": f"{word} "}}
            self.event({**head, "choices": [delta]})
        if asked.get("stream_options", {}).get("include_usage"):
            self.event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, value: object) -> None:
        """Sends one event of a stream."""
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def answer(self, status: int, value: object) -> None:
        """Sends one JSON value."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Writes no line for each request."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Provider).serve_forever()
