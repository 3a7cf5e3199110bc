"""compose.yaml: Docker Compose takes it, and its settings, graces, health checks and targets are those of the code.

Nothing is started here: there is no daemon.
"""

import json
import re
import shlex
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import yaml

from ops.addresses import port_names
from ops.brokers.kafka import kafka_settings
from ops.init import init
from ops.processes.limits import _MOST_FILES
from ops.processes.run.start import GRACE_S
from ops.settings import Settings
from ops.site import Site
from serve.front.names import known_host
from store.buffer.ledger import BEGINNING, LogSlot
from store.buffer.redis import RedisBuffer
from store.buffer.server import find_server
from store.errors import LogUnavailableError
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaSettings, KafkaTopics
from stream.log import topic_of
from tests.deploy.facts import ADMIN_PORTS, DEPLOY, admin_answers, process_of, ran, seconds, tool
from tests.integration.alerting import free_port, program
from tests.integration.test_secured import redis_rules
from tests.kafka.broker import Door, running_broker
from tests.kafka.fixtures import tidy_sockets
from tests.ops.stand import until
from tests.ops.test_named_commands import fault_of
from tests.ops.test_wheel import VERSION

__all__ = ["tidy_sockets"]

FOLDER: Final = DEPLOY / "compose"
WORD: Final = "0123456789abcdef"  # for every password
OURS: Final = {"gateway": "serve", "ingest": "ingest", "trainer": "train"}
POM: Final = (DEPLOY.parent / "tests" / "kafka" / "pom.xml").read_text("utf-8")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole file as Docker Compose understands it, with the example of its variables filled in."""
    folder = tmp_path_factory.mktemp("compose")
    example = (FOLDER / "example.env").read_text("utf-8")
    (folder / ".env").write_text(re.sub(r"(?m)^(\w+_PASSWORD)=$", rf"\1={WORD}", example), "utf-8")
    found: dict[str, Any] = json.loads(tool("docker-compose", *config(folder / ".env"), "--format", "json"))
    return found


def config(variables: Path) -> tuple[str | Path, ...]:
    return ("-f", FOLDER / "compose.yaml", "--env-file", variables, "--profile", "*", "config")


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
    assert settings.redis.url == f"redis://understudy:{WORD}@redis:6379/0"
    kafka = kafka_settings(Site(settings))
    assert (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN")
    assert (kafka.sasl_username, kafka.sasl_password) == ("understudy", WORD)
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


@pytest.mark.parametrize("missing", ["REDIS_PASSWORD", "KAFKA_PASSWORD", "GRAFANA_PASSWORD"])
def test_a_password_that_is_not_set_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    example = (FOLDER / "example.env").read_text("utf-8")
    text = re.sub(r"(?m)^(\w+_PASSWORD)=$", lambda one: one[0] if one[1] == missing else f"{one[1]}={WORD}", example)
    (tmp_path / ".env").write_text(text, "utf-8")
    done = ran("docker-compose", *config(tmp_path / ".env"))  # the wheel's exit code is 0, whatever it says
    assert (done.stdout, f"{missing} is missing a value: see example.env" in done.stderr) == ("", True)


def test_redis_started_so_serves_its_one_user_alone_with_the_rights_of_the_page(
    stack: dict[str, Any], tmp_path: Path
) -> None:
    """The command line and the file of users that the container has, on this machine's redis-server."""
    service, port = stack["services"]["redis"], free_port()
    (mount,) = service["configs"]
    users = stack["configs"][mount["source"]]["content"]
    assert redis_rules() in users
    (tmp_path / "users.acl").write_text(users, "utf-8")
    assert service["command"][0] == "redis-server"
    words = [str(tmp_path / "users.acl") if word == mount["target"] else word for word in service["command"][1:]]
    place = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    with subprocess.Popen([find_server(), *words, *place], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, username="understudy", password=WORD) as client:
                until(client.ping)
                lists = RedisBuffer(client, 9)
                assert lists.claim("support", LogSlot("understudy.support", "uuid", 0), "ingest").position == BEGINNING
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.flushall()
            for login in ("", f":{WORD}@", "understudy:another@"):
                stranger = redis.Redis.from_url(f"redis://{login}127.0.0.1:{port}")
                with stranger, pytest.raises(redis.exceptions.AuthenticationError):
                    stranger.get("{support}:dead")
        finally:
            process.terminate()


@pytest.mark.long  # a broker of its own; that the settings log in as it asks stands above
def test_kafka_started_so_asks_for_the_password(stack: dict[str, Any], tidy_sockets: None) -> None:
    """The properties that the image makes of its variables, on a real broker; ports, host and folder are ours."""
    lines = [f"{name_of(name)}={value}" for name, value in stack["services"]["kafka"]["environment"].items()]
    text = "\n".join(lines).replace("{", "{{").replace("}", "}}")
    for ours, place in {
        "CLIENTS://:9092": "CLIENTS://127.0.0.1:{port}",
        "kafka:9092": "127.0.0.1:{port}",
        "127.0.0.1:9093": "127.0.0.1:{controller}",
        "/var/lib/kafka/data": "{directory}/data",
    }.items():
        assert ours in text
        text = text.replace(ours, place)
    with running_broker(Door(protocol="SASL_PLAINTEXT", properties=text)) as broker:
        login = KafkaSettings(
            bootstrap=broker.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username="understudy",
            sasl_password=WORD,
        )
        KafkaTopics(login).ensure("understudy.support", 1)
        with closing(KafkaAppender(login)) as appender:
            appender.append("understudy.support", key=b"k", value=b"v").result(60)
        for wrong in ({"sasl_password": "another"}, {"security_protocol": "PLAINTEXT", "sasl_mechanism": None}):
            with pytest.raises(LogUnavailableError):
                KafkaTopics(replace(login, **wrong)).ensure("understudy.b", 1)


def name_of(variable: str) -> str:
    """The property that apache/kafka's image makes of a variable: a dot for _, which is written __, and - is ___."""
    name = variable.removeprefix("KAFKA_").lower()
    return name.replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")


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
