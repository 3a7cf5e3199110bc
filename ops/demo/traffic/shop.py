"""Seeded traffic of a shop: what customers look for, what it offers them, and the scores of a teacher with favourites.

The same seed gives the same lists. A score is how well an item fits the words, plus how much the teacher likes the item
whatever is asked: that only its answers tell. Half way the shop puts new things on its shelves for old ones.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from store.secrets import unit_hash

PRODUCTS: Final = {
    "kitchen": (
        *("kettle", "frying pan", "coffee grinder", "blender", "tea set", "bread knife", "toaster", "mixing bowl"),
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
USES: Final = {
    "kitchen": ("cooking", "breakfast", "baking"),
    "garden": ("the vegetable bed", "the balcony", "the lawn"),
    "outdoor": ("a camping trip", "hiking in the hills", "a festival"),
    "office": ("working from home", "a narrow desk", "a shared office"),
    "sport": ("keeping fit", "the gym", "training in winter"),
    "home": ("the living room", "the bedroom", "a first flat"),
}
COLOURS: Final = ("blue", "green", "black", "grey", "red", "white", "yellow", "brown")
MATERIALS: Final = ("steel", "oak", "cotton", "plastic", "leather", "glass", "bamboo", "wool")
TRAITS: Final = ("small", "large", "lightweight", "sturdy", "foldable", "hand made", "second hand", "waterproof")
_DIGITS: Final = 4  # of a score, as it is recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What of an item's fit to the words is worth how much."""

    part: float = 0.25  # of the shop
    product: float = 0.25
    colour: float = 0.06
    trait: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopSettings:
    """The shape of the traffic; shares are of all lists."""

    seed: int = 1
    rows: int = 1000
    items: int = 120  # on the shelves at any time
    offered: int = 8  # in a list, half of them from the part of the shop that is wanted
    favour_sd: float = 0.4  # of how much the teacher likes an item, whatever is asked
    noise_sd: float = 0.02  # of the teacher's score for one query and item: the same each time
    fit: Fit = Fit()
    repeat_ratio: float = 0.1  # a list that was asked before
    season_ratio: float = 0.2  # of the items, that are new from half way on


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopItem:
    """One thing for sale."""

    part: str
    product: str
    colour: str
    trait: str
    text: str
    favour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A customer's words, what is offered, and the teacher's scores in the order of the documents."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...]


def generate(settings: ShopSettings) -> list[Offer]:
    """The lists in the order in which customers come. Pure: the same settings give the same lists."""
    rng = Random(f"understudy-shop/{settings.seed}")  # noqa: S311 - traffic, no cryptography
    new = round(settings.season_ratio * settings.items)
    stock = _stock(settings.items + new, settings.favour_sd, rng)
    before, after = stock[: settings.items], stock[new:]
    found: list[Offer] = []
    for index in range(settings.rows):
        shelves = after if 2 * index >= settings.rows else before
        repeats = found and rng.random() < settings.repeat_ratio
        found.append(rng.choice(found) if repeats else _offer(shelves, settings, rng))
    return found


def to_jsonl(offers: Sequence[Offer]) -> Iterator[str]:
    """The lists as the lines of a file that `make demo TASK=rank TRAFFIC=` reads back."""
    for one in offers:
        said = {"query": one.query, "documents": one.documents, "teacher": {"scores": one.scores}}
        yield json.dumps(said, ensure_ascii=False)


def _stock(items: int, favour_sd: float, rng: Random) -> list[ShopItem]:
    """So many items, no two alike, shuffled over the parts of the shop."""
    found: dict[str, ShopItem] = {}
    while len(found) < items:
        part = rng.choice(tuple(PRODUCTS))
        product, colour, trait = rng.choice(PRODUCTS[part]), rng.choice(COLOURS), rng.choice(TRAITS)
        text = f"{trait} {colour} {rng.choice(MATERIALS)} {product}"
        item = ShopItem(
            part=part, product=product, colour=colour, trait=trait, text=text, favour=rng.gauss(0.0, favour_sd)
        )
        found.setdefault(text, item)
    return list(found.values())


def _offer(shelves: Sequence[ShopItem], settings: ShopSettings, rng: Random) -> Offer:
    part = rng.choice(tuple(PRODUCTS))
    product, colour, trait = rng.choice(PRODUCTS[part]), rng.choice(COLOURS), rng.choice(TRAITS)
    use = rng.choice(USES[part])
    query, wishes = rng.choice(
        (
            (product, {product}),
            (f"{colour} {product}", {product, colour}),
            (f"{trait} {product} for {use}", {product, trait}),
            (f"something for {use}, {colour} if possible", {colour}),
        )
    )
    wanted = [item for item in shelves if item.part == part]
    near = rng.sample(wanted, min(settings.offered // 2, len(wanted)))
    rest = [item for item in shelves if item not in near]
    offered = [*near, *rng.sample(rest, settings.offered - len(near))]
    rng.shuffle(offered)
    return Offer(
        query=query,
        documents=tuple(item.text for item in offered),
        scores=tuple(_score(query, part, wishes, item, settings) for item in offered),
    )


def _score(query: str, part: str, wishes: set[str], item: ShopItem, settings: ShopSettings) -> float:
    """The teacher's score: a function of the words and the item alone."""
    fit = settings.fit
    fits = (
        fit.part * (item.part == part)
        + fit.product * (item.product in wishes)
        + fit.colour * (item.colour in wishes)
        + fit.trait * (item.trait in wishes)
    )
    return round(fits + item.favour + settings.noise_sd * _normal(f"{query}\x1f{item.text}"), _DIGITS)


def _normal(name: str) -> float:
    """A standard normal number that is a function of the name (Box and Muller 1958)."""
    one, two = unit_hash("shop", name), unit_hash("shop'", name)
    return math.sqrt(-2 * math.log(1 - one)) * math.cos(2 * math.pi * two)
