"""Makes a challenger that has learned nothing: the champion's rows with their labels shuffled.

A short-lived process of its own, as anybody who trains elsewhere would have: it publishes a version signed with the
operator's key and prints its id. Submitting it is left to `understudy cycle start --candidate`.

Run as `python -m ops.demo.plant --config understudy.toml`.
"""

import argparse
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from ops.answers.reading import Reading
from ops.settings import Settings
from ops.site import Site
from ops.wiring.train import cycle_settings
from store.errors import UnderstudyError
from store.event import wall_clock_s
from store.registry.manifest import Manifest
from store.registry.moves import fold
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import Row, Snapshot, freeze

SNAPSHOT_NAME: Final = "snapshot.json"


def shuffle_labels(rows: tuple[Row, ...], seed: int) -> list[Row]:
    """The rows with the training rows' labels permuted among them; held-out rows are not looked at."""
    labels = [row.label for row in rows if row.split == "train"]
    random.Random(seed).shuffle(labels)  # noqa: S311 - sabotage, no secret
    shuffled = iter(labels)
    return [replace(row, label=next(shuffled), soft=None) if row.split == "train" else row for row in rows]


def plant(site: Site, seed: int) -> str:
    """Fit, publish and sign the challenger; its version id.

    Raises:
        UnderstudyError: there is no champion to be unlike, or too little to learn from.
    """
    from store.student.classify import Student  # noqa: PLC0415 - torch
    from trainer.learn.classify.fit import FitSettings, fit  # noqa: PLC0415 - torch
    from trainer.learn.features import BaseEncoder  # noqa: PLC0415 - torch

    section, settings = site.lane(None), cycle_settings(site.settings)
    versions = site.registry.versions(section.lane)
    champion = fold(site.registry.moves(section.lane).read()).champion
    if champion is None:
        message = "there is no champion yet: nothing can challenge it"
        raise UnderstudyError(message)
    student = Student.load(versions.open(champion), device=settings.device, precision=settings.precision)
    snapshot = _snapshot(site, student.labels)
    base = BaseEncoder.open(
        settings.encoder, device=settings.device, precision=settings.precision, max_tokens=settings.max_tokens
    )
    draft = fit(
        shuffle_labels(snapshot.rows, seed),
        base.encoder.features([row.words for row in snapshot.rows]),
        labels=snapshot.labels,
        base=base,
        previous=student,
        settings=FitSettings(threads=settings.threads),
        seed=seed,
        fine_tune="none",
        label_maps={},
    )
    with tempfile.TemporaryDirectory(prefix="understudy-planted-") as folder:
        parts = draft.write(Path(folder))
        (Path(folder) / SNAPSHOT_NAME).write_bytes(snapshot.content)
        manifest = Manifest(
            lane=section.lane,
            kind="candidate",
            parent=champion,
            created_s=wall_clock_s(),
            code_version=versions.manifest(champion).code_version,
            seed=seed,
            base=parts.base,
            served_parameters=parts.served_parameters,
            preprocessing=parts.preprocessing,
            student=parts.student,
            snapshot=snapshot.record,
            verdict=None,
            policy=None,
            topics=[],
            files={},
        )
        return versions.publish(Path(folder), manifest, site.operator_key())


def _snapshot(site: Site, labels: tuple[str, ...]) -> Snapshot:
    """The lane's rows as a cycle would freeze them now."""
    section, settings = site.lane(None), cycle_settings(site.settings)
    with site.redis_client() as client:
        items = list(site.buffer(client).items(section.lane))
    return freeze(
        items,
        LabelFreezing(labels_min=settings.min_items_per_label, known=labels),
        prompt_version=Reading.of(section).key(),
        split=settings.split,
        quarantine_s=settings.quarantine_s,
        now_s=wall_clock_s(),
        seed=settings.seed,
        positions={},
    )


def main() -> None:
    """Plant it and print {"version": id}."""
    parser = argparse.ArgumentParser(description="Publish a challenger that was trained on shuffled labels.")
    parser.add_argument("--config", type=Path, required=True, help="settings file")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffling")
    arguments = parser.parse_args()
    version = plant(Site(Settings.load(arguments.config)), arguments.seed)
    sys.stdout.write(msgspec.json.encode({"version": version}).decode() + "\n")


if __name__ == "__main__":
    main()
