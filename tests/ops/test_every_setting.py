"""Every setting arrives where it acts. One that is added without a line here fails the first test."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeGuard, get_args, get_origin

import pytest
from pydantic import BaseModel

import ops.wiring.otel
from ops.access.tokens import add_token
from ops.console.visitor import NotOpenError, visitor_of
from ops.console.web import ROOT, Asked
from ops.init import init
from ops.open_log import _topics, ensure_topics, open_appender, open_history
from ops.settings import Settings
from ops.wiring.referee import CycleReferee, open_referee
from serve.teacher.client import Answered
from store.secrets import DataSecret
from stream.log import topic_of
from tests.ops.wired import NOWHERE, Wired, write_settings
from tests.tiny import tiny_encoder
from trainer.work import settings_of

See = Callable[[Wired], object]
KEY: Final = "a-key-of-sixteen-characters"
ANSWERABLE: Final = "budget_unavailable"  # the question came as far as Redis, which is nowhere


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted name of every key that a settings file may hold."""
    for name, entry in model.model_fields.items():
        kinds = [entry.annotation, *get_args(entry.annotation)]
        table = next((kind for kind in kinds if _is_table(kind)), None)
        if table is None:
            yield f"{prefix}{name}"
        else:
            yield from leaves(table, f"{prefix}{name}.")


