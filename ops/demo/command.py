"""Runs the real command line as an operator would, and reads its JSON."""

import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ops.demo.processes import DemoError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One command that has ended."""

    code: int
    answer: dict[str, Any]
    seconds: float  # start of the process to its end


async def run_json(*command: str, timeout_s: float = 90.0) -> Ran:
    """Run `python -m …` and read the JSON object that it printed.

    Raises:
        DemoError: it ended without one, or took longer than `timeout_s`.
    """
    started_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the demo alone
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        message = f"`{' '.join(command)}` took longer than {timeout_s:.0f} s"
        raise DemoError(message) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    seconds = time.monotonic() - started_s
    try:
        answer = json.loads(output)
    except ValueError as error:
        message = (
            f"`{' '.join(command)}` ended with code {process.returncode}: {errors.decode(errors='replace')[-400:]}"
        )
        raise DemoError(message) from error
    return Ran(code=process.returncode or 0, answer=answer, seconds=seconds)
