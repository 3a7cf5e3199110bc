"""The pages that people read, and what stands in them: links, anchors, commands, code and names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for place in ("*.md", "docs/**/*.md", "deploy/**/*.md")
        for path in ROOT.glob(place)
    )
)
_FENCE: Final = re.compile(r"^(```+)([^\n]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_TYPED: Final = re.compile(r"(?:^<!-- run ?(\d*) -->\n)?^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TO_RUN: Final = re.compile(r"^<!-- run ?(\d*) -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block that a reader types, or a program that they run."""

    language: str
    body: str
    code: int  # its last command ends with


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A console block that a test runs."""

    script: str
    code: int  # its last command ends with


def text_of(page: str) -> str:
    """A page as it is."""
    return (ROOT / page).read_text("utf-8")


def prose_of(page: str) -> str:
    """A page without its blocks of code and its comments."""
    return _COMMENT.sub("", _FENCE.sub("", text_of(page)))


def links_of(page: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return _LINK.findall(_CODE.sub(lambda code: code[0] if "](" in code[0] else "", prose_of(page)))


def anchors_of(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        anchors.add(f"{name}-{count}" if count else name)
    return anchors


def code_of(page: str) -> list[str]:
    """What stands in backticks in a page's prose, a line each."""
    return [" ".join(code.split()) for code in _CODE.findall(prose_of(page))]


def blocks_of(page: str, language: str) -> list[str]:
    """The blocks of a language."""
    return [body for _, name, body in _FENCE.findall(text_of(page)) if name.strip() == language]


def typed_in(page: str) -> Iterator[str]:
    """The command lines of a page's console blocks: after `$` or `#`, continued lines joined."""
    for block in blocks_of(page, "console"):
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from re.findall(r"^[$#] (.+)$", joined, re.MULTILINE)


def all_blocks_of(page: str) -> list[Block]:
    """What a page has its reader type or run, in its order."""
    found = _TYPED.findall(text_of(page))
    return [Block(language=language, body=body, code=int(code or 0)) for code, language, body in found]


def sessions_of(page: str) -> list[Session]:
    """The console blocks that are marked to be run."""
    found = _TO_RUN.findall(text_of(page))
    return [Session(script=re.sub(r"^\$ ", "", body, flags=re.MULTILINE), code=int(code or 0)) for code, body in found]
