"""schemathesis, by its own command, against a server that runs: all its checks, a fixed seed, so many examples."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
HERE: Final = Path(__file__).parent
JSON: Final = "application/json"
_PATIENT: Final = ("--suppress-health-check", "all", "--request-timeout", "120")  # a slow machine is no finding


def schemathesis(
    document: dict[str, Any], url: str, folder: Path, *options: str, config: str = "schemathesis.toml"
) -> subprocess.CompletedProcess[str]:
    """What it finds of a server at `url` that is told by `document`; ends with 1 where that is anything."""
    told = folder / "openapi.json"
    told.write_text(json.dumps(document))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / config), "run", str(told)]
    places = {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "SCHEMATHESIS_HOOKS": f"{__package__}.hooks"}  # noqa: TID251
    return subprocess.run(
        [*command, "--url", url, *_PATIENT, "--continue-on-failure", "--no-color", *options],
        cwd=folder,
        env={**os.environ, **places},  # noqa: TID251
        capture_output=True,
        text=True,
        check=False,
    )


def narrowed(document: dict[str, Any], use_cases: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The document as a client reads it who knows its lanes: by path the one request and model that is asked there."""
    for path, item in document["paths"].items():
        if path not in use_cases:
            continue
        schema, model = use_cases[path]
        content = item["post"]["requestBody"]["content"][JSON]
        content["schema"] = {
            "allOf": [{"$ref": f"#/components/schemas/{schema}"}],
            "properties": {"model": {"enum": [model]}},
        }
        examples = content["examples"].items()
        content["examples"] = {name: one for name, one in examples if one["value"]["model"] == model}
    return document
