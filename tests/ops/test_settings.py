"""Settings: one file, variables over it, and every complaint names its key."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis

from ops import sections
from ops.example import described, example_toml
from ops.settings import Settings, read_api_key, read_log_password, read_prompt
from store.errors import SettingsError
from store.event import Lane

MINIMAL: dict[str, Any] = {
    "lanes": [
        {
            "tenant": "acme",
            "use_case": "support",
            "labels": ["refund", "other"],
            "training_permitted": True,
            "budget": {"calls_per_day": 100},
            "teacher": {"base_url": "http://localhost:1/v1", "model": "big", "prompt_file": "prompt.txt"},
        }
    ]
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNDERSTUDY_SETTINGS", "UNDERSTUDY_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def written(folder: Path, values: dict[str, Any]) -> Path:
    """A settings file with these values, and the prompt it names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.txt").write_text("$text")
    file = folder / "understudy.toml"
    file.write_text("\n".join(f"{name} = {toml(value)}" for name, value in values.items()))
    return file


def changed(path: str, value: Any) -> dict[str, Any]:
    """MINIMAL with one value set, or taken away where it is None."""
    values: dict[str, Any] = json.loads(json.dumps(MINIMAL))
    *outer, last = path.split(".")
    inner: Any = values
    for part in outer:
        inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return values


