"""SIGHUP at a gateway: keys, budgets and the share of audits change under its feet, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from ops.processes.reload import changed_keys, reload_gateway
from ops.settings import Settings
from ops.site import Site
from ops.wiring import serve as wiring
from serve.app import build_app
from serve.lifecycle import Gateway
from tests.ops.sites import make_site, open_site
from tests.serve.fakes import FakeSink

KEY = "a-long-random-string"


@dataclass(frozen=True)
class Running:
    """A gateway of a settings file, in this process."""

    file: Path
    site: Site
    app: Starlette
    http: httpx.AsyncClient
    redis: redis.Redis

    @property
    def gateway(self) -> Gateway:
        found: Gateway = self.app.state.gateway
        return found

    def set(self, name: str, value: str) -> None:
        """Write one key into the file."""
        lines = self.file.read_text("utf-8").splitlines()
        places = [place for place, line in enumerate(lines) if line.removeprefix("#").startswith(f"{name} = ")]
        assert len(places) == 1
        lines[places[0]] = f"{name} = {value}"
        self.file.write_text("\n".join(lines) + "\n", "utf-8")

    async def hang_up(self) -> None:
        reload_gateway(self.site, self.redis, self.app, self.file)
        await asyncio.sleep(0.05)

    async def ask(self, key: str | None = None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = await self.http.post("/classify", json={"model": "support", "input": "hello"}, headers=headers)
        return answer.status_code


@asynccontextmanager
async def running(folder: Path, redis_url: str) -> AsyncIterator[Running]:
    file = make_site(folder / "site", url=f'"{redis_url}"', base_url='"http://127.0.0.1:9/v1"')
    site = open_site(file)
    with redis.Redis.from_url(redis_url) as client:
        services = wiring.services(site, client, FakeSink(), CollectorRegistry())
        app = build_app(services, wiring.gateway_settings(site.settings))
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            yield Running(file, site, app, http, client)


def test_keys_budget_and_audits_are_in_force_from_the_next_question_on(tmp_path: Path, redis_url: str) -> None:
    async def scene() -> None:
        async with running(tmp_path, redis_url) as made:
            assert await made.ask() == 503  # there is no teacher, and no student
            made.set("api_keys", f'["{KEY}"]')
            made.set("calls_per_day", "0")
            made.set("audit_ratio", "0.5")
            await made.hang_up()
            assert await made.ask() == 401
            assert await made.ask(KEY) == 503
            service = made.gateway.lanes[0].service
            assert service.settings.audit_ratio == 0.5
            assert service.budget.settings.calls_per_day == 0
            assert not service.budget.allows("escalation", 0.0), "what was leased under the old budget is spent on"
            await service.budget.prepare("escalation", 0.0)
            assert not service.budget.allows("escalation", 0.0)
            made.set("calls_per_day", "1000")
            await made.hang_up()
            await service.budget.prepare("escalation", 0.0)
            assert service.budget.allows("escalation", 0.0)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "value"), [("audit_ratio", "1e-12"), ("calls_per_day", '"many"'), ("nonsense = 1\naudit_ratio", "0.1")]
)
def test_a_file_that_is_wrong_changes_nothing(
    tmp_path: Path, redis_url: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ops.processes.reload._log.error", lambda event, **_: said.append(event))

    async def scene() -> None:
        async with running(tmp_path, redis_url) as made:
            made.set("api_keys", f'["{KEY}"]')
            text = made.file.read_text("utf-8")
            made.set(name.rsplit("\n", maxsplit=1)[-1], value)
            if "\n" in name:
                made.file.write_text("nonsense = 1\n" + made.file.read_text("utf-8"), "utf-8")
            await made.hang_up()
            assert await made.ask() == 503
            made.file.write_text(text, "utf-8")
            await made.hang_up()
            assert await made.ask() == 401

    asyncio.run(scene())
    assert said == ["reload_refused"]


def test_what_only_a_restart_puts_in_force_is_named(tmp_path: Path) -> None:
    file = make_site(tmp_path / "site")
    before = Settings.load(file)
    text = file.read_text("utf-8").replace("#max_batch = 32", "max_batch = 16").replace('"other"]', '"more"]')
    file.write_text(text.replace("audit_ratio = 0.05", "audit_ratio = 0.5"), "utf-8")
    after = Settings.load(file)
    assert list(changed_keys(before, after)) == ["gateway.max_batch", "acme/support: lanes.labels"]
    assert list(changed_keys(before, before)) == []
