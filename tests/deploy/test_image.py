"""The Dockerfile: a linter reads it, what it copies is there, and the image is what compose and Kubernetes take it for.

No image is built here: there is no daemon.
"""

import json
import re
from fnmatch import fnmatch
from typing import Final

from ops.sections import AdminSection, GatewaySection
from tests.deploy.facts import DEPLOY, ROOT, tool
from tests.ops.test_layout import ROOMS
from tests.ops.test_wheel import VERSION

FILE: Final = DEPLOY / "docker" / "Dockerfile"
LINES: Final = re.sub(r"\\\n\s*", " ", FILE.read_text("utf-8")).splitlines()
IGNORED: Final = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()


def said(instruction: str) -> list[str]:
    """What the lines of an instruction say, in order."""
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def test_the_linter_has_nothing_to_say() -> None:
    assert tool("hadolint", "--failure-threshold", "style", FILE) == ""


def test_what_is_copied_is_there_and_what_is_installed_is_copied() -> None:
    sources = [word for line in said("COPY") if not line.startswith("--from") for word in line.split()[:-1]]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert set(sources) == {*ROOMS, "constraints.txt", "pyproject.toml", "README.md"}
    assert {line[1:] for line in IGNORED if line.startswith("!")} == set(sources), "the build sees what it copies"
    assert "*" in IGNORED


def test_keys_settings_and_state_never_get_into_an_image() -> None:
    allowed = [line[1:] for line in IGNORED if line.startswith("!")]
    for name in (
        "keys/trainer",
        "data.secret",
        "understudy.toml",
        "secrets.env",
        "state/run/serve.json",
        ".git/config",
    ):
        assert not any(fnmatch(name, one) or name.startswith(f"{one}/") for one in allowed)


def test_the_ports_are_those_of_the_settings() -> None:
    admin = AdminSection()
    ports = {GatewaySection().port, admin.serve_port, admin.ingest_port, admin.train_port}
    assert {int(port) for line in said("EXPOSE") for port in line.split()} == ports


def test_the_process_hears_signals_and_is_nobody() -> None:
    assert json.loads(said("ENTRYPOINT")[0]) == ["tini", "--", "understudy"]
    assert said("STOPSIGNAL") == ["SIGTERM"]
    user, _, group = said("USER")[0].partition(":")
    assert int(user) == int(group) > 0


def test_there_is_a_target_with_cuda_and_one_without_the_latter_by_default() -> None:
    assert [line.rpartition(" ")[2] for line in said("FROM")] == ["build", "runtime", "cuda", "cpu"]


def test_the_release_is_the_one_that_is_built() -> None:
    named = set(re.findall(r"understudy:(\S+?)(?:-cuda)? ", FILE.read_text("utf-8")))
    assert named == {VERSION}
