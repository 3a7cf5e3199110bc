"""A seeded shop: items, lists of them for a customer's words, and a teacher whose favourites only its scores tell."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ops.demo.traffic.shop import COLOURS, MATERIALS, PRODUCTS, TRAITS, USES, ShopItem

_NOISE: Final = 0.02  # of the teacher's scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """A customer's words, what is offered, and the teacher's scores."""

    query: str
    documents: tuple[str, ...]
    scores: npt.NDArray[np.float64]  # [documents]


def write_shop(
    path: Path, *, rows: int, items: int = 500, offered: int = 20, favour_sd: float = 0.15, seed: int = 0
) -> Path:
    """A log of so many lists of a shop, as JSON lines; returns where it lies."""
    found = offers(shop(items, favour_sd=favour_sd, seed=seed), rows, offered=offered, noise=_NOISE, seed=seed)
    path.write_text(
        "".join(
            json.dumps({"query": one.query, "documents": one.documents, "scores": one.scores.tolist()}) + "\n"
            for one in found
        )
    )
    return path


def shop(items: int, *, favour_sd: float, seed: int) -> list[ShopItem]:
    """So many items, no two alike; the teacher's favour is normal around 0."""
    rng = np.random.default_rng(seed)
    found: dict[str, ShopItem] = {}
    while len(found) < items:
        part = _any(rng, tuple(PRODUCTS))
        product, colour = _any(rng, PRODUCTS[part]), _any(rng, COLOURS)
        trait = _any(rng, TRAITS)
        text = f"{trait} {colour} {_any(rng, MATERIALS)} {product}"
        favour = float(rng.normal(0.0, favour_sd))
        found.setdefault(
            text, ShopItem(part=part, product=product, colour=colour, trait=trait, text=text, favour=favour)
        )
    return list(found.values())


def offers(items: list[ShopItem], rows: int, *, offered: int, noise: float, seed: int) -> list[Offer]:
    """So many lists in the order in which customers come, half of each from the wanted part of the shop.

    The teacher's scores have normal noise.
    """
    rng = np.random.default_rng(seed)
    by_part = {part: [item for item in items if item.part == part] for part in PRODUCTS}
    return [_offer(items, by_part, offered, noise, rng) for _ in range(rows)]


def _offer(
    items: list[ShopItem], by_part: dict[str, list[ShopItem]], count: int, noise: float, rng: np.random.Generator
) -> Offer:
    part = _any(rng, tuple(PRODUCTS))
    product, colour, trait = _any(rng, PRODUCTS[part]), _any(rng, COLOURS), _any(rng, TRAITS)
    use = _any(rng, USES[part])
    query, wishes = (
        (product, {product}),
        (f"{colour} {product}", {product, colour}),
        (f"{trait} {product} for {use}", {product, trait}),
        (f"something for {use}, {colour} if possible", {colour}),
    )[rng.integers(4)]
    near = [by_part[part][i] for i in rng.permutation(len(by_part[part]))[: count // 2]]
    other = [items[i] for i in rng.permutation(len(items)) if items[i] not in near][: count - len(near)]
    offered = [(*near, *other)[i] for i in rng.permutation(len(near) + len(other))]
    scores = [
        0.35 * (item.part == part)
        + 0.35 * (item.product in wishes)
        + 0.12 * (item.colour in wishes)
        + 0.1 * (item.trait in wishes)
        + item.favour
        for item in offered
    ]
    return Offer(
        query=query,
        documents=tuple(item.text for item in offered),
        scores=np.array(scores) + rng.normal(0.0, noise, len(scores)),
    )


def _any(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[rng.integers(len(values))]