def refused(folder: Path, values: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as raised:
        Settings.load(written(folder, values))
    assert str(folder / "understudy.toml") in str(raised.value)
    return str(raised.value)


def test_production_needs_no_more_than_a_lane(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, MINIMAL))
    lane = settings.lanes[0]
    assert lane.lane == Lane("acme", "support")
    assert (lane.promise.target, lane.promise.confidence, lane.audit_ratio) == (0.95, 0.95, 0.05)
    assert (lane.policy, lane.metric, lane.rows_per_day) == ("promise", "accuracy", None)
    assert (settings.trainer.quarantine_s, settings.trainer.growth_ratio, settings.trainer.min_new_labels) == (
        3600.0,
        0.04,
        30,
    )
    assert settings.trainer.fine_tune
    assert settings.trainer.min_items_per_label == 20
    assert (settings.gate.delta, settings.gate.min_rows) == (0.02, 300)
    assert settings.buffer.items_per_stratum == 20_000
    assert settings.log.kind == "embedded"


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("lanes.0.training_permitted", None, "lanes.0.training_permitted: required"),
        ("lanes.0.budget.calls_per_day", None, "lanes.0.budget.calls_per_day: required"),
        ("lanes.0.teacher", None, "lanes.0.teacher: required"),
        ("lanes", None, "lanes: required"),
        ("lanes", [], "lanes: at least one"),
        ("lanes.0.tenant", "Acme", "lanes.0.tenant: "),
        ("lanes.0.tenant", "../x", "lanes.0.tenant: "),
        ("lanes.0.labels", [], "lanes.0.labels: give either"),
        ("lanes.0.labels", ["a", "a"], "lanes.0.labels: a label is there twice"),
        (
            "lanes.0.labels",
            ["refund", "Refund"],
            "lanes.0.labels: 'refund' and 'Refund' are one label in two spellings",
        ),
        (
            "lanes.0.labels",
            ["refund", "refund\u200b"],
            "lanes.0.labels: 'refund' and 'refund\\u200b' are one label in two spellings",
        ),
        (
            "lanes.0.labels",
            ["order status", "order_status"],
            "lanes.0.labels: 'order status' and 'order_status' are one label in two spellings",
        ),
        ("lanes.0.labels", ["a", "\u200b"], "lanes.0.labels: label 2 is empty"),
        ("lanes.0.labels", ["a", "b\nc"], "lanes.0.labels: label 2 is empty, or holds a character"),
        ("lanes.0.labels", ["a", ""], "lanes.0.labels.1: "),
        ("lanes.0.labels_file", "labels.txt", "lanes.0.labels: give either"),
        ("lanes.0.student", {"ranks": 2}, "lanes.0.student.ranks: a student of classify is small, and one process"),
        ("lanes.0.student", {"ranks": 0}, "lanes.0.student.ranks: "),
        ("lanes.0.student", {"strategy": "fsdp"}, "lanes.0.student.strategy: with fsdp ranks share a model, and"),
        ("lanes.0.student", {"ranks": 1, "strategy": "fsdp"}, "lanes.0.student.strategy: with fsdp ranks share a"),
        ("lanes.0.promise.target", 1.0, "lanes.0.promise.target: "),
        ("lanes.0.promise.target", float("nan"), "lanes.0.promise.target: "),
        ("lanes.0.audit_ratio", 1.5, "lanes.0.audit_ratio: "),
        ("lanes.0.policy", "thrift", "lanes.0.policy: "),
        ("lanes.0.metric", "balanced_accuracy", 'lanes.0.metric: balanced_accuracy needs policy = "budget"'),
        ("lanes.0.metric", "f1", "lanes.0.metric: "),
        ("lanes.0.rows_per_day", 0, "lanes.0.rows_per_day: "),
        ("lanes.0.rows_per_day", float("inf"), "lanes.0.rows_per_day: "),
        ("lanes.0.api_keys", ["short"], "lanes.0.api_keys.0: "),
        ("lanes.0.teacher.base_url", "localhost", "lanes.0.teacher.base_url: "),
        (
            "lanes.0.teacher.base_url",
            "https://host/v1/chat/completions",
            "lanes.0.teacher.base_url: up to and including /v1: /chat/completions is put behind it",
        ),
        ("lanes.0.teacher.base_url", "https://host/v2/rerank/", "lanes.0.teacher.base_url: up to and including /v1"),
        ("lanes.0.teacher.api_key_env", "sk-abc", "lanes.0.teacher.api_key_env: the name of a variable is wanted"),
        ("lanes.0.labels", ["refund"], "lanes.0.labels: there is one alone"),
        ("registry_dir", "s3://bucket/versions", "registry_dir: a folder is wanted, not an address"),
        ("state_dir", "gs://bucket", "state_dir: a folder is wanted, not an address"),
        ("lanes.0.teacher.prompt_file", "absent.txt", "lanes.0.teacher.prompt_file: there is no file"),
        ("lanes.0.teacher.temperature", 0, "lanes.0.teacher.temperature: there is no such key"),
        ("trainer.every_s", 0, "trainer.every_s: "),
        ("trainer.every_s", float("inf"), "trainer.every_s: "),
        ("trainer.evry_s", 1, "trainer.evry_s: there is no such key"),
        ("trainr.every_s", 1, "trainr: there is no such key"),
        ("_env_file", ".env", "_env_file: there is no such key"),
        ("split.calibrate_ratio", 0.9, "split.judge_ratio: must leave"),
        ("gateway.port", 65536, "gateway.port: "),
        ("redis.url", "http://x", "redis.url: it begins with redis://"),
        ("log.kind", "rabbit", "log.kind: "),
        ("log.kind", "kafka", "log.bootstrap: required"),
        ("log.security_protocol", "SASL_SSL", "log.sasl_username: required"),
        ("spool.max_bytes", 1, "spool.max_bytes: "),
        ("lanes.0.teacher.parameters.stream", True, "lanes.0.teacher.parameters.stream"),
        ("lanes.0.teacher.parameters.model", "small", "lanes.0.teacher.parameters.model"),
        ("lanes.0.teacher.parameters.max_tokens", "few", "lanes.0.teacher.parameters.max_tokens"),
        ("lanes.0.teacher.parameters.temperature", float("nan"), "lanes.0.teacher.parameters.temperature"),
        ("lanes.0.teacher.base_url", "https://me:secret@example.com/v1", "lanes.0.teacher.base_url"),
        ("lanes.0.teacher.model", "a\nb", "lanes.0.teacher.model"),
        ("lanes.0.teacher.proxy", "localhost:3128", "lanes.0.teacher.proxy"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(tmp_path: Path, path: str, value: Any, key: str) -> None:
    message = refused(tmp_path, changed(path, value))
    assert f"understudy.toml: {key}" in message


def test_a_lane_may_have_a_budget_instead_of_a_promise(tmp_path: Path) -> None:
    values = changed("lanes.0.policy", "budget")
    values["lanes"][0] |= {"metric": "balanced_accuracy", "rows_per_day": 500}
    lane = Settings.load(written(tmp_path, values)).lanes[0]
    assert (lane.policy, lane.metric, lane.rows_per_day) == ("budget", "balanced_accuracy", 500.0)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    values = changed("trainer.every_s", 0) | {"gate": {"delta": 2.0}, "surprise": 1}
    assert "surprise" in refused(tmp_path, values)
    del values["surprise"]
    lines = refused(tmp_path, values).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["trainer.every_s", "gate.delta"]


def test_one_lane_is_there_once_and_one_api_key_belongs_to_one_tenant(tmp_path: Path) -> None:
    lane = MINIMAL["lanes"][0]
    assert "acme/support is there twice" in refused(tmp_path, {"lanes": [lane, lane]})
    keys = {"api_keys": ["0123456789abcdef"]}
    message = refused(tmp_path, {"lanes": [lane | keys, lane | keys | {"tenant": "bolt"}]})
    assert "acme and bolt share an API key" in message
    assert "0123456789abcdef" not in message
    Settings.load(written(tmp_path, {"lanes": [lane | keys, lane | keys | {"use_case": "other"}]}))


def test_a_complaint_never_shows_a_value(tmp_path: Path) -> None:
    message = refused(tmp_path, changed("lanes.0.api_keys", ["hunter2"]))
    assert "hunter2" not in message
    settings = Settings.load(written(tmp_path, changed("lanes.0.api_keys", ["correct horse battery"])))
    assert "horse" not in repr(settings)


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "understudy.toml"
    file.write_text("[trainer]\nevery_s = soon\n")
    with pytest.raises(SettingsError, match=r"understudy\.toml.*line 2"):
        Settings.load(file)
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"understudy\.toml"):
        Settings.load(file)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="understudy init"):
        Settings.load(tmp_path / "absent.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"no settings file understudy\.toml"):
        Settings.load()


def test_the_file_is_found_in_this_folder_or_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "here", changed("trainer.seed", 1))
    there = written(tmp_path / "there", changed("trainer.seed", 2))
    monkeypatch.chdir(tmp_path / "here")
    assert Settings.load().trainer.seed == 1
    monkeypatch.setenv("UNDERSTUDY_SETTINGS", str(there))
    assert Settings.load().trainer.seed == 2
    assert Settings.load(tmp_path / "here" / "understudy.toml").trainer.seed == 1


