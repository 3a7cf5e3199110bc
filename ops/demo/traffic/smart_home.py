"""The words of the demo's smart home: what its people say, and the tool call that each of it is, as a small grammar.

`(a|b|)` picks one alternative, `{name}` expands a rule of `RULES`, and a name of `THINGS` is drawn once, for words and
call. What the household likes (how warm, how bright, which music) is in `LIKES`: nobody says it, and only the teacher's
answers tell it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SYSTEM: Final = "You run a smart home. Answer with one JSON tool call and nothing else."

ROOMS: Final = ("kitchen", "bedroom", "study", "hall")  # by how often they are spoken of
LATE_ROOM: Final = "greenhouse"
"""Built half way: nobody speaks of it before."""

LIKES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bright": dict(zip((*ROOMS, LATE_ROOM), (90, 20, 70, 40, 50), strict=True)),
    "warm": dict(zip((*ROOMS, LATE_ROOM), (20, 17, 22, 16, 25), strict=True)),
    "music": dict(zip((*ROOMS, LATE_ROOM), ("jazz", "rain", "piano", "news", "opera"), strict=True)),
}

RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "close": (*("",) * 9, " please", ", thanks", " now", " right away", ", thank you", " for me", ", if you can"),
    "ask": ("", "", "", "please ", "could you ", "i want you to ", "can you ", "be so kind and ", "house, "),
    "why": (
        *("",) * 8,
        *(", we have guests", ", my sister is here", ", i am tired", ", it is late", ", i am back", ", i work there"),
    ),
}

THINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "room": ROOMS,
    "door": ("front", "back"),
    "goods": ("milk", "coffee", "apples", "soap", "rice"),
}


@dataclass(frozen=True, slots=True)
class Liked:
    """What the household likes in the room that is spoken of."""

    what: str  # of `LIKES`


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One kind of thing that is asked for."""

    says: tuple[str, ...]  # templates
    call: Mapping[str, Any]  # `{thing}` is filled in; a `Liked` is looked up
    weight: float = 1.0  # of how often it is asked


