"""Redaction: what must go, what must stay, and the laws."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import store.redact
from store.errors import TooLaboriousError
from store.event import RankInput, TextInput, canonical_text
from store.personal_data import RULES, Rule, count_digits, may_hold
from store.redact import MAX_WORK, Effort, redact
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules
from tests.contracts.escalations import escalation
from tests.store.passes import redact_in_passes

KEY = b"k" * 32

PERSONAL = {
    "EMAIL": [
        "jane.doe@example.com", "o'brien@mail.example.co.uk", "JANE+tag@Example.COM", "jörg@müller.de", "root@10.0.0.1",
    ],
    "PHONE": [
        "+44 20 7946 0958", "+1 (555) 123-4567", "(555) 123-4567", "555-123-4567", "555.123.4567", "020 7946 0958",
        "+4917112345678", "0049 30 1234567", "07700900123", "06 12 34 56 78", "06.12.34.56.78", "030/1234567",
        "+44 (0)20 7946 0958", "1-800-555-0199", "(020) 7946 0958", "+33\u00a06\u00a012\u00a034\u00a056\u00a078",
    ],
    "CARD": [
        "4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "5500005555555559", "3782 822463 10005",
        "378282246310005", "6011000990139424", "2223003122003222", "4111\u20111111\u20111111\u20111111",
    ],
    "IBAN": [
        "DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "NO93 8601 1117 947",
        "FR14 2004 1010 0505 0001 3M02 606", "gb82west12345698765432", "MT84MALT011000012345MTLCAST001S",
    ],
    "IP": [
        "192.168.17.4", "8.8.8.8", "2001:db8::8a2e:370:7334", "fe80::1", "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "::ffff:10.1.2.3",
    ],
    "KEY": [
        "sk-proj-abcdEFGH1234abcdEFGH1234", "AKIAIOSFODNN7EXAMPLE", "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N", "xoxb-123456789012-abcdef",
        "sk_live_4eC39HqLyjWDarjtT1", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "glpat-abcdefghij1234567890",
        "hf_abcdefghijKLMNOPqrst1234", "Bearer abcdef0123456789abcdef",
        "-----BEGIN RSA PRIVATE KEY----- MIIEowIBAAKC -----END RSA PRIVATE KEY-----",
    ],
}  # fmt: skip
HARMLESS = [
    "order #48213", "my order #4821390127 is late", "order 4821390127", "order no. 482139", "invoice 2024-00017",
    "$1,234.56", "1 234 567,89 EUR", "€ 12.50", "it cost 1,299.00 and 3.50", "5@3.50", "2024-01-15", "15/01/2024",
    "15.01.2024", "01.02.2024 10:30", "05/06/2024 1500", "01-02-2024 12:00", "2024-01-15T10:30:00Z", "at 10:30:00",
    "10:30", "from 09:00 to 17:30", "version 1.2.3", "v2.14.0.1", "version 10.2.3.4", "section 1.2.3.4",
    "Python 3.11.7", "call me on 2024-01-15", "call me on 15 01 2024", "postcode 02139-4307", "SW1A 1AA", "std::vector",
    "a::b", "C++", "12 34 56 78 90 12 34 56", "4111 1111 1111 1112", "1234567890123456",
    "GB82 WEST 1234 5698 7654 33",
    "100 mg twice in 24 hours", "size 10-12", "room 404", "@support please", "me @ home", "user@", "999.999.999.999",
    "1.2.3.4.5", "sk-learn-something-long-and-wordy", "bearer responsibilities-of-the-office", "eyJ", "task-1234567890",
    "tracking 1Z999AA10123456784", "+1", "+100 points", "0.123456789", "ISBN 0-306-40615-2", "text me 2 times",
    "3 for 2 on 17 items of 45", "00:1a:2b:3c:4d", "call about order 4821390", "the years 1999-2004 and 2010-2020",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in PERSONAL.items() for value in values])
def test_personal_data_becomes_one_token_wherever_it_stands(kind: str, value: str) -> None:
    token = re.compile(rf"<{kind}:[0-9a-f]{{10}}>")
    for text in (value, f"write to {value} please", f"({value})", f"it is {value}.", f"{value}, thanks", f"'{value}'?"):
        redacted = redact(text, KEY)
        assert token.search(redacted), (text, redacted)
        left = token.sub("", redacted, count=1)
        assert left == canonical_text(text).replace(canonical_text(value), "", 1), (text, redacted)


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_that_are_nobodys_stay_as_they_are(text: str) -> None:
    for sentence in (text, f"please help: {text} thanks", f"{text}."):
        assert redact(sentence, KEY) == canonical_text(sentence)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call me at 5551234567", "call me at <PHONE>"),
        ("my number is 555 1234", "my number is <PHONE>"),
        ("a@b.co, 4111 1111 1111 1111 123 and 10.1.2.3", "<EMAIL>, <CARD> 123 and <IP>"),
        ("4111 1111 1111 1111 5500 0055 5555 5559", "<CARD> <CARD>"),
        ("ab12 hello worldly GB82 WEST 1234 5698 7654 32 with love", "ab12 hello worldly <IBAN> with love"),
        ("2 AT61 1904 3002 3457 3201 with love", "2 <IBAN> with love"),
        ("25 4111 1111 1111 1111", "25 <CARD>"),
    ],
)
def test_values_are_found_beside_one_another_and_their_neighbours_stay(text: str, expected: str) -> None:
    assert re.sub(r":[0-9a-f]{10}>", ">", redact(text, KEY)) == expected


def test_two_spellings_of_one_value_share_a_token_and_two_values_do_not() -> None:
    assert redact("4111 1111 1111 1111", KEY) == redact("4111-1111-1111-1111", KEY)
    assert redact("Jane@Example.com", KEY) == redact("jane@example.com", KEY)
    assert redact("+44 20 7946 0958", KEY) == redact("0044 20 79460958", KEY)
    assert redact("4111 1111 1111 1111", KEY) != redact("5500 0055 5555 5559", KEY)
    assert redact("a@b.co", KEY) != redact("a@b.co", b"another key")


def test_every_text_of_an_input_is_redacted() -> None:
    token = redact("a@b.co", KEY)
    assert ClassifyRules().redact(TextInput(text="a@b.co"), KEY) == TextInput(text=token)
    ranked = RankInput(query="a@b.co", documents=["x", "a@b.co"])
    assert RankRules().redact(ranked, KEY) == RankInput(query=token, documents=["x", token])


pieces = st.sampled_from(
    [value for values in PERSONAL.values() for value in values]
    + HARMLESS
    + [
        "<CARD:0123456789>",
        "<",
        ">",
        ":",
        "\u0338",
        "\u0301",
        "\u0660\u0661",
        "-",
        "+",
        "0",
        "4111",
        "@",
        ".",
        "sk-",
        "call ",
    ]
)
texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789 -.:/+()@<>aAeEfFkKsS#'_\u0338\u0301", max_size=40),
    st.lists(pieces, max_size=5).map("".join),
    st.lists(pieces, max_size=5).map(" ".join),
)


@given(text=texts)
@example("4111 1111 1111 1111\u0338\u0301")
@example("a@b.co\u03380171 1234567")
def test_redacting_twice_is_redacting_once_and_canonical_text_stays_canonical(text: str) -> None:
    once = redact(text, KEY)
    assert redact(once, KEY) == once
    canonical = redact(canonical_text(text), KEY)
    assert canonical_text(canonical) == canonical


blanks = st.sampled_from(
    [" ", "\n", "\r\n", "\r", "\t", "\n    ", "\u00a0", "\u2000", "\u2028", "\x1c", "\x85", "\x0b"]
)
laid_out = st.lists(
    st.one_of(
        texts,
        blanks,
        st.sampled_from(
            ["e\u0301", "\u1100\u1161", "\u0338", "\u0301", "\u212b", "\x00", "<", "jan\u0065\u0301@ex.com"]
        ),
        st.sampled_from([value for values in PERSONAL.values() for value in values]),
    ),
    max_size=9,
).map("".join)


@given(text=laid_out, blank=blanks)
@example("-----BEGIN PRIVATE KEY----- abc \n <", "\n")
@example("4111\r\n1111\t1111 1111\u0338\u0301 x", " ")
@settings(max_examples=300)
def test_the_canonical_form_of_what_is_redacted_is_what_is_redacted_of_the_canonical_form(
    text: str, blank: str
) -> None:
    for written in (text, text.replace(" ", blank)):
        assert canonical_text(redact(written, KEY)) == redact(canonical_text(written), KEY)


def test_the_layout_stays_and_line_ends_become_one_form() -> None:
    program = "if x:\r\n\tcall(jan\u0065\u0301)  # mail jane@example.com,\r    # card 4111\n1111 1111 1111!\n"
    mail, card = redact("jane@example.com", KEY), redact("4111 1111 1111 1111", KEY)
    kept = f"if x:\n\tcall(jan\u0065\u0301)  # mail {mail},\n    # card {card}!\n"
    assert redact(program, KEY) == kept


@pytest.mark.parametrize("beside", ["\u212b", "e\u0301", "\u1100\u1161"])
def test_what_stands_beside_a_value_keeps_its_place_where_a_word_is_longer_as_it_was_written(beside: str) -> None:
    mail = redact("a@b.co", KEY)
    assert redact(f"\n {beside}\t({beside}/a@b.co){beside}  {beside} ", KEY) == (
        f"\n {beside}\t({canonical_text(beside)}/{mail}){canonical_text(beside)}  {beside} "
    )


@given(before=texts, after=texts)
def test_a_token_survives_between_other_words(before: str, after: str) -> None:
    token = "<CARD:0123456789>"  # noqa: S105 - no password
    assert token in redact(f"{before} {token} {after}", KEY)


@given(text=texts)
def test_what_the_cheap_looks_rule_out_no_pattern_finds(text: str) -> None:
    canonical = canonical_text(text)
    for rule in RULES:
        found = [m for m in rule.pattern.finditer(canonical) if m.lastgroup != "token" and rule.find(m) is not None]
        if found:
            assert may_hold(rule, canonical, count_digits(canonical))


_UNITS = (
    "a. 1 1_ sk- sk-sk- sk-aaaaaaaaaaaaaaaa_ eyJaaaaaaaa. a@ a@a@ a@b. a@b.co_ a@b.co' a@1. 0 +1 +1+1 +1_(5)(5) aa11"
    " -----BEGIN_PRIVATE_KEY----- :a :::: ::1_ 1:2:3_ call_ call_me_on_ call_5551234_ 8@b.call.1234567: 41_ (0 (01)_"
    " <CARD: <CARD:0123456789> Bearer_a Bearer_ a-b@ 020_7946_0958_ 020-7946-0958- 01001_ 01_04111_04_ 01_ 01.02_"
    " 0201234567' +4917112345678 1.1.1.1 1.1.1.1_ 1.1.1.1: 10.0.0.1_ v1.2.3.4_ GB00_ GB82_WEST_1234_5698_7654_33_"
    " 4111_1111_ 4111_1111_1111_1112_ 4111111111111111\u0338 text_text_1_ \uff10 \uff10\uff11_ 1\u0338 \u0301\u0316"
    " 1-800-555-0199- (020)_7946_0958( 06.12.34.56.78. 555_123_4567_89_ x:1::1_"
)
UNITS = [unit.replace("_", " ") for unit in _UNITS.split()]
ALPHABET = [
    *"0123456789 -.:/+()@<>aeGB,'_#\u0338\u0301",
    "sk-",
    "call ",
    "GB",
    "4111",
    "020",
    "a@b.",
    "::",
    "+44",
    "\uff10",
]


class Counted:
    """A pattern that counts the characters that it was led over."""

    def __init__(self, pattern: re.Pattern[str], add: Callable[[int], None]) -> None:
        self._pattern = pattern
        self._add = add

    def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
        match = self._pattern.search(text, start, end)
        self._add((end if match is None else match.end()) - start + 1)
        return match

    def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
        match = self._pattern.match(text, start, end)
        self._add(1 if match is None else match.end() - start + 1)
        return match


def steps(text: str, rules: Sequence[Rule]) -> int:
    """The characters that the rules' patterns are led over to redact a text: work that no clock measures."""
    total = 0

    def add(number: int) -> None:
        nonlocal total
        total += number

    def counted(rule: Rule) -> Rule:
        def reach(text: str, low: int, high: int) -> int:
            found = rule.reach(text, low, high)
            add(high - found)
            return found

        patterns: Any = (Counted(rule.pattern, add), Counted(rule.opening, add))
        return rule._replace(pattern=patterns[0], opening=patterns[1], reach=reach)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.redact, "RULES", [counted(rule) for rule in rules])
        redact(text, KEY, Effort(1 << 40))
    return total


