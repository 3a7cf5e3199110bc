"""Log lines are JSON, name their process on every thread, and stay bounded."""

import json
import subprocess
import sys
from typing import Any

from ops.logs.lines import MAX_FIELD_CHARACTERS, MAX_TRACEBACK_CHARACTERS, bound_fields
from tests.ops.children import REPOSITORY

PROGRAM = """
import logging, threading
import structlog
from ops.logs import lines as logs
logs.configure("serve")
log = structlog.get_logger("a.room")
thread = threading.Thread(target=lambda: log.warning("from a thread", text="x" * 10_000))
thread.start(); thread.join()
logging.getLogger("httpx2").info("HTTP Request: nobody wants to read this")
logging.getLogger("a.library").error("of a library: %s", "y")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def lines() -> list[dict[str, Any]]:
    found = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in found.stderr.splitlines()]


def test_lines_of_ours_and_of_libraries_are_json_with_the_process_and_a_time() -> None:
    thread, library, failed = lines()
    assert all(line["process"] == "serve" and line["timestamp"].endswith("Z") for line in (thread, library, failed))
    assert (thread["event"], thread["level"], thread["logger"]) == ("from a thread", "warning", "a.room")
    assert (library["event"], library["logger"]) == ("of a library: y", "a.library")
    assert failed["exception"].endswith("ZeroDivisionError: division by zero")
    assert len(thread["text"]) < MAX_FIELD_CHARACTERS + 50


def test_of_a_traceback_the_end_is_kept() -> None:
    long = "start" + "-" * 10_000 + "the error"
    found = bound_fields(None, "error", {"exception": long, "number": 10**600})
    assert found["exception"].endswith("the error")
    assert len(found["exception"]) == MAX_TRACEBACK_CHARACTERS
    assert found["number"] == 10**600