WISHES: Final[tuple[Wish, ...]] = (
    Wish(
        says=(
            "it is (too |so |)dark in the {room}",
            "{ask}(turn|switch|put) on the (light|lights|lamp) in the {room}",
            "(light|lights|more light) in the {room}",
            "i (cannot|can't) see (a thing|anything) in the {room}",
            "{ask}light up the {room}",
            "the {room} (needs|could do with) (some light|light|more light)",
        ),
        call={"tool": "light", "room": "{room}", "level": Liked("bright")},
        weight=2.0,
    ),
    Wish(
        says=(
            "{ask}(turn|switch|put) (off|out) the (light|lights|lamp) in the {room}",
            "(lights|light) (off|out) in the {room}",
            "(nobody is|no one is) in the {room}, (turn off the light|no light needed)",
            "{ask}make the {room} dark",
            "the (light|lamp) in the {room} is (still on|on for nothing), (turn it off|off with it)",
        ),
        call={"tool": "light", "room": "{room}", "level": 0},
        weight=1.5,
    ),
    Wish(
        says=(
            "(i am|i'm|we are) (cold|freezing) in the {room}",
            "{ask}(heat|warm up|warm) the {room}",
            "it is (too |so |)(cold|chilly) in the {room}",
            "{ask}(turn|switch) on the heating in the {room}",
            "the {room} (should be|could be) (warmer|warm)",
            "(heating on|a bit of warmth) in the {room}",
        ),
        call={"tool": "heat", "room": "{room}", "to": Liked("warm")},
        weight=2.0,
    ),
    Wish(
        says=(
            "it is (too |so |)(hot|warm|stuffy) in the {room}",
            "{ask}cool (down |)the {room}",
            "(i am|i'm|we are) (sweating|boiling) in the {room}",
            "{ask}(turn|switch) (down|off) the heating in the {room}",
            "the {room} (should be|could be) (cooler|cool)",
        ),
        call={"tool": "heat", "room": "{room}", "to": 15},
    ),
    Wish(
        says=(
            "{ask}(play|put on) (some |)music in the {room}",
            "(music|some music) (for|in) the {room}",
            "i (want|would like) to (hear something|listen to something) in the {room}",
            "it is (too |so |)(quiet|silent) in the {room}",
            "{ask}(turn|switch) on the (radio|speaker) in the {room}",
        ),
        call={"tool": "music", "room": "{room}", "play": Liked("music")},
        weight=2.0,
    ),
    Wish(
        says=(
            "{ask}(stop|turn off|switch off) the (music|radio|speaker) in the {room}",
            "it is (too |so |)(loud|noisy) in the {room}",
            "(no more music|silence|quiet) in the {room}",
            "(i have|i've) heard enough (music |)in the {room}",
        ),
        call={"tool": "music", "room": "{room}", "play": "off"},
    ),
    Wish(
        says=(
            "{ask}(open|raise|pull up) the blinds in the {room}",
            "(blinds up|let the sun in|let some sun in|daylight) in the {room}",
            "i want to look out of the window in the {room}",
        ),
        call={"tool": "blinds", "room": "{room}", "to": "up"},
    ),
    Wish(
        says=(
            "{ask}(close|lower|let down|shut) the blinds in the {room}",
            "(blinds down|keep the sun out) in the {room}",
            "the sun (blinds me|is in my eyes) in the {room}",
            "the neighbours can look into the {room}",
        ),
        call={"tool": "blinds", "room": "{room}", "to": "down"},
    ),
    Wish(
        says=(
            "{ask}lock the {door} door",
            "(is the {door} door locked? if not, lock it|make sure the {door} door is locked)",
            "(shut|secure|bolt) the {door} door",
            "nobody should come in by the {door} door",
        ),
        call={"tool": "lock", "door": "{door}", "locked": True},
    ),
    Wish(
        says=(
            "{ask}(unlock|open) the {door} door",
            "(let|i want to let) (my brother|the plumber|the dog|her) in (by|through) the {door} door",
            "(someone|my son|a friend) is at the {door} door, (let them in|open up)",
        ),
        call={"tool": "lock", "door": "{door}", "locked": False},
    ),
    Wish(
        says=(
            "{ask}(put|write) {goods} on the (list|shopping list)",
            "(we are|we're) (out of|nearly out of|low on) {goods}",
            "(there is|we have) no {goods} left",
            "{ask}(add|note down) {goods}(| for the shops| to the list)",
            "we need (more |some |){goods}",
        ),
        call={"tool": "list", "add": "{goods}"},
        weight=1.5,
    ),
    Wish(
        says=(
            "good night",
            "(i am|i'm|we are) going to bed",
            "(time|it is time) (to sleep|for bed)",
            "(everybody|everyone) is (asleep|in bed)",
        ),
        call={"tool": "scene", "name": "night"},
        weight=0.6,
    ),
    Wish(
        says=(
            "(i am|i'm|we are) (off|leaving|going out|off to work)",
            "(nobody will be|no one will be) (home|at home) (today|until tonight|this week)",
            "see you tonight",
        ),
        call={"tool": "scene", "name": "away"},
        weight=0.6,
    ),
    Wish(
        says=(
            "(tell me a joke|sing me a song|tell me a story)",
            "what is the capital of (peru|norway|kenya|chile)",
            "who won the (match|race|election) (yesterday|last night)",
            "(book me a flight to|how far is it to) (rome|oslo|lima|cork)",
            "what is (seven times twelve|the meaning of life|the time in tokyo)",
        ),
        call={"tool": "none"},
        weight=0.7,
    ),
)

FOLLOWING: Final = (
    "(and|now) the same in the {room}",
    "(and|also) in the {room}",
    "(the {room} too|the {room} as well)",
    "do that in the {room} (too|as well)",
)
"""What is said after a call for another room: what it asks for stands in the turn before."""
