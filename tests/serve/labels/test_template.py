"""A client's own rendering of the lane's prompt gives the text that it asks about."""

from string import Template

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.tasks.classify.template import Prompt

LABELS = ("refund", "where is it", "$text")
BESIDE = "You sort messages.\nOne of: $labels\n\nMessage: $text\nLabel:"
ABOVE = "$labels\n\n$text"
BELOW = "Text: $text\nLabels: $labels\nIt costs $$5."
BARE = "$text"
TWICE = "Read $text; read again: $text! One of $labels."

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@given(text=texts, prompt=st.sampled_from([BESIDE, BELOW, BARE, ABOVE]))
def test_a_rendered_prompt_gives_back_its_text(text: str, prompt: str) -> None:
    said = Template(prompt).substitute(text=text, labels="\n".join(LABELS))
    assert Prompt(prompt, LABELS).text_in(said) == text


@given(text=st.text("ab c!;$", min_size=1).map(str.strip).filter(bool))
def test_a_text_that_a_prompt_holds_twice_is_found_once(text: str) -> None:
    said = Template(TWICE).substitute(text=text, labels="\n".join(LABELS))
    assert Prompt(TWICE, LABELS).text_in(said) == text


@pytest.mark.parametrize(
    ("prompt", "said", "text"),
    [
        (
            BESIDE,
            "You sort messages. One of: refund, other\nMessage:  where\n is it Label: x\nLabel:",
            "where\n is it Label: x",
        ),
        (BESIDE, "  You  sort\tmessages.\n\nOne of: \nMessage:\nhello\n\nLabel:\n", "hello"),
        (BELOW, "Text: my Labels: are\nLabels: a; b\nIt costs $5.", "my Labels: are"),
        (BESIDE, "You sort messages. One of: refund Message: hello", None),
        (BESIDE, "hello", None),
        (ABOVE, "refund, where is it\n\nhello", None),
        (BESIDE, "You sort messages.\nOne of: a\nMessage: Label:", ""),
        (TWICE, "Read a; read again: b! One of x.", None),
    ],
)
def test_blanks_and_the_spelling_of_the_list_do_not_matter(prompt: str, said: str, text: str | None) -> None:
    assert Prompt(prompt, LABELS).text_in(said) == text


def test_without_a_list_the_labels_are_whatever_stands_there() -> None:
    assert Prompt(BESIDE, ()).text_in("You sort messages. One of: a, b Message: hello Label:") == "hello"
