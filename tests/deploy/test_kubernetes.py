"""The manifests: built by kustomize, held against Kubernetes' schemas, and compared with what the processes do.

Nothing is applied here: there is no cluster.
"""

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from ops.init import init
from ops.processes.run.start import GRACE_S
from ops.sections import GatewaySection
from ops.settings import Settings, read_api_key, read_log_password
from ops.site import Site
from ops.wiring.ingest import check_ingest
from ops.wiring.serve import check_serve
from ops.wiring.train import check_train
from store.errors import SettingsError
from tests.deploy.facts import ADMIN_PORTS, DEPLOY, admin_answers, documents, process_of, tool
from tests.deploy.test_image import said
from tests.ops.test_wheel import VERSION

FOLDER: Final = DEPLOY / "kubernetes"
KUBERNETES: Final = ("1.30", "1.37")  # the oldest and the newest whose schemas the manifests are held against
CHECKS: Final = {"serve": check_serve, "ingest": check_ingest, "train": check_train}
SLACK_S: Final = 2.0
Resource = dict[str, Any]


def made(folder: Path, base: str = "base") -> list[Resource]:
    """The manifests of an installation that `understudy init` has made, as kustomize builds them."""
    shutil.copytree(DEPLOY, folder / "deploy")
    mine = folder / "deploy" / "kubernetes" / "mine"
    shutil.copytree(FOLDER / "example", mine)
    init(mine)
    settings = (mine / "understudy.toml").read_text("utf-8")
    for key, value in {"kind": "kafka", "bootstrap": "kafka.example:9092", "api_key_env": "OPENAI_API_KEY"}.items():
        settings = re.sub(rf"(?m)^#{key} = .*$", f'{key} = "{value}"', settings, count=1)
    (mine / "understudy.toml").write_text(settings, "utf-8")
    secrets = (mine / "secrets.env").read_text("utf-8")
    (mine / "secrets.env").write_text(re.sub(r"(?m)^(OPENAI_API_KEY|KAFKA_PASSWORD)=$", r"\1=a-key", secrets), "utf-8")
    ours = (mine / "kustomization.yaml").read_text("utf-8")
    (mine / "kustomization.yaml").write_text(ours.replace("../base", f"../{base}", 1), "utf-8")
    return documents(tool("kubectl", "kustomize", mine))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    return made(tmp_path_factory.mktemp("built"))


def pods(resources: list[Resource]) -> dict[str, Resource]:
    """The pods' own specifications, by the process that each runs."""
    found = {}
    for one in resources:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            spec = one["spec"]["template"]["spec"]
            found[process_of(container_of(spec)["args"])] = spec
    return found


def container_of(pod: Resource) -> Resource:
    (container,) = pod["containers"]
    return dict(container)


def named(resources: list[Resource], kind: str, start: str) -> Resource:
    (found,) = (one for one in resources if one["kind"] == kind and one["metadata"]["name"].startswith(start))
    return found


def data_of(resource: Resource) -> dict[str, bytes]:
    """The files, or variables, of a secret or of a map."""
    if resource["kind"] == "Secret":
        return {name: base64.b64decode(value) for name, value in resource["data"].items()}
    return {name: value.encode() for name, value in resource["data"].items()}


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_resource_keeps_the_schema(kubernetes: str, built: list[Resource]) -> None:
    for resource in built:
        kubernetes_validate.validate(resource, kubernetes, strict=True)


def test_gpus_are_for_who_computes_on_them(tmp_path: Path) -> None:
    limits = {}
    for name, pod in pods(made(tmp_path, "gpu")).items():
        container = container_of(pod)
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "spec": pod}, KUBERNETES[-1], strict=True)
        assert container["image"] == f"understudy:{VERSION}-cuda"
        limits[name] = container["resources"]["limits"].get("nvidia.com/gpu", "0")
    assert limits == {"serve": "1", "ingest": "0", "train": "1"}


def test_the_schemas_tell_a_wrong_manifest() -> None:
    (deployment, *_) = documents((FOLDER / "base" / "gateway.yaml").read_text("utf-8"))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)


