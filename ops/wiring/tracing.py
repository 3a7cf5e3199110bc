"""Opens tracing as the settings have it: off, which imports and costs nothing, or to a collector."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Final
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry

from ops.settings import read_secret
from ops.site import Site
from store.errors import SettingsError
from store.tracing.spans import OFF, Tracer

_PATH: Final = "/v1/traces"  # of a collector's address that has none (OTLP/HTTP)


def check_tracing(site: Site) -> None:
    """See that what the settings want of tracing is there.

    Raises:
        SettingsError: the extra is not installed, or the headers' variable is missing or wrong.
    """
    if not site.settings.tracing.endpoint:
        return
    if any(find_spec(name) is None for name in ("opentelemetry", "requests")) or not _has_exporter():
        message = "tracing.endpoint: OpenTelemetry is not installed: pip install 'understudy[otel]', or leave it empty"
        raise SettingsError(message)
    _headers(site)


@contextmanager
def open_tracer(site: Site, process: str, registry: CollectorRegistry) -> Iterator[Tracer]:
    """What a process makes its spans with; at the end what waits is sent, within a bound.

    Raises:
        SettingsError: as `check_tracing`.
    """
    section = site.settings.tracing
    if not section.endpoint:
        yield OFF
        return
    check_tracing(site)
    from ops.wiring.otel import OtelTracer  # noqa: PLC0415 - of an extra, and a tenth of a second

    tracer = OtelTracer(
        endpoint=section.endpoint
        if urlsplit(section.endpoint).path.strip("/")
        else section.endpoint.rstrip("/") + _PATH,
        headers=_headers(site),
        sample_ratio=section.sample_ratio,
        resource={
            "service.name": f"understudy-{process}",
            "service.namespace": "understudy",
            "service.version": version("understudy"),
            "service.instance.id": site.replica,
        },
        registry=registry,
    )
    try:
        yield tracer
    finally:
        tracer.close()


def _has_exporter() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _headers(site: Site) -> dict[str, str]:
    """As OpenTelemetry's own variable has them: `name=value,name2=value2`, values percent-encoded."""
    variable = site.settings.tracing.headers_env
    if variable is None:
        return {}
    pairs = [one.partition("=") for one in read_secret("tracing.headers_env", variable).split(",") if one.strip()]
    found = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
    if not found or not all(_is_header(name, value) for name, value in found.items()):
        message = (
            f"tracing.headers_env: the environment variable {variable} holds no headers: write name=value, with commas"
            " between several, and values percent-encoded"
        )
        raise SettingsError(message)
    return found


def _is_header(name: str, value: str) -> bool:
    return bool(name) and name.isascii() and name.replace("-", "").replace("_", "").isalnum() and value.isprintable()
