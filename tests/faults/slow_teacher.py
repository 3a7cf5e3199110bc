"""An OpenAI-compatible endpoint on loopback that takes its time, and counts what it is paid for."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}


class SlowTeacher(ThreadingHTTPServer):
    """Answers `refund` after so many seconds."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.seconds = seconds
        self.asked = 0  # every call that came in: all of them are billed
        self.guard = threading.Lock()


class _Answer(BaseHTTPRequestHandler):
    server: SlowTeacher

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.guard:
            self.server.asked += 1
        time.sleep(self.server.seconds)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "refund"}}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice]}
        body = json.dumps({**answer, "usage": _USAGE}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def slow_teacher(seconds: float) -> Iterator[SlowTeacher]:
    """A running one."""
    with SlowTeacher(seconds) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
