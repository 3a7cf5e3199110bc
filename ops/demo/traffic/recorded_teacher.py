"""A teacher that repeats what was recorded: chat completions over conversations or prompts, `/rerank` over lists.

It stands where a real endpoint would: the gateway reaches it with its real client, prompt file and parser. It listens
on loopback alone, takes a moment for each answer and counts tokens.

Run as `python -m ops.demo.traffic.recorded_teacher --table FILE.jsonl --prompt-file FILE --run-folder FOLDER`.
"""

import argparse
import asyncio
import math
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ops.demo.traffic.recorded_lists import Table, read_lists, rerank_routes
from ops.demo.traffic.recorded_talks import Talks, key_of, read_talks
from ops.readers.classify import TextRow, read_rows
from ops.readers.columns import find_columns
from ops.state.run_files import RunFile, ticks_of, write_run_file
from serve.front.listener import listen
from store.errors import SettingsError
from store.event import Message, canonical_text, wall_clock_s
from store.secrets import unit_hash

RUN_NAME: Final = "teacher"
MEDIAN_S: Final = 0.06  # of an answer; a tenth take more than twice as long
_SPREAD: Final = 0.6  # sigma of the latency's logarithm
_LONGEST_S: Final = 1.0
_CHARS_PER_TOKEN: Final = 4
_MARK: Final = "\x00"
_MAX_BODY_BYTES: Final = 1 << 20
_NO_LISTS: Final[Table] = {}
_NO_TALKS: Final[Talks] = {}


class ChatRequest(msgspec.Struct, frozen=True):
    """What of a chat completion request is read."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around the text in the lane's prompt."""

    before: str
    after: str

    @classmethod
    def of(cls, prompt: str, labels: tuple[str, ...]) -> "Frame":
        """The frame of a prompt file.

        Raises:
            SettingsError: the prompt has no $text, or more than one.
        """
        parts = Template(prompt).safe_substitute(text=_MARK, labels=", ".join(labels)).split(_MARK)
        if len(parts) != 2:  # noqa: PLR2004 - one text makes two parts
            message = "the prompt file must hold $text once"
            raise SettingsError(message)
        return cls(before=parts[0].rsplit("\n", 1)[-1], after=parts[1])

    def text_of(self, content: str) -> str:
        """The text in a filled-in prompt; the whole content where the frame is not found."""
        start = content.find(self.before)
        end = content.rfind(self.after) if self.after else len(content)
        if start < 0 or end < start + len(self.before):
            return content
        return content[start + len(self.before) : end]


def read_table(path: Path) -> dict[str, str]:
    """Canonical text -> recorded answer, the first where a text comes twice.

    Raises:
        SettingsError: the file cannot be read.
    """
    table: dict[str, str] = {}
    for row in read_rows(path, find_columns(path, text=None, label=None), None):
        if isinstance(row, TextRow):
            table.setdefault(canonical_text(row.text), row.label)
    return table


def latency_s(text: str) -> float:
    """How long the answer takes, seconds: log-normal, a function of the text."""
    one, two = unit_hash("latency", text), unit_hash("latency'", text)
    normal = math.sqrt(-2 * math.log(1 - one)) * math.cos(2 * math.pi * two)  # Box and Muller 1958
    return min(_LONGEST_S, MEDIAN_S * math.exp(_SPREAD * normal))


def build_app(table: Mapping[str, str], frame: Frame, lists: Table = _NO_LISTS, talks: Talks = _NO_TALKS) -> Starlette:
    """The server; a text or a list that was never recorded is an error, not a guess."""

    async def complete(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            return _error(413, "request_too_large", f"over {_MAX_BODY_BYTES} bytes")
        try:
            asked = msgspec.json.decode(body, type=ChatRequest)
        except msgspec.MsgspecError as error:
            return _error(400, "invalid_request", str(error))
        text = canonical_text(frame.text_of(asked.messages[-1].content))
        said = talks.get(key_of(asked.messages), table.get(text))
        if said is None:
            return _error(422, "not_recorded", "no answer to this text was recorded")
        await asyncio.sleep(latency_s(text))
        return JSONResponse(_completion(asked, said))

    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), *rerank_routes(lists, latency_s)]
    return Starlette(routes=routes)


def _completion(asked: ChatRequest, said: str) -> dict[str, Any]:
    prompt_tokens = sum(_tokens(message.content) for message in asked.messages)
    answer_tokens = _tokens(said)
    return {
        "id": "chatcmpl-recorded",
        "object": "chat.completion",
        "created": int(wall_clock_s()),
        "model": asked.model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop", "logprobs": None}
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens}
        | {"total_tokens": prompt_tokens + answer_tokens},
    }


def _tokens(text: str) -> int:
    return max(1, math.ceil(len(text) / _CHARS_PER_TOKEN))


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "type": code, "message": message, "param": None}}, status)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; a terminal that hangs up is the demo's to hear."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="A teacher that repeats recorded answers.")
    parser.add_argument("--table", type=Path, help="JSONL with a text and the teacher's answer a row")
    parser.add_argument("--prompt-file", type=Path, help="the prompt file of the lane that --table is for")
    parser.add_argument("--lists", type=Path, help="JSONL with a query, its documents and the teacher's scores a row")
    parser.add_argument("--talks", type=Path, help="JSONL with messages and the teacher's text a row")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, named in the run file")
    parser.add_argument("--run-folder", type=Path, required=True, help="where teacher.json will say where it listens")
    arguments = parser.parse_args()
    if (arguments.table is None) != (arguments.prompt_file is None):
        parser.error("--table and --prompt-file go together")
    table = {} if arguments.table is None else read_table(arguments.table)
    prompt = "$text" if arguments.prompt_file is None else arguments.prompt_file.read_text("utf-8")
    frame = Frame.of(prompt, tuple(sorted(set(table.values()))))
    lists = {} if arguments.lists is None else read_lists(arguments.lists)
    talks = {} if arguments.talks is None else read_talks(arguments.talks)
    with listen("127.0.0.1", arguments.port) as listener:
        where = RunFile(
            name=RUN_NAME,
            pid=os.getpid(),
            started_s=wall_clock_s(),
            started_ticks=ticks_of(os.getpid()),
            port=listener.getsockname()[1],
        )
        write_run_file(arguments.run_folder, where)
        config = uvicorn.Config(build_app(table, frame, lists, talks), log_level="warning", access_log=False)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