def test_a_variable_wins_over_the_file_and_leaves_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, changed("trainer.seed", 1) | {"gate": {"delta": 0.1, "min_rows": 7}})
    monkeypatch.setenv("UNDERSTUDY_GATE__DELTA", "0.2")
    monkeypatch.setenv("UNDERSTUDY_REDIS__URL", "redis://elsewhere:6379/0")
    monkeypatch.setenv("UNDERSTUDY_TRAINER__FINE_TUNE", "false")
    settings = Settings.load(file)
    assert (settings.gate.delta, settings.gate.min_rows) == (0.2, 7)
    assert (settings.trainer.seed, settings.trainer.fine_tune) == (1, False)
    assert settings.redis.url == "redis://elsewhere:6379/0"


def test_lanes_in_a_variable_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, MINIMAL)
    monkeypatch.setenv("UNDERSTUDY_LANES", json.dumps([MINIMAL["lanes"][0] | {"tenant": "bolt"}]))
    assert [str(section.lane) for section in Settings.load(file).lanes] == ["bolt/support"]
    monkeypatch.setenv("UNDERSTUDY_LANES", "[{")
    with pytest.raises(SettingsError, match=r"understudy\.toml.*UNDERSTUDY_LANES") as raised:
        Settings.load(file)
    assert "JSON" in str(raised.value)


def test_a_wrong_value_from_a_variable_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_TRAINER__EVERY_S", "soon")
    assert "trainer.every_s (from UNDERSTUDY_TRAINER__EVERY_S): " in refused(tmp_path, MINIMAL)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("UNDERSTUDY_TRAINR__EVERY_S", "UNDERSTUDY_TRAINR__EVERY_S sets no key"),
        ("UNDERSTUDY_X", "UNDERSTUDY_X sets no key"),
        ("UNDERSTUDY_TRAINER__EVRY_S", "trainer.evry_s (from UNDERSTUDY_TRAINER__EVRY_S): there is no such key"),
    ],
)
def test_a_misspelt_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv(name, "1")
    assert said in refused(tmp_path, MINIMAL)


def test_a_variable_that_holds_a_secret_may_begin_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_TEACHER_KEY", "sk-1")
    settings = Settings.load(written(tmp_path, changed("lanes.0.teacher.api_key_env", "UNDERSTUDY_TEACHER_KEY")))
    assert read_api_key(settings.lanes[0]) == "sk-1"