def _is_table(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


@dataclass(frozen=True)
class Check:
    """A value that is no default, and what is seen of it in the part that uses it."""

    value: object
    see: See
    expected: Any = None  # None: the value itself; a function of the installation; or what it comes to
    beside: Mapping[str, object] = field(default_factory=dict)  # of other keys, before and after
    also: Mapping[str, object] = field(default_factory=dict)  # of other keys, with the value alone


def kafka(**more: object) -> dict[str, object]:
    """Keys without which a key of Kafka's does nothing."""
    return {"log.kind": "kafka", "log.bootstrap": "127.0.0.1:1", **{f"log.{name}": it for name, it in more.items()}}


SASL: Final = kafka(security_protocol="SASL_SSL", sasl_username="me", sasl_password_env="KAFKA_A")  # noqa: S106 - a name
COLLECTOR: Final = {"tracing.endpoint": "http://127.0.0.1:9"}
BUDGET_ONLY: Final = {"lanes.policy": "budget"}


def client_option(name: str) -> See:
    """What every client of Kafka is told: the reader, the writer and the maker of topics."""

    def see(wired: Wired) -> object:
        appender: Any = open_appender(wired.site, wired.client)
        source = wired.kafka_source()["settings"]
        with _topics(wired.site, wired.client) as topics:
            told = [settings.client()[name] for settings in (appender._settings, source, topics._settings)]  # type: ignore[attr-defined]
        assert told[0] == told[1] == told[2]
        return told[0]

    return see


def replication(wired: Wired) -> object:
    with _topics(wired.site, wired.client) as topics:
        return topics._settings.replication_factor  # type: ignore[attr-defined]


def partitions(wired: Wired) -> object:
    wired.client.flushall()
    ensure_topics(wired.site, wired.client)
    with open_history(wired.site, wired.client) as history:
        return len(history.slots(topic_of("support")))


def under(wired: Wired, path: Path) -> str:
    return str(path.relative_to(wired.folder))


def cycle(name: str) -> See:
    return lambda wired: getattr(wired.work.settings, name)


def limit(name: str) -> See:
    return lambda wired: getattr(wired.work.settings.limits, name)


def schedule(name: str) -> See:
    return lambda wired: (getattr(wired.trainer.schedule, name), getattr(wired.trainer._conductor.schedule, name))


def both(value: object) -> tuple[object, object]:
    return value, value


def keyed(*headers: dict[str, str]) -> See:
    return lambda wired: [wired.ask(**each) for each in headers]


def kind_of_log(wired: Wired) -> object:
    return type(open_appender(wired.site, wired.client)).__name__


def connection(wired: Wired) -> object:
    with wired.site.redis_client() as client:
        return client.connection_pool.connection_kwargs["host"], wired.work.redis_url


def lanes_seen(wired: Wired) -> object:
    return (
        [str(lane.settings.lane) for lane in wired.services().lanes],
        [str(lane) for lane in wired.ingest._lanes],
        [str(training.lane) for training in wired.trainer.lanes],
    )


def tasks_seen(wired: Wired) -> object:
    (keys,) = wired.ingest._lanes.values()
    return wired.lane.parts.settings.task, keys.task


def labels_seen(wired: Wired) -> object:
    (keys,) = wired.ingest._lanes.values()
    shown = wired.ask_teacher("gone")[0]["messages"][0]["content"]
    return (
        isinstance(wired.ask_teacher("gone")[1], Answered),
        "gone" in shown,
        keys.terms.labels,
        wired.work.training.labels,
    )


def permitted(wired: Wired) -> object:
    (keys,) = wired.ingest._lanes.values()
    return wired.lane.service.settings.training_permitted, keys.training_permitted, len(wired.trainer.lanes)


def calls_limit(wired: Wired) -> object:
    ledger: Any = wired.lane.parts.ledger
    return ledger._limits[0], wired.lane.service.budget.settings.calls_per_day


def usd_limit(wired: Wired) -> object:
    ledger: Any = wired.lane.parts.ledger
    return ledger._limits[1], wired.lane.service.budget.settings.usd_per_day


def reserve(wired: Wired) -> object:
    ledger: Any = wired.lane.parts.ledger
    return ledger._limits[2:], wired.lane.service.budget.settings.audit_reserve_ratio


def sent(name: str) -> See:
    return lambda wired: wired.ask_teacher()[0].get(name)


def cost(wired: Wired) -> object:
    reply = wired.ask_teacher()[1]
    assert isinstance(reply, Answered)
    return round(reply.answer.cost_usd * 1_000_000)


def read_as(wired: Wired) -> object:
    return [isinstance(wired.ask_teacher(said)[1], Answered) for said in ("refund", '{"label": "refund"}')]


def teachers(wired: Wired) -> Any:
    client: Any = wired.lane.teacher._client
    return client


def turns(wired: Wired) -> object:
    made = wired.teachers_client()
    teacher: Any = wired.lane.teacher
    return teacher._turns._value, wired.lane.service.turns.concurrency, made["connections"]


def patience(wired: Wired) -> object:
    made = wired.teachers_client()
    return teachers(wired).timeout.read, wired.lane.service.turns.timeout_s, made["timeout_s"]


def process(name: str, what: str) -> See:
    return lambda wired: wired.started(name)[what]


def spool(wired: Wired) -> object:
    seen = wired.started("serve")
    return seen["spool_bytes"], seen["metrics"].get_sample_value("understudy_spool_limit_bytes")


def state_places(wired: Wired) -> object:
    spooled = wired.started("serve")["spool_folder"]
    return [
        under(wired, path) for path in (spooled, wired.work.cache, wired.work.registry_root, wired.site.run_directory)
    ]


def registries(wired: Wired) -> object:
    roots = (wired.site.registry._root, wired.work.registry_root)
    return [under(wired, path) for path in roots]


def trusted(wired: Wired) -> object:
    return [under(wired, wired.work.trusted_keys), set(wired.site.registry._trusted._keys)]


def other_trust(wired: Wired) -> object:
    other = Wired(write_settings(wired.folder / "other" / "of-its-own.toml", BASE), wired.patch)
    return ["other/keys/trusted", set(other.site.registry._trusted._keys)]


def other_keys(name: str) -> Callable[[Wired], object]:
    def found(wired: Wired) -> object:
        other = Wired(write_settings(wired.folder / "other" / "of-its-own.toml", BASE), wired.patch)
        return (other.site.trainer_key() if name == "trainer" else other.site.operator_key()).key_id

    return found


def collector(name: str) -> See:
    """What the gateway makes its spans with, as it says once these are sent."""

    def see(wired: Wired) -> object:
        seen: dict[str, Any] = {}
        wired.patch.setattr(
            ops.wiring.otel, "OtelTracer", lambda **made: SimpleNamespace(close=lambda: seen.update(made))
        )
        wired.started("serve")
        return seen.get(name)

    return see


def secrets_seen(wired: Wired) -> object:
    (keys,) = wired.ingest._lanes.values()
    return wired.lane.parts.lane_key, keys.lane_key


def other_secret(wired: Wired) -> object:
    secret = DataSecret.load(wired.folder / "other" / "data.secret")
    return both(secret.lane_key(wired.site.settings.lanes[0].lane))


def token_seen(wired: Wired) -> object:
    """What a token of the other file opens in the console."""
    shown = add_token(wired.folder / "other" / "tokens.json", "ada", "operate", 0.0)
    try:
        return visitor_of(wired.site, Asked(method="GET", path=ROOT, headers={"authorization": f"Bearer {shown}"})).role
    except NotOpenError:
        return None


def buffer_size(wired: Wired) -> object:
    ingest: Any = wired.ingest
    return ingest._buffer._k, wired.site.buffer(wired.client)._k, wired.work.items_per_stratum


def signer(wired: Wired) -> object:
    return wired.trainer._conductor.key.key_id


def cycle_and_load(name: str) -> See:
    return lambda wired: (getattr(wired.work.settings, name), wired.loaded_with()[name])


def own(name: str) -> See:
    return lambda wired: (getattr(wired.work.training.student, name), wired.loaded_with()[name])


def engine_of(wired: Wired) -> object:
    """The servers that a lane's model runs on."""
    return [one.url for one in wired.loaded_elsewhere().get("servers", ())]


def engine_folder(wired: Wired) -> object:
    """Where these see adapters."""
    return Path(wired.loaded_elsewhere().get("folder", "")).name


def engine_key(wired: Wired) -> object:
    """What these are shown."""
    return [one._headers for one in wired.loaded_elsewhere().get("servers", ())]


def a_cycle(wired: Wired) -> CycleReferee:
    """The referee of one of the lane's cycles."""
    referee = wired.work.training.referee
    assert referee is not None
    assert referee.entry == f"{open_referee.__module__}:{open_referee.__name__}"
    return open_referee(referee.about)


BASE: Final[dict[str, object]] = {
    "redis.url": NOWHERE,
    "lanes.tenant": "acme",
    "lanes.use_case": "support",
    "lanes.labels": ["refund", "cancel"],
    "lanes.training_permitted": True,
    "lanes.budget.calls_per_day": 50,
    "lanes.teacher.base_url": "http://teacher.invalid/v1",
    "lanes.teacher.model": "big",
    "lanes.teacher.prompt_file": "prompts/classify.txt",
}
RANKING: Final = {"lanes.task": "rank", "lanes.labels": None, "lanes.teacher.prompt_file": "rank.txt"}
TALKING: Final = {
    "lanes.task": "chat",
    "lanes.labels": None,
    "lanes.teacher.prompt_file": None,
    "lanes.student.model": "other",
}
JUDGED: Final = TALKING | {"lanes.chat.referee": "teacher"}
SERVED: Final = TALKING | {"lanes.student.engine": ["http://a:1/v1"], "lanes.student.engine_folder": "a"}
A_RERANKER: Final = {"lanes.teacher.prompt_file": None}
CHECKS: Final[dict[str, Check]] = {
    "state_dir": Check(
        "elsewhere", state_places, ["elsewhere/spool", "elsewhere/cache", "elsewhere/registry", "elsewhere/run"]
    ),
    "registry_dir": Check("shared", registries, ["shared", "shared"]),
    "keys.trusted": Check("other/keys/trusted", trusted, other_trust),
    "keys.trainer": Check("other/keys/trainer", signer, other_keys("trainer")),
    "keys.operator": Check("other/keys/operator", lambda w: w.site.operator_key().key_id, other_keys("operator")),
    "keys.data_secret": Check("other/data.secret", secrets_seen, other_secret),
    "keys.tokens": Check("other/tokens.json", token_seen, "operate"),
    "log.kind": Check("kafka", kind_of_log, "KafkaAppender", also=kafka()),
    "log.partitions": Check(7, partitions, beside={"redis.url": "{redis}"}),
    "log.lease_s": Check(9.0, lambda w: w.ingest._source._lease_s),  # type: ignore[attr-defined]
    "log.bootstrap": Check("k1:9092,k2:9092", client_option("bootstrap_servers"), ["k1:9092", "k2:9092"], kafka()),
    "log.group": Check("readers", lambda w: w.kafka_source()["settings"].group, beside=kafka()),
    "log.replication_factor": Check(3, replication, beside=kafka()),
    "log.session_timeout_s": Check(
        20.0, lambda w: w.kafka_source()["settings"].session_timeout_ms, 20_000, beside=kafka()
    ),
    "log.ack_timeout_s": Check(2.5, process("serve", "ack_timeout_s")),
    "log.security_protocol": Check("SSL", client_option("security_protocol"), beside=kafka()),
    "log.ssl_ca_file": Check("ca.pem", lambda w: Path(str(client_option("ssl_cafile")(w))).name, beside=kafka()),
    "log.ssl_certificate_file": Check(
        "our.pem", lambda w: Path(str(client_option("ssl_certfile")(w))).name, beside=kafka()
    ),
    "log.ssl_key_file": Check("our.key", lambda w: Path(str(client_option("ssl_keyfile")(w))).name, beside=kafka()),
    "log.sasl_mechanism": Check("PLAIN", client_option("sasl_mechanism"), beside=SASL),
    "log.sasl_username": Check("you", client_option("sasl_plain_username"), beside=SASL),
    "log.sasl_password_env": Check("KAFKA_B", client_option("sasl_plain_password"), "the second", beside=SASL),
    "redis.url": Check(
        "redis://10.9.8.7:6390/0",
        connection,
        ("10.9.8.7", "redis://10.9.8.7:6390/0"),
        beside={"redis.url": "redis://10.9.8.6:6379/0"},
    ),
    "gateway.host": Check("0.0.0.0", process("serve", "host")),  # noqa: S104 - what is tested
    "gateway.port": Check(18_080, process("serve", "port")),
    "gateway.max_batch": Check(5, lambda w: (w.executor().pace._max_batch, w.lane.follow._settings.max_batch), both(5)),
    "gateway.batch_wait_ms": Check(40.0, lambda w: w.executor()._wait_s, 0.04),
    "gateway.max_wait_s": Check(0.7, lambda w: (w.device().line.wait_s, w.executor()._line_wait_s), both(0.7)),
    "gateway.max_text_chars": Check(10, lambda w: [w.ask("x" * 10), w.ask("x" * 11)], [ANSWERABLE, "invalid_request"]),
    "gateway.max_message_chars": Check(
        10,
        lambda w: [w.chat("x" * 10), w.chat("x" * 11)],
        [ANSWERABLE, "invalid_request"],
        beside=TALKING,
    ),
    "gateway.allowed_hosts": Check(["models.example.com"], lambda w: w.ask(host="models.example.com"), ANSWERABLE),
    "gateway.allowed_origins": Check(
        ["https://desk.example.com"], lambda w: w.ask(origin="https://desk.example.com"), ANSWERABLE
    ),
    "gateway.debug": Check(True, process("serve", "debug")),
    "admin.host": Check(
        "127.0.0.9",
        lambda w: [w.started(name)["admin_host"] for name in ("serve", "ingest", "train")],
        ["127.0.0.9"] * 3,
    ),
    "admin.serve_port": Check(19_471, process("serve", "admin_port")),
    "admin.ingest_port": Check(19_472, process("ingest", "admin_port")),
    "admin.train_port": Check(19_473, process("train", "admin_port")),
    "admin.allowed_hosts": Check(
        ["scraper.example.com"],
        lambda w: ["scraper.example.com" in w.started(name)["admin_hosts"] for name in ("serve", "ingest", "train")],
        [True] * 3,
    ),
    "trainer.every_s": Check(60.0, schedule("every_s"), both(60.0)),
    "trainer.min_new_labels": Check(7, schedule("min_new_labels"), both(7)),
    "trainer.growth_ratio": Check(0.5, schedule("growth_ratio"), both(0.5)),
    "trainer.fine_tune": Check(False, schedule("fine_tune"), both(False)),
    "trainer.fine_tune_growth_ratio": Check(3.0, schedule("fine_tune_growth_ratio"), both(3.0)),
    "trainer.cycle_timeout_s": Check(90.0, schedule("cycle_timeout_s"), both(90.0)),
    "trainer.usd_per_hour": Check(3.5, lambda w: w.trainer.lanes[0].prices.usd_per_training_hour),
    "trainer.quarantine_s": Check(
        5.0,
        lambda w: (w.work.settings.quarantine_s, w.trainer._conductor.drawing(w.work.training, 9.0).quarantine_s),
        both(5.0),
    ),
    "trainer.min_items_per_label": Check(3, cycle("min_items_per_label")),
    "trainer.seed": Check(11, lambda w: (w.work.settings.seed, w.work.settings.limits.seed), both(11)),
    "trainer.encoder": Check("tiny", lambda w: Path(w.work.settings.encoder).name),
    "trainer.max_tokens": Check(32, cycle("max_tokens")),
    "trainer.device": Check("cpu", cycle_and_load("device"), both("cpu")),
    "trainer.precision": Check("fp32", cycle_and_load("precision"), both("fp32")),
    "trainer.threads": Check(2, cycle_and_load("threads"), both(2)),
    "trainer.novelty_quantile": Check(0.8, cycle("novelty_quantile")),
    "split.calibrate_ratio": Check(0.3, lambda w: w.work.settings.split.calibrate_ratio),
    "split.judge_ratio": Check(0.25, lambda w: w.work.settings.split.judge_ratio),
    "split.salt": Check("another", lambda w: w.work.settings.split.salt),
    "gate.delta": Check(0.04, limit("delta")),
    "gate.min_rows": Check(77, limit("min_rows")),
    "gate.alpha": Check(0.2, limit("alpha")),
    "gate.growth_factor": Check(2.5, limit("growth_factor")),
    "buffer.items_per_stratum": Check(17, buffer_size, (17, 17, 17)),
    "spool.max_bytes": Check(2 << 20, spool, both(2 << 20)),
    "tracing.endpoint": Check("http://127.0.0.1:9/v1/traces", collector("endpoint")),
    "tracing.sample_ratio": Check(0.25, collector("sample_ratio"), beside=COLLECTOR),
    "tracing.headers_env": Check("OTLP_A", collector("headers"), {"x-a": "b"}, beside=COLLECTOR),
    "lanes.tenant": Check("bolt", lanes_seen, (["bolt/support"],) * 3),
    "lanes.use_case": Check("orders", lanes_seen, (["acme/orders"],) * 3),
    "lanes.task": Check(
        "rank", tasks_seen, both("rank"), also={"lanes.labels": None, "lanes.teacher.prompt_file": "rank.txt"}
    ),
    "lanes.labels": Check(["gone", "refund"], labels_seen, (True, True, *both(("gone", "refund")))),
    "lanes.labels_file": Check(
        "labels.txt", labels_seen, (True, True, *both(("refund", "gone"))), also={"lanes.labels": None}
    ),
    "lanes.training_permitted": Check(False, permitted, (False, False, 0)),
    "lanes.api_keys": Check(
        [KEY],
        keyed({}, {"authorization": f"Bearer {KEY}"}, {"authorization": f"Bearer {KEY}x"}),
        ["invalid_api_key", ANSWERABLE, "invalid_api_key"],
    ),
    "lanes.policy": Check(
        "budget", lambda w: (not w.lane.service.routing.promises, w.work.training.policy), (True, "budget")
    ),
    "lanes.metric": Check("balanced_accuracy", lambda w: w.lane.service.settings.metric, beside=BUDGET_ONLY),
    "lanes.rows_per_day": Check(500.0, lambda w: w.horizon()._rows_per_day, beside=BUDGET_ONLY),
    "lanes.audit_ratio": Check(
        0.25,
        lambda w: (w.lane.service.settings.audit_ratio, w.horizon()._audit_ratio),
        both(0.25),
        beside=BUDGET_ONLY,
    ),
    "lanes.promise.target": Check(0.8, lambda w: w.work.training.target),
    "lanes.promise.confidence": Check(0.9, lambda w: w.work.training.confidence),
    "lanes.budget.calls_per_day": Check(77, calls_limit, both(77)),
    "lanes.budget.usd_per_day": Check(2.5, usd_limit, (2_500_000, 2.5)),
    "lanes.budget.audit_reserve_ratio": Check(
        0.5, reserve, ([25, 1_000_000], 0.5), beside={"lanes.budget.usd_per_day": 2.0}
    ),
    "lanes.teacher.base_url": Check("http://another.invalid/v2/", lambda w: str(teachers(w).base_url)),
    "lanes.teacher.model": Check("bigger", sent("model")),
    "lanes.teacher.prompt_file": Check(
        "another.txt", lambda w: w.ask_teacher()[0]["messages"][0]["content"], "Another prompt: where is it"
    ),
    "lanes.teacher.parameters": Check(
        {"temperature": 0.5, "top_k": 3}, lambda w: (sent("temperature")(w), sent("top_k")(w)), (0.5, 3)
    ),
    "lanes.teacher.parser": Check("json", read_as, [False, True]),
    "lanes.teacher.api_key_env": Check("TEACHER_KEY", lambda w: teachers(w).api_key, "a-teachers-key"),
    "lanes.teacher.timeout_s": Check(7.0, patience, (7.0, 7.0, 7.0)),
    "lanes.teacher.concurrency": Check(3, turns, (3, 3, 3)),
    "lanes.teacher.input_usd_per_mtok": Check(5.0, cost, 100),  # 20 tokens
    "lanes.teacher.output_usd_per_mtok": Check(5.0, cost, 10),  # 2 tokens
    "lanes.teacher.search_usd": Check(0.25, lambda w: w.lane.parts.settings.teacher.search_usd),
    "lanes.teacher.window_documents": Check(7, lambda w: w.lane.parts.settings.teacher.window_documents),
    "lanes.teacher.kind": Check(
        "rerank", lambda w: type(w.lane.teacher._asking).__name__, "AskForScores", beside=RANKING, also=A_RERANKER
    ),
    "lanes.rank.k": Check(3, lambda w: w.lane.parts.settings.terms.tolerance.k, beside=RANKING),
    "lanes.rank.epsilon": Check(0.2, lambda w: w.lane.parts.settings.terms.tolerance.epsilon, beside=RANKING),
    "lanes.chat.max_prompt_tokens": Check(
        300, lambda w: w.lane.parts.settings.terms.chat.max_prompt_tokens, beside=TALKING
    ),
    "lanes.chat.max_answer_tokens": Check(40, lambda w: w.work.training.terms.chat.max_answer_tokens, beside=TALKING),
    "lanes.chat.referee": Check(
        "teacher",
        lambda w: [w.lane.referee is not None, w.work.training.referee is not None],
        [True, True],
        beside=TALKING,
    ),
    "lanes.chat.distance_limit": Check(
        0.5, lambda w: [w.lane.referee and w.lane.referee._limit, a_cycle(w).distance_limit], [0.5, 0.5], beside=JUDGED
    ),
    "lanes.chat.judged_share": Check(0.4, lambda w: a_cycle(w).pairs_left, 10, beside=JUDGED),  # of 50 calls
    "lanes.student.model": Check("tiny", lambda w: Path(w.work.training.student.model or "").name, beside=TALKING),
    "lanes.student.engine": Check(
        ["http://a:1/v1", "http://b:2/v1"], engine_of, beside=TALKING, also={"lanes.student.engine_folder": "a"}
    ),
    "lanes.student.engine_folder": Check(
        "there", engine_folder, beside=TALKING, also={"lanes.student.engine": ["http://a:1/v1"]}
    ),
    "lanes.student.engine_key_env": Check(
        "TEACHER_KEY", engine_key, [{"Authorization": "Bearer a-teachers-key"}], beside=SERVED
    ),
    "lanes.student.decide": Check("prompt", lambda w: w.lane.parts.settings.terms.chat.decide, beside=TALKING),
    "lanes.student.encoder": Check("tiny", lambda w: Path(w.work.training.student.encoder or "").name),
    "lanes.student.max_tokens": Check(32, lambda w: w.work.training.student.max_tokens),
    "lanes.student.device": Check("cpu", own("device"), both("cpu")),
    "lanes.student.precision": Check("fp32", own("precision"), both("fp32")),
    "lanes.student.threads": Check(2, own("threads"), both(2)),
    "lanes.student.ranks": Check(2, lambda w: settings_of(w.work.training, w.work.settings).ranks, beside=TALKING),
    "lanes.student.strategy": Check(
        "fsdp",
        lambda w: settings_of(w.work.training, w.work.settings).strategy,
        beside=TALKING | {"lanes.student.ranks": 2},
    ),
    "lanes.teacher.proxy": Check("http://10.9.8.7:3128", lambda w: w.teachers_client()["proxy"]),
}


def test_no_setting_is_without_a_check_and_no_check_without_a_setting() -> None:
    names = list(leaves(Settings))
    assert len(names) > 80
    assert sorted(names) == sorted(CHECKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, secret and prompt of two installations, and files that settings name."""
    made = tmp_path_factory.mktemp("installation")
    init(made)
    init(made / "other")
    tiny_encoder(made / "tiny")
    (made / "labels.txt").write_text("refund\ngone\n")
    (made / "another.txt").write_text("Another prompt: $text")
    (made / "rank.txt").write_text("$query $documents")
    return made


@pytest.mark.parametrize("name", CHECKS)
def test_a_setting_arrives_where_it_acts(
    name: str, folder: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (
        ("KAFKA_A", "the first"),
        ("KAFKA_B", "the second"),
        ("TEACHER_KEY", "a-teachers-key"),
        ("OTLP_A", "x-a=b"),
    ):
        monkeypatch.setenv(variable, value)
    check = CHECKS[name]
    beside = {**BASE, **{key: redis_server if value == "{redis}" else value for key, value in check.beside.items()}}

    def seen(values: Mapping[str, object]) -> tuple[Wired, object]:
        with monkeypatch.context() as patch:
            wired = Wired(write_settings(folder / "understudy.toml", values), patch)
            found = check.see(wired)
        return wired, found

    _, by_default = seen(beside)
    wired, found = seen({**beside, name: check.value, **check.also})
    expected = check.expected
    if expected is None:
        expected = check.value
    elif callable(expected):
        expected = expected(wired)
    assert found == expected
    assert by_default != expected