def test_every_manifest_as_it_stands_keeps_the_schema_and_is_listed() -> None:
    """Without kustomize, too: what is listed exists, what exists is listed."""
    for folder in (FOLDER / "base", DEPLOY / "prometheus", DEPLOY / "grafana"):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
        names = [*listed.get("resources", ()), *(patch["path"] for patch in listed.get("patches", ()))]
        names += [name for made_of in listed.get("configMapGenerator", ()) for name in made_of.get("files", ())]
        assert [name for name in names if not (folder / name).exists()] == []
        if folder.name == "base":
            there = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
            assert there == {name for name in names if not name.startswith("..")}
        for name in names:
            if name.endswith(".yaml") and not name.startswith(".."):
                for one in documents((folder / name).read_text("utf-8")):
                    if "selector" in one.get("spec", {}) or one["kind"] not in {"Deployment", "StatefulSet"}:
                        kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)


def test_each_process_has_its_kind_and_its_grace(built: list[Resource]) -> None:
    assert set(pods(built)) == set(GRACE_S)
    for name, pod in pods(built).items():
        before = (
            container_of(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        )
        needed = float(before[1]) + GRACE_S[name] + SLACK_S
        assert pod["terminationGracePeriodSeconds"] >= needed, f"{name} is killed before it has stopped"
    kinds = {one["metadata"]["name"]: one for one in built if one["kind"] in {"Deployment", "StatefulSet"}}
    assert kinds["understudy-ingest"]["kind"] == "StatefulSet"
    assert kinds["understudy-gateway"]["spec"]["replicas"] > 1
    trainer = kinds["understudy-trainer"]["spec"]
    assert (trainer["replicas"], trainer["strategy"]) == (1, {"type": "Recreate"})


def test_probes_and_metrics_ask_what_the_admin_port_answers(built: list[Resource]) -> None:
    with admin_answers() as client:
        for name, pod in pods(built).items():
            container = container_of(pod)
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            assert ports["admin"] == ADMIN_PORTS[name]
            probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
            for kind, probe in probes.items():
                assert probe["httpGet"]["port"] == "admin"
                assert probe["timeoutSeconds"] <= 5, "the admin server's own patience with a client"
                answer = client.get(probe["httpGet"]["path"], headers={"Host": f"10.1.2.3:{ADMIN_PORTS[name]}"})
                assert answer.text == "ok\n"
                assert probe["httpGet"]["path"] == ("/readyz" if kind == "readiness" else "/livez")
        for one in built:
            if one["kind"] in {"Deployment", "StatefulSet"}:
                notes = one["spec"]["template"]["metadata"]["annotations"]
                name = process_of(container_of(one["spec"]["template"]["spec"])["args"])
                assert int(notes["prometheus.io/port"]) == ADMIN_PORTS[name]
                assert "understudy_process_info" in client.get(notes["prometheus.io/path"]).text


def test_the_service_leads_to_the_gateway(built: list[Resource]) -> None:
    service = named(built, "Service", "understudy-gateway")
    (port,) = service["spec"]["ports"]
    ports = {one["name"]: one["containerPort"] for one in container_of(pods(built)["serve"])["ports"]}
    assert ports[port["targetPort"]] == port["port"] == GatewaySection().port
    labels = named(built, "Deployment", "understudy-gateway")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_disruption_budgets_and_policies_select_pods_that_are_there(built: list[Resource]) -> None:
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in built if one["kind"] in {"Deployment", "StatefulSet"}
    ]
    selectors = [
        one["spec"][key]["matchLabels"]
        for one in built
        for key in ("selector", "podSelector")
        if one["kind"] in {"PodDisruptionBudget", "NetworkPolicy"} and "matchLabels" in one["spec"].get(key, {})
    ]
    assert len(selectors) >= 3
    assert all(any(selector.items() <= pod.items() for pod in labels) for selector in selectors)
    budgets = [one["metadata"]["name"] for one in built if one["kind"] == "PodDisruptionBudget"]
    assert sorted(budgets) == ["understudy-gateway", "understudy-ingest"]
    ports = {"http", "admin", 53, 443, 9092, 6379}
    policies = [one["spec"] for one in built if one["kind"] == "NetworkPolicy"]
    rules = [rule for spec in policies for way in ("ingress", "egress") for rule in spec.get(way, ())]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [
        {key: spec[key] for key in ("podSelector", "policyTypes")} for spec in policies
    ], "what is not named is refused"


