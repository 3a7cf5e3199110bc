"""The words of the demo's smart home: what its people say, and the tool call that each of it is, as a small grammar.

`(a|b|)` picks one alternative, `{name}` expands a rule of `RULES`. What the household likes (how warm, how bright,
which music) stands in the calls alone: nobody says it, and only the teacher's answers tell it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SYSTEM: Final = "You run a smart home. Answer with one JSON tool call and nothing else."

RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "ask": ("", "", "", "please ", "could you ", "i want you to ", "can you ", "be so kind and ", "house, "),
    "close": (
        *("",) * 9,
        *(" please", ", thanks", " now", " right away", ", thank you", " for me", ", if you can"),
        *(", we have guests", ", i am tired", ", it is late", ", i am back"),
    ),
    "where": ("", "", "", " in the kitchen", " in the study", " in here", " upstairs", " downstairs"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One kind of thing that is asked for."""

    says: tuple[str, ...]  # templates
    call: Mapping[str, Any]
    undone: str | None = None  # name of the wish that takes it back
    weight: float = 1.0  # of how often it is asked


WISHES: Final[Mapping[str, Wish]] = {
    "light_on": Wish(
        says=(
            "it is (too |so |)dark{where}",
            "{ask}(turn|switch|put) on the (light|lights|lamp){where}",
            "(more light|lights on){where}",
            "i (cannot|can't) see (a thing|anything){where}",
        ),
        call={"tool": "light", "level": 70},
        undone="light_off",
        weight=2.0,
    ),
    "light_off": Wish(
        says=(
            "{ask}(turn|switch|put) (off|out) the (light|lights|lamp){where}",
            "(lights|light) (off|out){where}",
            "{ask}make it dark{where}",
            "nobody needs (the light|the lamp){where}",
        ),
        call={"tool": "light", "level": 0},
        undone="light_on",
        weight=2.0,
    ),
    "warmer": Wish(
        says=(
            "(i am|i'm|we are) (cold|freezing){where}",
            "{ask}(turn|switch) on the heating{where}",
            "it is (too |so |)(cold|chilly){where}",
            "{ask}(heat|warm up) the (house|room|place)",
        ),
        call={"tool": "heat", "to": 22},
        weight=1.5,
    ),
    "music_on": Wish(
        says=(
            "{ask}(play|put on) (some |)music{where}",
            "i (want|would like) to (hear some music|listen to music){where}",
            "it is (too |so |)(quiet|silent){where}",
            "{ask}(turn|switch) on the (radio|speaker){where}",
        ),
        call={"tool": "music", "play": "jazz"},
        undone="music_off",
        weight=1.5,
    ),
    "music_off": Wish(
        says=(
            "{ask}(stop|turn off|switch off) the (music|radio|speaker){where}",
            "it is (too |so |)(loud|noisy){where}",
            "(no more music|silence){where}",
        ),
        call={"tool": "music", "play": "off"},
        undone="music_on",
    ),
    "blinds_down": Wish(
        says=(
            "{ask}(close|lower|let down|shut) the (blinds|curtains){where}",
            "(blinds down|keep the sun out){where}",
            "the (sun|neighbour) can look in{where}",
        ),
        call={"tool": "blinds", "to": "down"},
    ),
    "lock": Wish(
        says=(
            "{ask}(lock|bolt|secure) the (front |back |)door",
            "make sure the (front |back |)door is locked",
            "nobody should come in by the (front |back |)door",
        ),
        call={"tool": "door", "locked": True},
    ),
    "night": Wish(
        says=(
            "(good night|sleep well)",
            "(i am|i'm|we are) going to bed",
            "(time|it is time) (to sleep|for bed)",
            "(everybody|everyone) is (asleep|in bed)",
        ),
        call={"tool": "scene", "name": "night"},
    ),
    "none": Wish(
        says=(
            "(tell me a joke|sing me a song|tell me a story)",
            "what is the capital of (peru|norway|kenya|chile)",
            "who won the (match|race|election) (yesterday|last night)",
            "(book me a flight to|how far is it to) (rome|oslo|lima|cork)",
        ),
        call={"tool": "none"},
        weight=0.6,
    ),
}

LATE: Final = Wish(
    says=(
        "{ask}water the (plants|tomatoes|flowers|herbs)",
        "the (tomatoes|flowers|herbs) (are|look) (dry|thirsty)",
        "has anybody watered the (plants|tomatoes|herbs)? if not, do it",
        "(turn|switch) on the (sprinkler|water) (in|for) the greenhouse",
    ),
    call={"tool": "water", "minutes": 10},
)
"""What a greenhouse wants that is built half way: nobody speaks of it before."""

UNDO: Final = ("(no, |)(undo|take back) that", "(no|sorry), the other way round", "i changed my mind, undo it")
"""What takes the call before it back: which that was stands in the turn before."""
