"""Parsing a teacher's answer, and the label maps that may follow one another."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis.strategies import lists, permutations, sampled_from, text

from store.errors import AnswerFault, InvalidAnswerError, SwapRefusedError
from store.labels import AnswerFormat, check_label_map, folded, parse_label

LABELS = ("Joy", "Card lost", "C++", "Mr. Smith", "e.g.")
DESK = ("refund", "refund_pending", "delivery", "order status", "réclamation", "other")
ODD = ("C++", "C", "C#", "n/a", "<none>", "none", "Label: x", "x", "...", "-1", "1", ">5", "_private_", "👍", "R&D")
WRAPPERS = (
    "{}",
    " {}\r\n",
    "\ufeff{}",
    "\u00a0{}\u200b",
    "{}.",
    "{}!",
    "{}?",
    "{},",
    "{};",
    "{}:",
    "{}。",
    '"{}"',
    '"{}".',
    "“{}”",
    "「{}」",
    "`{}`",
    "**{}**",
    "*{}*",
    "__{}__",
    "_{}_",
    "~{}~",
    "# {}",
    "### {}",
    "- {}",
    "* {}",
    "• {}",
    "> {}",
    "1. {}",
    "2) {}",
    "A) {}",
    "- [x] {}",
    "✅ {}",
    "{} ✅",
    "→ {}",
    "({})",
    "[{}]",
    "【{}】",
    "<b>{}</b>",
    "<p>{}</p>",
    "<label>{}</label>",
    "<strong><em>{}</em></strong>",
    "{}<br>",
    "{}<|im_end|>",
    "{}</s>",
    "{}<|endoftext|>",
    "<s>{}</s>",
    "[/INST] {}",
    "<|im_start|>assistant\n{}<|im_end|>",
    "{}<|eot_id|>",
    "{}<end_of_turn>\n",
    "{}<\uff5cend▁of▁sentence\uff5c>",
    "Label: {}",
    "label:{}",
    "LABEL = {}",
    "Answer - {}",
    "Category: **{}**",
    "**Label:** {}",
    "**Label**: {}",
    "Label → {}",
    '"label": "{}"',
    "Final answer: {}.",
    "The label is: {}",
    "Here is the label: {}",
    "Sure! Here's the label:\n\n**{}**",
    "Réponse : {}",
    "标签:{}",
    "## Answer\n{}",
    "```{}```",
    "```\n{}\n```",
    "```text\n{}\n```",
    "~~~\n{}\n~~~",
    "````\n{}\n````",
    "```\n{}",
    "```text {}```",
    "Here is the label:\n```\n{}\n```",
    "\\boxed{{{}}}",
    "$\\boxed{{\\text{{{}}}}}$",
    "<think>a\nb</think>{}",
    "<think>is it delivery?</think>\n\n{}",
    "no tag at first</think> {}",
    "<thinking>a</thinking><think>b</think>{}",
    "<THINK>a</THINK>{}",
    "<reasoning>other?</reasoning>{}",
    "<answer>{}</answer>",
    "<think>a</think><answer>{}</answer>",
    "[THINK]a[/THINK]{}",
    "<|channel|>analysis<|message|>delivery?<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    '{{"label": "{}"}}',
    '```json\n{{"label": "{}"}}\n```',
    "{}\n{}",
    "Label: {}\nReason: it is no delivery",
    "Label: {}\nConfidence: 0.9",
    "Reason: money\nback\nLabel: {}",
    "The label is {}.",
    "the most likely category would be **{}**",
    "So, the answer is \\boxed{{{}}}.",
    "Label: {} (confidence 0.9)",
    "{} (90%)",
    "**{}** (the customer waits for money)",
    "💰 {}",
    "{} 📦📦",
    "▪ {}",
    "{}\\n",
    "* **{}**",
    "* **Label:** `{}`",
    "a. {}",
    "#{}",
    "① {}",
    "{}\n###",
    "{}###",
    "{}</answer>",
    "<![CDATA[{}]]>",
    "<label>{}</label><confidence>0.9</confidence>",
    "<result>\n <label>{}</label>\n <confidence>0.9</confidence>\n</result>",
    "<think/>{}",
    "Thinking...\nmaybe delivery\n...done thinking.\n\n{}",
    "<|begin_of_thought|>delivery?<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
    "**Thinking:** it is about money\n\n**Answer:** {}",
    "The customer is angry. So it is about money.\n\nFinal answer: {}",
    "```yaml\nlabel: {}\nconfidence: 0.9\n```",
    "---\nlabel: {}\n---",
    "Метка: {}",
    "Rótulo: {}",
    "Assistant: {}",
    '<tool_call>{{"name": "classify", "arguments": {{"label": "{}"}}}}</tool_call>',
)
JSON_WRAPPERS = (
    '{{"label": "{}"}}',
    '{{"label":"{}"}} ',
    '```json\n{{"label": "{}"}}\n```',
    '```JSON\n{{"label": "{}"}}',
    '~~~json\n{{"label": "{}"}}\n~~~',
    '```{{"label": "{}"}}```',
    'Here is the JSON you asked for:\n{{"label": "{}"}}\nTell me if it helps!',
    '<think>{{"label": "other"}}</think>{{"label": "{}"}}',
    '{{"reason": "two\nlines", "label": "{}"}}',
    '{{"p": NaN, "q": [-Infinity, 1e999], "label": "{}"}}',
    '{{"who": "\\ud83d", "label": "{}"}}',
    '{{"n": ' + "9" * 5000 + ', "label": "{}"}}',
    "{{'label': '{}'}}",
    '{{"label": "{}",}}',
    '{{"label": "{}"',
    '{{"Label": "{}"}}',
    '{{"label": ["{}"]}}',
    '[{{"label": "{}"}}]',
    'as {{label}}: {{"label": "{}"}}',
    'a {{ and {{"label": "{}"}}',
    '{{"label": " **{}**. "}}',
    '"label": "{}"',
    '{{"why": "not \\"label\\": \\"other\\"", "label": "{}"}}',
    '{{"label": "{0}"}} {{"label": "{0}"}}',
    '\ufeff{{\u00a0"label": "{}"}}',
    "label: {}",
    "```yaml\nlabel: {}\nreason: money\n```",
    "{{label: {}, p: 1}}",
    '{{"label": {}}}',
    '{{"label": `{}`}}',
    '{{"label": "{} (money)"}}',
    '{{\\"label\\": \\"{}\\"}}',
    "{{&quot;label&quot;: &quot;{}&quot;}}",
    '{{"name": "classify", "arguments": {{"label": "{}"}}}}',
    '{{"name": "classify", "arguments": "{{\\"label\\": \\"{}\\"}}"}}',
    '{{"tool_calls": [{{"type": "function", "function": {{"name": "c", "arguments": {{"label": "{}"}}}}}}]}}',
    '{{"result": {{"label": "{}"}}}}',
    '{{"Answer": [{{"label": "{}", "score": 1}}]}}',
    '[{{"output": "{{\\"label\\": \\"{}\\"}}"}}]',
)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Joy", "Joy"),
        ("  joy.\n", "Joy"),
        ('"Joy."', "Joy"),
        ('"Joy".', "Joy"),
        ("'CARD LOST'", "Card lost"),
        ("“c++”", "C++"),
        ("mr. smith", "Mr. Smith"),
        ("e.g.", "e.g."),
        ("E.G", "e.g."),
    ],
)
def test_an_answer_is_read_through_quotes_case_and_a_full_stop(answer: str, label: str) -> None:
    assert parse_label(answer, LABELS) == label


@pytest.mark.parametrize("answer", ["", "anger", "Joy and Card lost", "The label is not Joy", "Joy...", "C"])
def test_an_answer_off_the_list_is_invalid(answer: str) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_label(answer, LABELS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("label", DESK)
def test_a_label_in_any_wrapper_is_that_label(wrapper: str, label: str) -> None:
    assert parse_label(wrapper.format(label, label), DESK) == label


@pytest.mark.parametrize("wrapper", JSON_WRAPPERS)
@pytest.mark.parametrize("label", ["refund", "refund_pending", "réclamation"])
def test_a_label_in_any_json_is_that_label(wrapper: str, label: str) -> None:
    assert parse_label(wrapper.format(label), DESK, answer_format="json") == label


@given(inner=sampled_from(WRAPPERS[:62]), outer=sampled_from(WRAPPERS[:62]), label=sampled_from(DESK))
def test_wrappers_in_wrappers_never_give_another_label(inner: str, outer: str, label: str) -> None:
    try:
        assert parse_label(outer.format(inner.format(label, label)), DESK) == label
    except InvalidAnswerError:
        return


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("re\u0301clamation", "réclamation"),
        ("RÉCLAMATION", "réclamation"),
        ("ＲＥＦＵＮＤ！", "refund"),  # noqa: RUF001 - full width
        ("re\u00adfund", "refund"),
        ("order\u00a0status", "order status"),
        ("order\u2003 status", "order status"),
        ("Order_Status", "order status"),
        ("order-status", "order status"),
        ("OrderStatus", "order status"),
        ("refund pending", "refund_pending"),
        ("REFUND-PENDING.", "refund_pending"),
        ("&quot;refund&quot;", "refund"),
        ("r\\u00e9clamation", "réclamation"),
        ('"r\\u00e9clamation"', "réclamation"),
        ("r&eacute;clamation", "réclamation"),
        ("Reclamation", "réclamation"),
        ("refund_pending (approved soon)", "refund_pending"),
        ("delivery (90.0%)", "delivery"),
        ("delivery (100%)", "delivery"),
        ('"{\\"label\\": \\"refund\\"}"', "refund"),
    ],
)
def test_spellings_of_one_label_are_that_label(answer: str, label: str) -> None:
    assert parse_label(answer, DESK) == label


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("", "empty"),
        (" \n\u200b", "empty"),
        ("<think>refund</think>", "empty"),
        ("<think>refund", "truncated"),
        ("refund...", "truncated"),
        ("refund…", "truncated"),
        ('"refund', "off_list"),  # of "refund_pending"
        ("refund_", "off_list"),
        ("refund_pend", "off_list"),
        ("I would not call this a refund", "off_list"),
        ("I would not call this a refund.\nrefund", "off_list"),
        ("not refund", "off_list"),
        ("No refund", "off_list"),
        ("The label is not: refund", "off_list"),
        ("Wrong label: refund", "off_list"),
        ("Label: not refund", "off_list"),
        ("refund\n\nThat is what I would say", "off_list"),
        ("refund or delivery", "several"),
        ("refund, delivery", "several"),
        ("refund\ndelivery", "several"),
        ("- refund\n- delivery", "several"),
        ("refund/delivery", "several"),
        ("Label: refund\nLabel: delivery", "several"),
        ("Reason: money\ndelivery\nLabel: refund", "several"),
        ("<answer>refund</answer><answer>delivery</answer>", "several"),
        ('{"label": "refund", "label": "delivery"}', "several"),
        ("refund (pending)", "off_list"),
        ("refund (or delivery)", "several"),
        ("refund (not delivery)", "several"),
        ("refund (not sure)", "off_list"),
        ("refund (maybe)", "off_list"),
        ("refund (80%), delivery (20%)", "several"),
        ("The label is not refund.", "off_list"),
        ("The answer is that I would not call it a refund", "off_list"),
        ("This is about a refund.", "off_list"),
        ("I cannot classify this as a refund, sorry", "off_list"),
        ("I am not sure, refund?\nAnswer: none of them", "off_list"),
        ("delivery\nThe customer waits.\nLabel: refund", "several"),
        ("Label: refund\nThat is what I would say", "off_list"),
        ("<answer>refund", "off_list"),  # of "refund_pending"
        ('["refund", "delivery"]', "several"),
        ("~~refund~~", "off_list"),
        ("**~~refund~~**", "off_list"),
        ("<del>refund</del>", "off_list"),
        ("<wrong>refund</wrong>", "off_list"),
        ("❌ refund", "off_list"),
        ("delivery ✗", "off_list"),
        ("[ ] delivery", "off_list"),
        ("- [ ] delivery", "off_list"),
        ("☐ delivery", "off_list"),
        ("delivery (0%)", "off_list"),
        ("delivery (0.0 %)", "off_list"),
        ("delivery (rejected)", "off_list"),
        ("delivery (never)", "off_list"),
        ("delivery (could be shipping)", "off_list"),
        ("refund (false)", "off_list"),
        ("x" * (1 << 20), "off_list"),
    ],
)
def test_what_is_no_label_is_refused_by_its_kind(answer: str, kind: AnswerFault) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        parse_label(answer, DESK)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("refund", "not_json"),
        ("{}", "not_json"),
        ('{"label": null}', "not_json"),
        ('{"label": {"label": "refund"}}', "not_json"),
        ('{"other": {"label": "refund"}}', "not_json"),
        ('{"label": "refund', "truncated"),
        ('{"label": "refund"} {"label": "delivery"}', "several"),
        ('{"label": "refund or delivery"}', "several"),
        ('{"label": "not a refund"}', "off_list"),
        ('It is not {"label": "refund"}.', "off_list"),
        ('It isn\'t\n```json\n{"label": "refund"}\n```', "off_list"),
        ('Answer with the label, for example {"label": "refund"}', "off_list"),
        ('{"label": "refund"} would be wrong', "off_list"),
        ("", "empty"),
    ],
)
def test_json_without_one_label_is_refused_by_its_kind(answer: str, kind: AnswerFault) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        parse_label(answer, DESK, answer_format="json")
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("1. 2", ("1", "2", "3")),
        ("(1) 2", ("1", "2", "3")),
        ("1: 2", ("1", "2", "3")),
        ("① 2", ("1", "2", "3")),
        ('{"label": "1) 2"}', ("1", "2", "3")),
        ("a) b", ("a", "b")),
        ("A. B", ("a", "b")),
        ("- 1", ("-1", "0", "1")),
        ("— 1", ("-1", "0", "1")),
        ("Label: - 1", ("-1", "0", "1")),
        ("> 5", (">5", "5")),
        ("C##", ("C", "C++", "C#")),
    ],
)
def test_a_mark_that_is_a_label_or_part_of_one_never_comes_off(answer: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_label(answer, labels)


@pytest.mark.parametrize("label", ODD)
def test_a_label_of_odd_characters_matches_exactly_first(label: str) -> None:
    assert parse_label(label, ODD) == label
    assert parse_label(f" {label}\n", ODD) == label


@given(first=sampled_from(DESK), second=sampled_from(DESK), between=sampled_from([" or ", ", ", "\n", " / ", " and "]))
def test_two_labels_never_give_one(first: str, second: str, between: str) -> None:
    if first != second:
        with pytest.raises(InvalidAnswerError):
            parse_label(f"{first}{between}{second}", DESK)


@given(
    words=lists(
        sampled_from(
            [
                "I",
                "would",
                "not",
                "call",
                "this",
                "a",
                "refund",
                "delivery",
                "is",
                "maybe",
                "of",
                "other",
                "the",
                "label",
                "it",
            ]
        ),
        min_size=3,
    )
)
def test_a_sentence_never_gives_a_label(words: list[str]) -> None:
    if {"I", "would", "call", "maybe", "it"} & set(words) and len(set(words)) > 1:
        with pytest.raises(InvalidAnswerError):
            parse_label(" ".join(words), DESK)


ADVERSARIES = {
    "quotes": '"',
    "braces": "{",
    "escapes": '{"\\',
    "blanks": " ",
    "marks": "\u0301\u0316",
    "thinking": "<think>",
    "half tags": "</b>",
    "asides": "a (b) ",
    "pictures": "💰",
    "bare fields": "label: ",
    "calls": '{"name": {"input": ',
    "escaped": "\\u0061",
    "beside": "</a><a>",
    "tags": "<b>",
    "tokens": "<|x|>",
    "fields": '{"label": "',
    "objects": '{"label": "refund"}',
    "open": '{"a":',
    "lists": '{"label":[[',
    "stops": ".",
    "fences": "```\n",
    "keys": "Label: ",
    "lines": "refund\n",
    "entities": "&amp;",
    "stars": "*",
    "invisible": "\u200b",
    "ends": "</think>",
}


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("answer_format", ["text", "json"])
def test_no_text_takes_more_than_linear_time(adversary: str, answer_format: AnswerFormat) -> None:
    def seconds(size: int) -> float:
        answer = ADVERSARIES[adversary] * (size // len(ADVERSARIES[adversary]))
        started_s = time.process_time()
        with contextlib.suppress(InvalidAnswerError):
            parse_label(answer, DESK, answer_format=answer_format)
        return time.process_time() - started_s

    small = min(seconds(1 << 16) for _ in range(2))
    assert seconds(1 << 20) < 16 * 8 * max(small, 0.002)  # quadratic would be 256 times as long


def test_without_a_list_spellings_of_one_label_are_one() -> None:
    said = ["refund", "refund", "Refund.", " REFUND", '{"label": "refund"}', "order_status", "Order status", "C++", "C"]
    found = folded(said)
    assert set(found) == set(said)
    assert {found[one] for one in said} == {"refund", "Order status", "C++", "C"}
    assert len(set(folded(["S. aureus", "M. aureus", ">5", "5", "-1", "1", "1-2", "12"]).values())) == 8


def test_what_tells_labels_apart_is_no_aside() -> None:
    assert parse_label("refund (approved)", ("refund (approved)", "refund (denied)")) == "refund (approved)"
    with pytest.raises(InvalidAnswerError):
        parse_label("refund (late)", ("refund", "refund (denied)"))
    assert len(set(folded(["Apple (fruit)", "Apple (company)", "☀ day", "🌙 day", "#1", "1", "B. 1"]).values())) == 7


def test_case_is_not_ignored_where_it_tells_labels_apart() -> None:
    assert parse_label("us", ("US", "us")) == "us"
    with pytest.raises(InvalidAnswerError, match="more than one"):
        parse_label("Us", ("US", "us"))


@pytest.mark.parametrize(
    "answer", ['{"label": "Joy"}', '```json\n{"label": "joy", "why": "glad"}\n```', '```{"label":"Joy"}```']
)
def test_a_json_answer_is_read_from_its_label_field(answer: str) -> None:
    assert parse_label(answer, LABELS, answer_format="json") == "Joy"


@pytest.mark.parametrize(
    "answer",
    ["Joy", '{"label": 3}', '{"answer": "Joy"}', '["Joy"]', '{"label": "anger"}', "\ud800", '{"a":' + "[" * 100_000],
)
def test_a_json_answer_without_a_known_label_is_invalid(answer: str) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_label(answer, LABELS, answer_format="json")


def test_an_invalid_answer_is_not_quoted_in_the_error() -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        parse_label("my card number is 4111", LABELS)
    assert "4111" not in str(caught.value)


@given(answer=text())
def test_any_text_is_a_label_of_the_list_or_invalid(answer: str) -> None:
    for answer_format in ("text", "json"):
        try:
            assert parse_label(answer, LABELS, answer_format=answer_format) in LABELS
        except InvalidAnswerError:
            continue


@given(labels=lists(sampled_from("abcdefgh"), unique=True, min_size=1), added=lists(sampled_from("xyz"), unique=True))
def test_labels_added_at_the_end_are_fine(labels: list[str], added: list[str]) -> None:
    check_label_map(labels, labels + added, removal_declared=False)
    check_label_map([], labels, removal_declared=False)


@given(labels=permutations("abcd"))
def test_a_permuted_label_map_is_refused(labels: list[str]) -> None:
    if labels == list("abcd"):
        check_label_map("abcd", labels, removal_declared=False)
    else:
        with pytest.raises(SwapRefusedError):
            check_label_map("abcd", labels, removal_declared=True)


def test_a_removal_must_be_declared() -> None:
    with pytest.raises(SwapRefusedError, match="'c'"):
        check_label_map("abc", "ab", removal_declared=False)
    check_label_map("abc", "ab", removal_declared=True)


def test_a_label_may_not_occur_twice() -> None:
    with pytest.raises(SwapRefusedError, match="twice"):
        check_label_map("", "aa", removal_declared=False)
