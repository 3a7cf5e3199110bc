"""What students stand on, where they compute, and whether a second version fits beside the first."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from ops.doctor.finding import Finding, Visit
from ops.sections import LaneSection
from ops.site import Site
from ops.state.run_files import read_run_file
from ops.wiring.lanes import own_student
from ops.wiring.serve import gateway_settings
from ops.wiring.train import check_base
from store.errors import RegistryError, SettingsError
from store.registry.moves import fold
from store.student.chat.folder import look_for_decoder
from store.student.folder import CONFIG_NAME, TOKENIZER_NAME

_WORDS: Final = "Where is my parcel?"
_MIB: Final = 1 << 20


def encoder(visit: Visit) -> Iterator[Finding]:
    """Whether each lane's encoder, its tokenizer, and a lane of chat's model can be read."""
    settings = visit.site.settings
    for section in settings.lanes:
        lane = str(section.lane)
        try:
            folder = check_base(settings, section)
            if section.student.model is not None:
                look_for_decoder(section.student.model, f"lanes.student.model of {lane}")
        except SettingsError as error:
            yield Finding(check="encoder", level="fault", why=str(error), mend='trainer.encoder = "minilm"', lane=lane)
            continue
        yield _tokenizer(folder, section.student.max_tokens or settings.trainer.max_tokens, lane)


def _tokenizer(folder: Path, max_tokens: int, lane: str) -> Finding:
    """Whether texts become tokens, and no more of them than the encoder has places for."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - native code, which other checks need not wait for

    finding = partial(Finding, check="encoder", lane=lane)
    try:
        tokens = len(Tokenizer.from_file(str(folder / TOKENIZER_NAME)).encode(_WORDS).ids)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        why = f"{folder / TOKENIZER_NAME} is no tokenizer: {error}"
        return finding(level="fault", why=why, mend='trainer.encoder = "minilm"')
    places = json.loads((folder / CONFIG_NAME).read_bytes()).get("max_position_embeddings")
    if isinstance(places, int) and max_tokens > places:
        why = f"{folder} has places for {places} tokens, and max_tokens is {max_tokens}"
        return finding(level="fault", why=why, mend=f"trainer.max_tokens = {places}")
    if not tokens:
        why = f"{folder / TOKENIZER_NAME} makes no token of {_WORDS!r}"
        return finding(level="fault", why=why, mend='trainer.encoder = "minilm"')
    return finding(level="ok", why=f"{folder.name} and its tokenizer can be read")


def device(visit: Visit) -> Iterator[Finding]:
    """Whether the device is there, and has room for a second version while the first serves."""
    site = visit.site
    serving = read_run_file(site.run_directory, "serve") is not None
    for section in site.settings.lanes:
        own = own_student(section, site.settings)
        if own.device == "cuda":
            yield from _cuda(site, section)
        else:
            free = int(psutil.virtual_memory().available)
            yield _room(site, section, free, slots=1 if serving else 2, where=f"memory ({own.device})")


def _cuda(site: Site, section: LaneSection) -> Iterator[Finding]:
    import torch  # noqa: PLC0415 - seconds, where a CUDA device is asked for alone

    if not torch.cuda.is_available():
        why = "its students are to compute on cuda, and torch sees no CUDA device"
        mend = 'lanes.student.device = "cpu"' if section.student.device else 'trainer.device = "auto"'
        yield Finding(check="device", level="fault", why=why, mend=mend, lane=str(section.lane))
        return
    free, _ = torch.cuda.mem_get_info()
    yield _room(site, section, int(free), slots=2, where="the GPU's memory")


def _room(site: Site, section: LaneSection, free_bytes: int, *, slots: int, where: str) -> Finding:
    """Whether so many versions of the champion's size fit."""
    finding = partial(Finding, check="device", lane=str(section.lane))
    try:
        champion = fold(site.registry.moves(section.lane).read()).champion
        files = {} if champion is None else site.registry.versions(section.lane).manifest(champion).files
    except (RegistryError, SettingsError, OSError) as error:
        return finding(level="not_checked", why=f"the champion's size: {error}", mend="understudy verify")
    limits = gateway_settings(site.settings)
    size = sum(entry.size_bytes for entry in files.values())
    needed = int(slots * size * limits.memory_factor) + limits.memory_reserve_bytes
    said = f"{where}: {free_bytes / _MIB:,.0f} MiB are free, {needed / _MIB:,.0f} MiB are needed"
    kind = "no version yet" if champion is None else "a second version beside the one that serves"
    if needed > free_bytes:
        return finding(
            level="fault", why=f"{said} for {kind}: a swap would be refused", mend="give the gateway more memory"
        )
    return finding(level="ok", why=f"{said} for {kind}")
