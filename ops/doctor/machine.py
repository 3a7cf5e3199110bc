"""This machine: its disks, its ports, and our processes on it."""

import os
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from ops.checks.probe import ask_process
from ops.doctor.finding import Finding, Visit
from ops.state.disk import refusal
from ops.state.run_files import RunFile, read_run_file
from store.errors import RegistryError
from store.registry.files.durable import require_exclusive_create

_MIB: Final = 1 << 20
_LEAST_BYTES: Final = 1 << 30  # free, for versions, caches and Redis' own files
_PROCESSES: Final = ("serve", "ingest", "train")


def disk(visit: Visit) -> Iterator[Finding]:
    """Whether state and registry lie on disks that take what will be written."""
    settings = visit.site.settings
    needed = {settings.state_dir: _LEAST_BYTES + settings.spool.max_bytes, visit.site.registry_root: _LEAST_BYTES}
    for folder, wanted in needed.items():
        if (why := refusal(folder)) is not None:
            yield Finding(check="disk", level="fault", why=why, mend=f"df -h {folder}")
            continue
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        said = f"{folder}: {free / _MIB:,.0f} MiB are free"
        if free < wanted:
            why = f"{said}, {wanted / _MIB:,.0f} MiB may be wanted (spool.max_bytes among them)"
            yield Finding(check="disk", level="warning", why=why, mend=f"du -xh {folder} | sort -h | tail")
        else:
            yield Finding(check="disk", level="ok", why=said)
    try:
        require_exclusive_create(visit.site.registry_root)
    except RegistryError as error:
        yield Finding(check="disk", level="fault", why=str(error), mend="registry_dir = …")


def ports(visit: Visit) -> Iterator[Finding]:
    """Whether each port is ours, or free for us."""
    settings = visit.site.settings
    wanted = {
        "gateway.port": ("serve", settings.gateway.host, settings.gateway.port),
        "admin.serve_port": ("serve", settings.admin.host, settings.admin.serve_port),
        "admin.ingest_port": ("ingest", settings.admin.host, settings.admin.ingest_port),
        "admin.train_port": ("train", settings.admin.host, settings.admin.train_port),
    }
    for key, (process, host, port) in wanted.items():
        yield _port(key, host, port, read_run_file(visit.site.run_directory, process))


def _port(key: str, host: str, port: int, ours: RunFile | None) -> Finding:
    if port == 0:
        return Finding(check="ports", level="ok", why=f"{key}: any free one")
    if ours is not None and port in {ours.port, ours.admin_port}:
        return Finding(check="ports", level="ok", why=f"{key}: {host}:{port} is our own {ours.name}'s")
    if (why := _taken(host, port)) is not None:
        return Finding(
            check="ports", level="fault", why=f"{key}: {host}:{port}: {why}", mend=f"ss -ltnp 'sport = :{port}'"
        )
    return Finding(check="ports", level="ok", why=f"{key}: {host}:{port} is free")


def _taken(host: str, port: int) -> str | None:
    """Why nobody of ours could listen there; None: it is free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def processes(visit: Visit) -> Iterator[Finding]:
    """Whether those of our processes that run on this machine are ready."""
    for name in _PROCESSES:
        found = read_run_file(visit.site.run_directory, name)
        if found is None:
            yield Finding(check="processes", level="ok", why=f"{name} does not run on this machine")
            continue
        answer = ask_process(visit.site, found, "/readyz")
        if answer is None:
            why = f"{name} (pid {found.pid}) does not answer on its admin port"
            yield Finding(check="processes", level="fault", why=why, mend=f"ps -o stat,wchan,cmd -p {found.pid}")
        elif answer[0] != HTTPStatus.OK:
            why = f"{name} (pid {found.pid}) is not ready: {_said(answer[1])}"
            yield Finding(check="processes", level="fault", why=why, mend="understudy status")
        else:
            yield Finding(check="processes", level="ok", why=f"{name} (pid {found.pid}) is ready")


def _said(body: bytes) -> str:
    return "; ".join(line for line in body.decode(errors="replace").splitlines() if line != "ok")