def test_secrets_are_read_from_the_variables_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(written(tmp_path, MINIMAL))
    assert read_api_key(settings.lanes[0]) is None
    assert read_log_password(settings.log) is None
    values = changed("lanes.0.teacher.api_key_env", "TEACHER") | {
        "log": {"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password_env": "BROKER"}
    }
    settings = Settings.load(written(tmp_path, values))
    monkeypatch.delenv("TEACHER", raising=False)
    monkeypatch.setenv("BROKER", "")
    with pytest.raises(SettingsError, match=r"lanes\.teacher\.api_key_env of acme/support.*TEACHER is not set"):
        read_api_key(settings.lanes[0])
    with pytest.raises(SettingsError, match=r"log\.sasl_password_env.*BROKER is not set"):
        read_log_password(settings.log)
    monkeypatch.setenv("TEACHER", "one")
    monkeypatch.setenv("BROKER", "two")
    assert (read_api_key(settings.lanes[0]), read_log_password(settings.log)) == ("one", "two")


def test_paths_are_relative_to_the_file_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = changed("keys.trainer", "/etc/understudy/trainer") | {
        "trainer": {"encoder": "models/small"},
        "log": {"ssl_ca_file": "ca.pem"},
    }
    written(tmp_path / "conf", values)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(Path("conf/understudy.toml"))
    conf = tmp_path / "conf"
    assert settings.state_dir == conf / "state"
    assert settings.keys.trusted == conf / "keys" / "trusted"
    assert settings.keys.trainer == Path("/etc/understudy/trainer")
    assert settings.log.ssl_ca_file == conf / "ca.pem"
    assert settings.trainer.encoder == conf / "models" / "small"
    assert settings.lanes[0].teacher.prompt_file == conf / "prompt.txt"


def test_a_linked_settings_file_is_relative_to_where_the_link_lies(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "prompt.txt").write_text("$text")
    (tmp_path / "etc" / "understudy.toml").symlink_to(written(tmp_path / "mounted", MINIMAL))
    assert Settings.load(tmp_path / "etc" / "understudy.toml").state_dir == tmp_path / "etc" / "state"


def test_labels_come_from_a_file_in_its_order(tmp_path: Path) -> None:
    values = changed("lanes.0.labels", None)
    values["lanes"][0]["labels_file"] = "labels.txt"
    file = tmp_path / "labels.txt"
    file.write_text("refund\n\n  où est ma carte \nother\n")
    assert Settings.load(written(tmp_path, values)).lanes[0].labels == ("refund", "où est ma carte", "other")
    for content, reason in (
        ("\n", "none"),
        ("a\na\n", "twice"),
        ("Ab c\nab_C\n", "one label in two"),
        ("a\nb\0\n", "cannot be seen"),
        ("é\ne\u0301\n", "two spellings"),
    ):
        file.write_text(content)
        assert re.search(rf"lanes\.0\.labels_file: .*{reason}", refused(tmp_path, values))
    file.unlink()
    assert "lanes.0.labels_file: " in refused(tmp_path, values)


def test_the_bundled_encoder_is_a_folder_and_another_must_hold_one(tmp_path: Path) -> None:
    assert (Settings.load(written(tmp_path, MINIMAL)).encoder_directory() / "config.json").is_file()
    settings = Settings.load(written(tmp_path, changed("trainer.encoder", "encoder")))
    with pytest.raises(SettingsError, match=r"trainer\.encoder.*config\.json"):
        settings.encoder_directory()
    (tmp_path / "encoder").mkdir()
    whole = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"\x02" + bytes(7) + b"{}"}
    for name, content in whole.items():
        with pytest.raises(SettingsError, match=rf"trainer\.encoder.* lacks .*{name}"):
            settings.encoder_directory()
        (tmp_path / "encoder" / name).write_bytes(content)
    assert settings.encoder_directory() == tmp_path / "encoder"
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    for name, content in (
        ("model.safetensors", b"\xff" * 20),
        ("model.safetensors", pointer),
        ("tokenizer.json", b"{"),
    ):
        (tmp_path / "encoder" / name).write_bytes(content)
        with pytest.raises(SettingsError, match=rf"trainer\.encoder .*: its {name} is "):
            settings.encoder_directory()
        (tmp_path / "encoder" / name).write_bytes(whole[name])


