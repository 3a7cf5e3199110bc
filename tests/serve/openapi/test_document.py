"""The document says what the code says: its examples, its bounds, its codes; and who may read it."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis

from serve.app import build_app
from serve.openapi.document import PATH, document
from serve.openapi.operation import NOT_BLANK
from serve.openapi.responses import ERRORS
from serve.settings import GatewaySettings
from serve.tasks.face import RequestLimits
from serve.tasks.tasks import PATHS
from tests.serve.client import run
from tests.serve.fakes import World
from tests.serve.openapi.lanes import KEY, services

LIMITS = RequestLimits(max_inputs=3, max_documents=4, max_text_chars=5, max_message_chars=6)
WIDE = RequestLimits(max_inputs=256, max_documents=1_000, max_text_chars=20_000, max_message_chars=200_000)
OF_STREAMS = {("500", "internal_error"), ("502", "teacher_down")}  # a stream's last event, after its 200
OF_NO_PATH = {("404", "unknown_path"), ("405", "method_not_allowed")}


def resolved(told: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": told["components"]}


def test_it_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(document(WIDE)).validate()


@pytest.mark.parametrize("path", PATHS)
def test_its_examples_are_what_its_schemas_allow(path: str) -> None:
    told = document(WIDE)
    asked = told["paths"][path]["post"]
    for content in (asked["requestBody"]["content"], asked["responses"]["200"]["content"]):
        body = content["application/json"]
        assert body["examples"]
        for example in body["examples"].values():
            jsonschema.Draft202012Validator(resolved(told, body["schema"])).validate(example["value"])


def test_what_is_blank_is_what_python_strips() -> None:
    letters = [chr(code) for code in range(sys.maxunicode + 1)]
    assert [one for one in letters if bool(re.search(NOT_BLANK, one)) != bool(one.strip())] == []


def test_its_bounds_are_the_settings_of_this_gateway() -> None:
    schemas = document(LIMITS)["components"]["schemas"]
    ranked = schemas["RankRequest"]["properties"]
    assert (ranked["documents"]["maxItems"], ranked["query"]["maxLength"]) == (4, 5)
    assert [one.get("maxItems") for one in schemas["ClassifyRequest"]["properties"]["input"]["anyOf"]] == [None, 3]
    said = schemas["ChatRequest"]["properties"]["messages"]
    assert (said["maxItems"], said["items"]["properties"]["content"]["anyOf"][0]["maxLength"]) == (4, 6)
    assert "max_" not in re.sub(r"max_(completion_)?tokens", "", str(schemas))


def test_every_code_that_the_gateway_raises_is_told_by_its_status() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (Path(__file__).parents[3] / "serve").rglob("*.py"))
    raised = set(re.findall(r'ApiError\((\d{3}), "(\w+)"', sources))
    told = {(str(status), code) for status, (_, codes) in ERRORS.items() for code in codes}
    assert raised - told == OF_STREAMS | OF_NO_PATH


def test_who_may_ask_for_models_may_read_it(tmp_path: Path) -> None:
    async def main() -> None:
        app = build_app(services(tmp_path, KEY), GatewaySettings())
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            keyless = await client.get(PATH)
            assert (keyless.status_code, keyless.json()["error"]["code"]) == (401, "invalid_api_key")
            told = await client.get(PATH, headers={"Authorization": f"Bearer {KEY}"})
            assert told.json() == json.loads(json.dumps(document(WIDE)))

    asyncio.run(main())


def test_what_is_served_nowhere_is_refused_in_the_envelope(tmp_path: Path) -> None:
    async def step(client: httpx.AsyncClient, _: object) -> None:
        absent = await client.post("/v1/embeddings", json={})
        assert (absent.status_code, absent.json()["error"]["code"]) == (404, "unknown_path")
        assert PATH in absent.json()["error"]["message"]
        refused = await client.put("/v1/classify", json={})
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert refused.json()["error"]["code"] == "method_not_allowed"

    run(World(tmp_path), step)


def test_a_fault_of_ours_is_told_in_the_envelope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "a bug"
        raise RuntimeError(message)

    async def main() -> None:
        monkeypatch.setattr("serve.app._caller", fail)
        app = build_app(World(tmp_path).services(), GatewaySettings())
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            failed = await client.get(PATH)
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
        assert "a bug" not in failed.text

    asyncio.run(main())
