"""A teacher of conversations on a port of its own: it answers by a function, whole or as a stream."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class TalkingTeacher(ThreadingHTTPServer):
    """Says what `says` makes of the messages."""

    daemon_threads = True

    def __init__(self, says: Callable[[list[dict[str, Any]]], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.says = says
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def teaching(says: Callable[[list[dict[str, Any]]], str]) -> Iterator[TalkingTeacher]:
    """One that runs."""
    with TalkingTeacher(says) as teacher:
        threading.Thread(target=teacher.serve_forever, daemon=True).start()
        yield teacher
        teacher.shutdown()


class _Answer(BaseHTTPRequestHandler):
    server: TalkingTeacher

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        text = self.server.says(asked["messages"])
        head = {"id": "t-1", "created": 1, "model": "big-2"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        if asked.get("stream"):
            deltas = [{"role": "assistant", "content": ""}, *({"content": letter} for letter in text)]
            chunks = [{**head, "choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
            chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            chunks.append({**head, "choices": [], "usage": usage})
            lines = [json.dumps({**one, "object": "chat.completion.chunk"}) for one in chunks]
            body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            body = json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if asked.get("stream") else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