SECRET = "hunter2"  # noqa: S105 - of nobody


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"redis://:{SECRET}#more@host:6379/0", "%23"),
        (f"redis://:{SECRET}?more@host:6379/0", "%3F"),
        (f"redis://:{SECRET}/more@host:6379/0", "%2F"),
        (f"redis://:{SECRET}@more@host:6379/0", "%40"),
        (f"redis://:{SECRET}%zz@host:6379/0", "%25"),
        (f"redis://:{SECRET}@host:notaport/0", "port is no number"),
        (f"redis://:{SECRET}@host:99999/0", "port is no number"),
        (f"redis://:{SECRET}@host:65536/0", "port is no number"),
        (f"redis://:{SECRET}@host:-1/0", "port is no number"),
        (f"redis://:{SECRET}@host:0", "port is no number"),
        (f"redis://:{SECRET}@host:/0", "port is no number"),
        (f"redis://:{SECRET}@one:6379,two:6379/0", "several hosts"),
        (f"redis://one,{SECRET}/0", "several hosts"),
        ("redis://:${REDIS_PASSWORD}@host/0", "UNDERSTUDY_REDIS__URL"),
        ("unix://run/redis.sock", "third /"),
        (f"unix://:{SECRET}@run/redis.sock", "third /"),
        ("redis://host/-1", "no number of a database"),
        ("redis://host/０", "no number of a database"),  # noqa: RUF001 - full width
        (f"redis://:{SECRET}@[::1/0", "cannot be taken apart"),
        (f"redis://:{SECRET} more@host/0", "cannot be taken apart"),
        (f"redis://:{SECRET}@host:6379/notanumber", "no number of a database"),
        (f"redis://:{SECRET}@host:6379/0/1", "no number of a database"),
        (f"redis://:{SECRET}@host:6379?{SECRET}=1", "unknown or there twice"),
        ("redis://host?decode_responses=yes", "unknown or there twice"),
        ("redis://host?db=one", "option db"),
        ("redis://host?db", "no list of options"),
        ("unix://", "path of a socket"),
        ("unix:///run/redis.sock?nonsense=1", "unknown or there twice"),
    ],
)
def test_the_address_of_a_redis_is_taken_apart_at_once_and_never_shown(tmp_path: Path, url: str, why: str) -> None:
    message = refused(tmp_path, changed("redis.url", url))
    assert "redis.url: " in message
    assert why in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:pa%23ss%3Fword@host:6379/3",
        "rediss://:p@[::1]:6380/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=2&password=x",
        "redis://h?db=1&protocol=3&health_check_interval=30&client_name=me",
    ],
)
def test_an_address_that_redis_reads_is_fine(tmp_path: Path, url: str) -> None:
    settings = Settings.load(written(tmp_path, changed("redis.url", url)))
    assert url not in repr(settings)
    pool = redis.ConnectionPool.from_url(settings.redis.url)
    assert pool.make_connection() is not None


@pytest.mark.parametrize("url", ["https://host:port/v1", "https://", "https://host/v1?key=1", "http://[::1/v1"])
def test_the_address_of_a_teacher_is_taken_apart_at_once(tmp_path: Path, url: str) -> None:
    said = refused(tmp_path, changed("lanes.0.teacher.base_url", url))
    assert "lanes.0.teacher.base_url: an address like" in said or "lanes.0.teacher.base_url: nothing after ?" in said
    assert url == "https://" or url not in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_settings_labels_and_prompt_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    values = changed("lanes.0.labels", None)
    values["lanes"][0]["labels_file"] = "labels.txt"
    file = written(tmp_path, values)
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    (tmp_path / "labels.txt").write_bytes("refund\r\nréclamation\r\n".encode(encoding))
    (tmp_path / "prompt.txt").write_bytes("$text é\r\n".encode(encoding))
    (lane,) = Settings.load(file).lanes
    assert lane.labels == ("refund", "réclamation")
    assert read_prompt(lane) == "$text é\n"


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("prompt.txt", b"caf\xe9 $text", "prompt_file: .*line 1 is not UTF-8: save the file as UTF-8"),
        ("prompt.txt", b"say $labels", "prompt_file: .*needs \\$text"),
        ("prompt.txt", b"", "prompt_file: .*needs \\$text"),
        ("prompt.txt", b"it costs $5: $text", "prompt_file: .*a dollar sign is written"),
        ("labels.txt", b"refund\ncaf\xe9\n", "labels_file: line 2 is not UTF-8: save the file as UTF-8"),
        ("labels.txt", "refund\nother\n".encode("utf-16-le"), "labels_file: .*label 1 is empty, or holds a character"),
        ("understudy.toml", b"# caf\xe9\n", "understudy.toml: line 1 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_before_anything_starts(
    tmp_path: Path, name: str, raw: bytes, said: str
) -> None:
    values = changed("lanes.0.labels", None)
    values["lanes"][0]["labels_file"] = "labels.txt"
    file = written(tmp_path, values)
    (tmp_path / "labels.txt").write_text("refund\nother\n")
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SettingsError, match=said):
        Settings.load(file)