def grows_with_the_length(unit: str, rules: Sequence[Rule]) -> bool:
    """Whether four times the text is about four times the work, beyond what a short text takes."""
    text = unit * (2_000 // len(unit) + 1)
    return steps(text * 4, rules) <= 5 * steps(text, rules) + 20_000


@pytest.mark.parametrize("unit", UNITS)
def test_the_work_grows_with_the_length_of_the_text_and_not_with_its_square(unit: str) -> None:
    assert grows_with_the_length(unit, RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.sign.pattern}")
def test_so_does_the_work_of_each_rule_alone(rule: Rule) -> None:
    for unit in UNITS:
        assert grows_with_the_length(unit, [rule]), unit


@given(unit=st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=8).map("".join))
@settings(max_examples=60, deadline=None)
def test_so_it_does_for_whatever_is_repeated(unit: str) -> None:
    assert grows_with_the_length(unit, RULES)


@pytest.mark.parametrize("unit", UNITS)
def test_so_does_the_time(unit: str) -> None:
    """The patterns' own work inside a call; a square would be 16 times as much."""

    def seconds(text: str) -> float:
        def once() -> float:
            started = time.process_time()
            redact(text, KEY, Effort(1 << 40))
            return time.process_time() - started

        return min(once() for _ in range(3))

    text = unit * (5_000 // len(unit))
    assert seconds(text * 4) <= 8 * seconds(text) + 0.05


@given(
    text=st.one_of(
        texts,
        st.tuples(
            st.lists(st.one_of(pieces, st.sampled_from(ALPHABET)), max_size=4).map("".join), st.integers(1, 9)
        ).map(lambda repeated: repeated[0] * repeated[1]),
        st.tuples(st.sampled_from(UNITS), st.integers(1, 9), texts).map(lambda made: made[0] * made[1] + made[2]),
    )
)
@example("020 7946 0958 " * 40)
@example("8@b.call.1234567:" * 20)
@example("+4917112345678" * 20)
@example("a@b.version 1.2.3.4")
@example("contact number, number, number, number, number...1 2 3 4 5 6 7:8@b.call.1234567")
@example("+ 1-(1) 5-(1) 5-(1) 5-(1) 5-(1) 5-(1) 5-(1) 5:8@b.call.1234567")
@settings(max_examples=400, deadline=None)
def test_looking_only_where_something_changed_finds_what_passes_over_the_whole_text_find(text: str) -> None:
    assert canonical_text(redact(text, KEY)) == redact(canonical_text(text), KEY) == redact_in_passes(text, KEY)


def test_a_text_of_nothing_but_values_and_almost_values_is_refused_at_the_same_work_everywhere() -> None:
    hard = "01001 " * 100_000
    for _ in range(2):
        with pytest.raises(TooLaboriousError):
            redact(hard, KEY)
    shared = RankInput(query="x", documents=["01001 " * 3_333] * 30)
    with pytest.raises(TooLaboriousError):
        RankRules().redact(shared, KEY)


@pytest.mark.parametrize("unit", UNITS)
def test_every_text_of_a_request_is_well_below_the_bound(unit: str) -> None:
    effort = Effort()
    redact((unit * 20_000)[:20_000], KEY, effort)
    assert effort.left > MAX_WORK // 2


@given(text=texts)
@example("01001 " * 50)
def test_what_was_redacted_once_never_needs_more_work_than_it_did(text: str) -> None:
    first, second = Effort(), Effort()
    redact(redact(text, KEY, first), KEY, second)
    assert second.left >= first.left


@pytest.mark.parametrize(
    ("said", "kept"),
    [("refund", "refund"), ("+4917112345678", "+4917112345678"), ("ask ada@example.com", "ask <EMAIL")],
)
def test_of_what_another_producers_student_said_labels_alone_are_kept_as_they_are(said: str, kept: str) -> None:
    rules = ClassifyRules(labels=("refund", "+4917112345678"))
    found = rules.normal(escalation("a question", student=said), KEY).student
    assert found is not None
    assert found.output.startswith(kept)
    assert "ada@" not in found.output
    assert rules.normal(rules.normal(escalation("a question", student=said), KEY), KEY).student == found
