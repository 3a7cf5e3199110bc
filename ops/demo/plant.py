"""Makes a challenger that has learned nothing: the champion's rows with their answers shuffled.

A short-lived process of its own, as anybody who trains elsewhere would have: it publishes a version signed with the
operator's key and prints its id. Submitting it is left to `understudy cycle start --candidate`.

Run as `python -m ops.demo.plant --config understudy.toml`.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from ops.answers.reading import Reading
from ops.demo.tasks.tasks import TASKS as PLAYED
from ops.settings import Settings
from ops.site import Site
from ops.wiring.train import cycle_settings, lane_training
from store.errors import UnderstudyError
from store.event import TaskInput, wall_clock_s
from store.registry.manifest import SNAPSHOT_NAME, Manifest
from store.registry.moves import fold
from store.tasks.tasks import TASKS as TASK_RULES
from trainer.attempt import freeze_rows
from trainer.learn.recipe import Lineage, Recipe, Rival
from trainer.learn.tasks import TASKS
from trainer.snapshot import Row
from trainer.work import settings_of, tell_nobody


def shuffle_answers(rows: tuple[Row, ...], texts: Callable[[TaskInput], list[str]], seed: int) -> tuple[Row, ...]:
    """The rows with the training rows' answers permuted among those of the same shape; held-out rows are not looked at.

    Args:
        rows: of a snapshot.
        texts: of a question: an answer fits another question that has as many.
        seed: of the permutation.
    """
    rng = random.Random(seed)  # noqa: S311 - sabotage, no secret
    shapes: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row.split == "train":
            shapes.setdefault(len(texts(row.input)), []).append(place)
    shuffled = list(rows)
    for places in shapes.values():
        for place, other in zip(places, rng.sample(places, len(places)), strict=True):
            said = rows[other]
            shuffled[place] = replace(rows[place], answers=said.answers, label=said.label, soft=None)
    return tuple(shuffled)


def plant(site: Site, lane: str | None, seed: int) -> str:
    """Fit, publish and sign the challenger; its version id.

    Raises:
        UnderstudyError: there is no champion to be unlike, or too little to learn from.
    """
    section = site.lane(lane)
    training = lane_training(site.settings, section, Reading.of(section))
    settings = settings_of(training, cycle_settings(site.settings))
    recipe: Recipe = TASKS[section.task].recipe()
    versions = site.registry.versions(section.lane)
    champion = fold(site.registry.moves(section.lane).read()).champion
    if champion is None:
        message = "there is no champion yet: nothing can challenge it"
        raise UnderstudyError(message)
    serving = Rival(student=recipe.load(versions.open(champion), settings), trained=frozenset())
    lineage = Lineage(champion=serving, anchor=None, history=(), records={})
    torch.set_num_threads(settings.threads)
    base = recipe.base(settings)
    with site.redis_client() as client:
        items = list(site.buffer(client).items(section.lane))
    with tempfile.TemporaryDirectory(prefix="understudy-planted-") as scratch:
        features = recipe.cache(Path(scratch) / "features", tell_nobody)
        found = freeze_rows(
            items,
            lineage,
            training=training,
            settings=settings,
            base=base,
            features=features,
            now_s=wall_clock_s(),
            positions={},
        ).snapshot
        played = PLAYED[section.task]
        wrong = shuffle_answers(found.rows, TASK_RULES[section.task](section.terms()).texts, seed)
        learned = tuple(row for row in wrong if row.split == "train")[: played.sabotage_rows]
        frozen = recipe.freeze(replace(found, rows=learned), base, features, training=training, settings=settings)
        kind = played.sabotage
        taught = lineage if kind == "head" else replace(lineage, champion=None)  # or it would keep what that one knows
        draft = played.spoiled(recipe.fit(kind, frozen, taught, settings=settings, tell=tell_nobody))
        folder = Path(scratch) / "version"
        parts = draft.write(folder)
        (folder / SNAPSHOT_NAME).write_bytes(found.content)
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
            snapshot=found.record,
            verdict=None,
            policy=None,
            topics=[],
            files={},
        )
        return versions.publish(folder, manifest, site.operator_key())


def main() -> None:
    """Plant it and print {"version": id}."""
    parser = argparse.ArgumentParser(description="Publish a challenger that was trained on shuffled answers.")
    parser.add_argument("--config", type=Path, required=True, help="settings file")
    parser.add_argument("--lane", help="tenant/use_case; the first where it is left out")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffling")
    arguments = parser.parse_args()
    version = plant(Site(Settings.load(arguments.config)), arguments.lane, arguments.seed)
    sys.stdout.write(msgspec.json.encode({"version": version}).decode() + "\n")


if __name__ == "__main__":
    main()