def test_what_is_wrong_with_files_and_variables_is_told_at_once_for_every_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = MINIMAL["lanes"][0]
    teacher = lane["teacher"] | {"prompt_file": "gone.txt"}
    both = {name: value for name, value in lane.items() if name != "labels"} | {
        "labels_file": "none.txt",
        "tenant": "b",
    }
    monkeypatch.setenv("UNDERSTUDY_TRAINR__SEED", "1")
    values = {"lanes": [lane | {"teacher": teacher}, both | {"teacher": teacher}]}
    told = refused(tmp_path, values)
    for key in ("lanes.0.teacher.prompt_file", "lanes.1.teacher.prompt_file", "lanes.1.labels_file", "TRAINR__SEED"):
        assert key in told
    assert {"surprise: there is no such key", "trainer.every_s"} <= {
        key
        for key in ("surprise: there is no such key", "trainer.every_s")
        if key in refused(tmp_path, changed("trainer.every_s", 0) | {"surprise": 1})
    }


def test_settings_do_not_change_while_a_process_runs(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        settings.trainer.seed = 2
    with pytest.raises(ValueError, match="frozen"):
        settings.state_dir = tmp_path


def all_sections() -> list[tuple[str, type[sections.Section]]]:
    """Every table with the header it has in the file."""
    found: list[tuple[str, type[sections.Section]]] = [("[[lanes]]", sections.LaneSection)]
    for prefix, model in (("", Settings), ("lanes.", sections.LaneSection)):
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, sections.Section):
                found.append((f"[{prefix}{name}]", field.annotation))
    return found


def test_the_example_explains_every_key_of_every_table() -> None:
    blocks = re.split(r"^(?=\[)", example_toml(), flags=re.MULTILINE)
    tables = {block.splitlines()[0]: block for block in blocks}
    assert len(all_sections()) == len(tables) - 1 == 18
    for header, section in all_sections():
        for name in section.model_fields:
            if f"[lanes.{name}]" in tables and header == "[[lanes]]":
                continue
            assert described(section)[name], f"{header} {name} is not documented"
            explained = rf"(# .+\n)+# .*(Default: .+|Required)\.\n#?{name} = |# .*(Default: .+|Required)\.\n#?{name} = "
            assert re.search(explained, tables[header]), f"{header} {name} is not explained"


def test_the_example_loads_and_changes_no_default(tmp_path: Path) -> None:
    file = written(tmp_path, MINIMAL)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "classify.txt").write_text("$text")
    minimal = Settings.load(file)
    file.write_text(example_toml())
    settings = Settings.load(file)
    assert settings.model_copy(update={"lanes": ()}) == minimal.model_copy(update={"lanes": ()})
    assert not settings.lanes[0].training_permitted, "nobody is trained on by default"


def test_every_key_of_the_example_may_be_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z_]+ = )", "", example_toml(), flags=re.MULTILINE)
    text = text.replace('labels_file = "labels.txt"\n', "").replace("a-long-random-string", "a-longer-random-string")
    written(tmp_path, {}).write_text(text)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "classify.txt").write_text("$text")
    settings = Settings.load(tmp_path / "understudy.toml")
    assert settings.lanes[0].teacher.api_key_env == "OPENAI_API_KEY"
    assert settings.lanes[0].budget.usd_per_day == 40.0
    values = tomllib.loads(text)
    assert values["trainer"]["every_s"] == 86_400.0
    assert values["lanes"][0]["teacher"]["parameters"] == {"temperature": 0}


@pytest.mark.parametrize("key", ["sk-a b", "sk-a\nb", "sk-\xe9", "   "])
def test_a_teachers_key_that_no_header_carries_is_refused_by_its_variable_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEACHER", key)
    settings = Settings.load(written(tmp_path, changed("lanes.0.teacher.api_key_env", "TEACHER")))
    with pytest.raises(SettingsError, match=r"lanes\.teacher\.api_key_env of acme/support.*TEACHER") as raised:
        read_api_key(settings.lanes[0])
    assert "sk-" not in str(raised.value)
    monkeypatch.setenv("TEACHER", "sk-abc\n")
    assert read_api_key(settings.lanes[0]) == "sk-abc"
