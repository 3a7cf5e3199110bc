"""The requests of the serving benchmark, for both of its processes; it imports nothing that is slow to import."""

import json
from functools import cache
from pathlib import Path

from store.event import RankInput

LISTS = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "rerank.jsonl"


@cache
def lists_of(count: int) -> tuple[RankInput, ...]:
    """Lists of eight documents."""
    rows = [json.loads(line) for line in LISTS.read_text("utf-8").splitlines()[:count]]
    return tuple(RankInput(query=row["query"], documents=row["documents"]) for row in rows)


@cache
def texts_of(count: int) -> tuple[str, ...]:
    """Distinct texts of some twenty words."""
    return tuple(" ".join((one.query, *one.documents[:1])) for one in lists_of(count))
