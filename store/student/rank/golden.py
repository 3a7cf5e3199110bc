"""Neutral lists, nobody's data, by which a ranking student's numbers are compared on two machines."""

from typing import Final

GOLDEN_LISTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "something to boil water in",
        ("a steel kettle", "a cotton rug", "a small frying pan", "a tea set of six cups", "a bird feeder"),
    ),
    (
        "where do I change my address?",
        (
            "Your details are kept under your account.",
            "Parcels leave our house on working days.",
            "The address on an order can be changed until it is packed.",
        ),
    ),
    ("12 + 30", ("42", "forty", "the answer is forty-two", "a number")),
)
