"""What clients of rerankers send, and what they read: Cohere's as it was recorded, LiteLLM's as its call has it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.lifecycle import Gateway
from tests.serve.client import run
from tests.serve.rank.fakes import FakeRanker, rank_world

KEY = "a-long-random-string"
DOCUMENTS = ["a red kite", "a blue boat", "soup"]
COHERE = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, zstd",
    "authorization": f"Bearer {KEY}",
    "content-type": "application/json",
    "user-agent": "cohere/7.3.1",
    "x-fern-language": "Python",
    "x-fern-sdk-name": "cohere",
}
SENT: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    (
        "cohere.ClientV2",
        "/v2/rerank",
        COHERE,
        {"model": "intent", "query": "red kite", "documents": DOCUMENTS, "top_n": 2},
    ),
    (
        "cohere.Client",
        "/v1/rerank",
        COHERE,
        {
            "model": "intent",
            "query": "red kite",
            "documents": [{"text": text} for text in DOCUMENTS],
            "rank_fields": ["text"],
            "return_documents": True,
        },
    ),
    (
        "litellm.rerank",
        "/rerank",
        {"authorization": f"bearer {KEY}", "accept": "application/json", "content-type": "application/json"},
        {
            "model": "intent",
            "query": "red kite",
            "documents": DOCUMENTS,
            "top_n": 3,
            "rank_fields": None,
            "return_documents": True,
            "max_chunks_per_doc": None,
            "max_tokens_per_doc": None,
        },
    ),
]


@pytest.mark.parametrize(("client_name", "path", "headers", "body"), SENT, ids=[one[0] for one in SENT])
def test_a_client_is_answered_in_the_shape_that_it_reads(
    tmp_path: Path, client_name: str, path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    world = rank_world(tmp_path)
    world.api_keys = (KEY,)
    world.serve(student=FakeRanker())

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(path, json=body, headers=headers)
        assert response.status_code == 200, client_name
        found = response.json()
        assert isinstance(found["id"], str)
        assert isinstance(found["meta"]["api_version"]["version"], str)
        assert [one["index"] for one in found["results"]] == [0, 1, 2][: body.get("top_n")]
        assert all(isinstance(one["relevance_score"], float) for one in found["results"])
        texts = [one.get("document", {}).get("text") for one in found["results"]]
        assert texts == (
            [DOCUMENTS[one["index"]] for one in found["results"]] if body.get("return_documents") else [None] * 2
        )

    run(world, step, host="192.0.2.7")
