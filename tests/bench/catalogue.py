"""A seeded shop: items, lists of them for a customer's words, and a teacher whose favourites only its scores tell."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_PRODUCTS: Final = {
    "kitchen": (
        "kettle",
        "frying pan",
        "coffee grinder",
        "blender",
        "tea set",
        "bread knife",
        "toaster",
        "mixing bowl",
    ),
    "garden": (
        "garden hose",
        "watering can",
        "rake",
        "plant pot",
        "lawn mower",
        "shears",
        "bird feeder",
        "wheelbarrow",
    ),
    "outdoor": ("tent", "sleeping bag", "rucksack", "head torch", "camping stove", "walking poles", "rain jacket"),
    "office": ("desk lamp", "office chair", "keyboard", "monitor stand", "notebook", "stapler", "whiteboard"),
    "sport": ("yoga mat", "dumbbells", "running shoes", "tennis racket", "swim goggles", "bike lock", "skipping rope"),
    "home": ("rug", "picture frame", "duvet", "curtains", "bookshelf", "mirror", "floor lamp", "cushion"),
}
_USES: Final = {
    "kitchen": ("cooking", "breakfast", "baking"),
    "garden": ("the vegetable bed", "the balcony", "the lawn"),
    "outdoor": ("a camping trip", "hiking in the hills", "a festival"),
    "office": ("working from home", "a narrow desk", "a shared office"),
    "sport": ("keeping fit", "the gym", "training in winter"),
    "home": ("the living room", "the bedroom", "a first flat"),
}
_COLOURS: Final = ("blue", "green", "black", "grey", "red", "white", "yellow", "brown")
_MATERIALS: Final = ("steel", "oak", "cotton", "plastic", "leather", "glass", "bamboo", "wool")
_TRAITS: Final = ("small", "large", "lightweight", "sturdy", "foldable", "hand made", "second hand", "waterproof")
_OFFERED: Final = 20  # half of them from the wanted part of the shop


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing for sale, with how much the teacher likes it whatever is asked."""

    part: str
    product: str
    colour: str
    trait: str
    text: str
    favour: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """A customer's words, what is offered, and the teacher's scores."""

    query: str
    documents: tuple[str, ...]
    scores: npt.NDArray[np.float64]  # [documents]


def shop(items: int, *, favour_sd: float, seed: int) -> list[Item]:
    """So many items, no two alike; the teacher's favour is normal around 0."""
    rng = np.random.default_rng(seed)
    found: dict[str, Item] = {}
    while len(found) < items:
        part = _any(rng, tuple(_PRODUCTS))
        product, colour = _any(rng, _PRODUCTS[part]), _any(rng, _COLOURS)
        trait = _any(rng, _TRAITS)
        text = f"{trait} {colour} {_any(rng, _MATERIALS)} {product}"
        favour = float(rng.normal(0.0, favour_sd))
        found.setdefault(text, Item(part=part, product=product, colour=colour, trait=trait, text=text, favour=favour))
    return list(found.values())


def offers(items: list[Item], rows: int, *, noise: float, seed: int) -> list[Offer]:
    """So many lists of 20 in the order in which customers come; the teacher's scores have normal noise."""
    rng = np.random.default_rng(seed)
    by_part = {part: [item for item in items if item.part == part] for part in _PRODUCTS}
    return [_offer(items, by_part, noise, rng) for _ in range(rows)]


def _offer(items: list[Item], by_part: dict[str, list[Item]], noise: float, rng: np.random.Generator) -> Offer:
    part = _any(rng, tuple(_PRODUCTS))
    product, colour, trait = _any(rng, _PRODUCTS[part]), _any(rng, _COLOURS), _any(rng, _TRAITS)
    use = _any(rng, _USES[part])
    query, wishes = (
        (product, {product}),
        (f"{colour} {product}", {product, colour}),
        (f"{trait} {product} for {use}", {product, trait}),
        (f"something for {use}, {colour} if possible", {colour}),
    )[rng.integers(4)]
    near = [by_part[part][i] for i in rng.permutation(len(by_part[part]))[: _OFFERED // 2]]
    other = [items[i] for i in rng.permutation(len(items)) if items[i] not in near][: _OFFERED - len(near)]
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