def test_the_pods_are_nobody_may_write_where_they_must_and_are_told_no_service(built: list[Resource]) -> None:
    uid = int(said("USER")[0].partition(":")[0])
    for name, pod in pods(built).items():
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == uid
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"]
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["image"] == f"understudy:{VERSION}"
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        writable = {mount["mountPath"] for mount in container_of(pod)["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/understudy", "/tmp", *(["/srv/understudy"] if name == "train" else [])}  # noqa: S108
        given = {mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]}
        assert ("keys" in given) == (name == "train"), "private keys are the trainer's and the operator's"


def test_a_variable_of_a_service_would_end_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(tmp_path)
    Settings.load(tmp_path / "understudy.toml")
    monkeypatch.setenv("UNDERSTUDY_GATEWAY_SERVICE_HOST", "10.0.0.7")
    with pytest.raises(SettingsError, match="UNDERSTUDY_GATEWAY_SERVICE_HOST sets no key"):
        Settings.load(tmp_path / "understudy.toml")


@pytest.fixture
def variables(built: list[Resource], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that a pod of ours has."""
    found: dict[str, str] = {}
    sources = [next(iter(one.values()))["name"] for one in container_of(pods(built)["serve"])["envFrom"]]
    for name in sources:
        (source,) = (one for one in built if one["kind"] in {"Secret", "ConfigMap"} and one["metadata"]["name"] == name)
        found |= {key: value.decode() for key, value in data_of(source).items()}
    for key, value in found.items():
        monkeypatch.setenv(key, value)
    return found


@pytest.mark.parametrize("name", GRACE_S)
def test_a_process_finds_settings_keys_and_prompts_as_the_pod_mounts_them(
    name: str, built: list[Resource], variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The init container's own script on what the volumes hold, with the rights that Kubernetes gives them."""
    pod = pods(built)[name]
    own, given = tmp_path / "own", tmp_path / "given"
    (copier,) = pod["initContainers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in copier["volumeMounts"]:
        if mount["mountPath"].startswith("/given/"):
            mounted(built, volumes[mount["name"]], given / mount["mountPath"].removeprefix("/given/"))
    script = named(built, "ConfigMap", "understudy-own-files")["data"]["own-files.sh"]
    command = [*copier["command"]]
    assert command == ["sh", "/script/own-files.sh", "/given", "/etc/understudy"]
    subprocess.run(["sh", "-c", script, "own-files.sh", str(given), str(own)], check=True)

    assert [path for path in own.rglob("*") if path.stat().st_mode & 0o077] == []
    settings = Settings.load(own / "understudy.toml")
    assert settings.log.kind == "kafka"
    assert str(settings.registry_dir) == variables["UNDERSTUDY_REGISTRY_DIR"]
    assert settings.redis.url.startswith("rediss://understudy:")
    assert (settings.log.security_protocol, read_log_password(settings.log)) == ("SASL_SSL", "a-key")
    assert read_api_key(settings.lanes[0]) == "a-key"
    CHECKS[name](Site(settings))  # what each process looks at before it waits for anything
    if name != "train":
        monkeypatch.setenv("KAFKA_PASSWORD", "")
        with pytest.raises(SettingsError, match=r"log.sasl_password_env.*KAFKA_PASSWORD"):
            CHECKS[name](Site(settings))
    assert settings.state_dir.is_relative_to("/var/lib/understudy")
    assert settings.state_dir != Path("/var/lib/understudy"), "the mount itself is root's"
    if name == "serve":
        assert gibibytes(volumes["state"]["emptyDir"]["sizeLimit"]) > settings.spool.max_bytes / 2**30


def mounted(resources: list[Resource], volume: Resource, folder: Path) -> None:
    """Lay out a secret or a map as Kubernetes does: files in an inner folder, links to them, rights for the group."""
    name = volume["secret"]["secretName"] if "secret" in volume else volume["configMap"]["name"]
    (source,) = (one for one in resources if one["kind"] in {"Secret", "ConfigMap"} and one["metadata"]["name"] == name)
    inner = folder / "..2026_01_01"
    inner.mkdir(parents=True)
    (folder / "..data").symlink_to(inner.name)
    for file, data in data_of(source).items():
        (inner / file).write_bytes(data)
        (inner / file).chmod(0o440)
        (folder / file).symlink_to(f"..data/{file}")


def gibibytes(text: str) -> float:
    number, unit = text[:-2], text[-2:]
    return float(number) * {"Gi": 1.0, "Mi": 1 / 1024}[unit]
