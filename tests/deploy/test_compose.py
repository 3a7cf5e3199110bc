"""compose.yaml: Docker Compose takes it, and its settings, graces, health checks and targets are those of the code.

Nothing is started here: there is no daemon.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ops.addresses import port_names
from ops.init import init
from ops.processes.limits import _MOST_FILES
from ops.processes.run.start import GRACE_S
from ops.settings import Settings
from serve.front.names import known_host
from stream.log import topic_of
from tests.deploy.facts import ADMIN_PORTS, DEPLOY, admin_answers, process_of, seconds, tool
from tests.integration.alerting import program
from tests.ops.test_named_commands import fault_of
from tests.ops.test_wheel import VERSION

FOLDER: Final = DEPLOY / "compose"
OURS: Final = {"gateway": "serve", "ingest": "ingest", "trainer": "train"}
POM: Final = (DEPLOY.parent / "tests" / "kafka" / "pom.xml").read_text("utf-8")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole file as Docker Compose understands it, with the example of its variables filled in."""
    folder = tmp_path_factory.mktemp("compose")
    example = (FOLDER / "example.env").read_text("utf-8")
    (folder / ".env").write_text(re.sub(r"(?m)^GRAFANA_PASSWORD=$", "GRAFANA_PASSWORD=a-word", example), "utf-8")
    arguments = ("-f", FOLDER / "compose.yaml", "--env-file", folder / ".env", "--profile", "*", "config")
    found: dict[str, Any] = json.loads(tool("docker-compose", *arguments, "--format", "json"))
    return found


def test_the_whole_stack_is_there(stack: dict[str, Any]) -> None:
    stores = {"redis", "kafka", "prometheus", "alertmanager", "grafana"}
    assert set(stack["services"]) == {*OURS, *stores, "init"}
    for name, service in stack["services"].items():
        assert re.fullmatch(r"([\w-]+/)?[\w-]+:[\w.-]+", service["image"]), f"{name}: no host, and a version"
    assert stack["services"]["gateway"]["image"] == f"understudy:{VERSION}"
    assert stack["services"]["kafka"]["image"].rpartition(":")[2] in POM, "the one that the tests run"


@pytest.mark.parametrize(("service", "name"), OURS.items())
def test_a_process_of_ours_is_started_stopped_and_asked_as_it_is(
    stack: dict[str, Any], service: str, name: str
) -> None:
    found = stack["services"][service]
    assert process_of(found["command"]) == name
    assert seconds(found["stop_grace_period"]) > GRACE_S[name]
    assert found["ulimits"]["nofile"] == _MOST_FILES
    assert found["hostname"] == service, "a replica is called the same after each start"
    assert found["read_only"]
    assert found["cap_drop"] == ["ALL"]
    urls = re.findall(r"'http://127\.0\.0\.1:(\d+)(/\w+)'", found["healthcheck"]["test"][-1])
    assert [int(port) for port, _ in urls] == [ADMIN_PORTS[name]]
    with admin_answers() as client:
        assert client.get(urls[0][1]).text.startswith("ok")


def test_the_first_command_makes_an_installation(stack: dict[str, Any]) -> None:
    assert fault_of(shlex.join(stack["services"]["init"]["command"])) is None


def test_the_settings_of_an_installation_are_read_with_the_variables_of_the_stack(
    stack: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(tmp_path)
    services = [stack["services"][service] for service in OURS]
    assert services[0]["environment"] == services[1]["environment"] == services[2]["environment"]
    for name, value in services[0]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(tmp_path / "understudy.toml")
    assert (settings.log.kind, settings.log.bootstrap) == ("kafka", "kafka:9092")
    assert settings.redis.url == "redis://redis:6379/0"
    mount = stack["services"]["gateway"]["volumes"][0]["target"]
    assert settings.state_dir.is_relative_to(mount), "the root file system is read-only"
    names = port_names(settings.admin.host, settings.admin.allowed_hosts)
    assert all(known_host(f"{service}:{ADMIN_PORTS[name]}", names) for service, name in OURS.items())
    assert not known_host("elsewhere:9471", names)
    (published,) = stack["services"]["gateway"]["ports"]
    assert (published["host_ip"], published["target"]) == ("127.0.0.1", settings.gateway.port)


def test_kafka_and_redis_keep_what_they_are_given_and_are_reached_from_inside_alone(stack: dict[str, Any]) -> None:
    command = " ".join(stack["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert stack["networks"]["inside"]["internal"]
    for name in ("redis", "kafka"):
        assert list(stack["services"][name]["networks"]) == ["inside"]
        assert "ports" not in stack["services"][name]
        assert [volume["type"] for volume in stack["services"][name]["volumes"]] == ["volume"]
    assert topic_of("support")  # which the processes make themselves, with one copy: there is one broker


def test_every_mounted_file_is_there(stack: dict[str, Any]) -> None:
    mounted = [
        Path(volume["source"])
        for service in stack["services"].values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind" and str(DEPLOY) in volume["source"]
    ]
    assert len(mounted) > 4
    assert [path for path in mounted if not path.exists()] == []


def test_prometheus_reads_its_file_and_scrapes_each_process(stack: dict[str, Any], tmp_path: Path) -> None:
    for path in (FOLDER / "prometheus.yml", DEPLOY / "prometheus" / "understudy.rules.yml"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    assert "SUCCESS" in program("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    jobs = [one for job in config["scrape_configs"] for one in job["static_configs"]]
    targets = {target for one in jobs for target in one["targets"]}
    assert targets == {f"{service}:{ADMIN_PORTS[name]}" for service, name in OURS.items()}
    told = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert [one.partition(":")[0] for one in told] == ["alertmanager"]
    assert "alertmanager" in stack["services"]
