"""schemathesis asks the gateway whatever its document allows, and what it does not, and finds nothing to tell."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.openapi.document import PATH
from tests.serve.openapi.lanes import KEY, LANES, listening
from tests.serve.openapi.played import narrowed, schemathesis

OPERATIONS = 13
CHAT = "/v1/chat/completions"
NATIVE = {
    **dict.fromkeys(("/classify", "/v1/classify"), ("ClassifyRequest", LANES["classify"])),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), ("RankRequest", LANES["rank"])),
}
AS_CHAT = NATIVE | {CHAT: ("ChatRequest", LANES["chat"])}
AS_LABELS = NATIVE | {CHAT: ("LabelRequest", LANES["classify"])}
ALSO = ("/classify", "/rerank", "/v2/rerank")
"""Other names of paths that are asked in any case."""
KEYED = ("--header", f"X-API-Key: {KEY}")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with listening(tmp_path_factory.mktemp("gateway"), KEY) as address:
        yield address


def document(url: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(url + PATH, headers={"X-API-Key": KEY}).raise_for_status().json()
    return told


def held(url: str, folder: Path, *, examples: int, seed: int, without: Sequence[str] = ()) -> None:
    """See that every task's requests, and labels told as chat completions, are answered as the document says."""
    bound = ("--max-examples", str(examples), "--seed", str(seed), "--phases", "examples,coverage,fuzzing")
    left = [word for path in without for word in ("--exclude-path", path)]
    whole = schemathesis(narrowed(document(url), AS_CHAT), url, folder, *KEYED, *bound, *left)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert f"Tested: {OPERATIONS - len(without)}" in whole.stdout
    labels = ("--include-path", CHAT)
    told = schemathesis(narrowed(document(url), AS_LABELS), url, folder, *KEYED, *bound, *labels, config="labels.toml")
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.timeout(900)  # a fifth of a minute, and a slow machine
def test_the_gateway_keeps_to_its_document(url: str, tmp_path: Path) -> None:
    held(url, tmp_path, examples=5, seed=1, without=ALSO)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_the_gateway_keeps_to_its_document_in_hundreds_of_examples(url: str, tmp_path: Path, seed: int) -> None:
    held(url, tmp_path, examples=200, seed=seed)


def test_a_document_that_lies_is_found_out(url: str, tmp_path: Path) -> None:
    lying = narrowed(document(url), AS_CHAT)
    schemas = lying["components"]["schemas"]
    schemas["Labelled"]["properties"]["label"] = {"type": "integer"}
    schemas["Chunk"]["properties"]["created"] = {"type": "string"}
    del lying["paths"]["/v1/rerank"]["post"]["responses"]["200"]
    paths = [word for path in ("/classify", "/v1/rerank", CHAT) for word in ("--include-path", path)]
    found = schemathesis(lying, url, tmp_path, *KEYED, "--phases", "examples", *paths)
    assert found.returncode == 1, found.stdout + found.stderr
    for lie in ("Response violates schema", "SSE event violates schema", "Undocumented status code"):
        assert lie in found.stdout
