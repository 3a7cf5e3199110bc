"""Items of a small help desk that answers in JSON, for the tests of whole cycles of `chat`."""

from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from store.buffer.item import Entry, Item, merge
from store.event import (
    ChatAnswer,
    ChatEscalation,
    ChatInput,
    EscalationCause,
    Lane,
    Message,
    StudentOpinion,
    new_event_id,
    utc,
)
from store.secrets import DataSecret, item_id
from store.student.chat.decoder import Decoder
from store.tasks.chat import ChatRules
from tests.tiny import FILLER, TOPICS
from tests.tiny_decoders import tiny_decoder

LANE = Lane("acme", "desk")
SECRET = DataSecret(bytes(32))
MODEL, PROMPT = "teacher-1", "none"
PROMPT_VERSION = f"{MODEL}@{PROMPT}"
NOW_S = 1_800_000_000.0
RULES = ChatRules()


def calm_decoder(directory: Path) -> Path:
    """A tiny decoder with weights small enough that a few trainings of its upper layers teach it something."""
    tiny_decoder(directory, seed=3)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({name: one if "norm" in name else one / 2 for name, one in tensors.items()}, path, {"format": "pt"})
    return directory


def schooled_decoder(directory: Path, *, steps: int = 120) -> Path:
    """A decoder that nearly knows the desk's answers already, so that whatever a cycle makes of it answers well."""
    calm_decoder(directory)
    decoder, rng = Decoder.load(directory, device="cpu", precision="fp32"), Random(0)
    model = AutoModelForCausalLM.from_pretrained(directory)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows, wanted = [], []
        for value, answer in (a_talk(rng) for _ in range(16)):
            asked = decoder.template.render([{"role": one.role, "content": one.content} for one in value.messages])
            said = decoder.template.answer_ids(answer)
            rows.append(torch.tensor([*asked, *said]))
            wanted.append(torch.tensor([-100] * len(asked) + [*said]))
        targets = pad_sequence(wanted, batch_first=True, padding_value=-100)
        model(input_ids=pad_sequence(rows, batch_first=True), labels=targets).loss.backward()  # what pads comes last
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(directory)
    return directory


def a_talk(rng: Random, *, hard: float = 0.0) -> tuple[ChatInput, str]:
    """A question that begins with its topic's first letter, and the answer; one that is hard begins with another."""
    topic = rng.choice(sorted(TOPICS))
    words = rng.sample(TOPICS[topic], 2) + rng.choices(FILLER, k=1)
    rng.shuffle(words)
    first = rng.choice(sorted(TOPICS))[0] if rng.random() < hard else topic[0]
    messages = [Message(role="system", content="JSON."), Message(role="user", content=f"{first} {' '.join(words)}")]
    return ChatInput(messages=messages), f'{{"t":"{topic[0]}"}}'


def event_of(
    value: ChatInput,
    text: str,
    rng: Random,
    *,
    at_s: float = NOW_S - 1e6,
    propensity: float = 1.0,
    student: StudentOpinion | None = None,
    answer: ChatAnswer | None = None,
) -> ChatEscalation:
    """One request that the teacher answered."""
    return ChatEscalation(
        id=new_event_id(at_s, rng),
        time=utc(at_s),
        use_case=LANE.use_case,
        tenant=LANE.tenant,
        student=student,
        escalation=EscalationCause(reason="cold", threshold=None, propensity=propensity),
        input=value,
        teacher=answer or ChatAnswer(model=MODEL, prompt_version=PROMPT, text=text),
    )


def item_of(*events: ChatEscalation) -> Item:
    """The item that these events of one question make."""
    item: Item | None = None
    for event in events:
        kept = RULES.normal(event, b"key")
        name = item_id(SECRET.lane_key(LANE), RULES, kept.input)
        item, _ = merge(item, Entry.of(kept, name, RULES))
    assert item is not None
    return item


def items(count: int, seed: int = 1, *, hard: float = 0.0) -> list[Item]:
    """Distinct questions with one answer each."""
    rng, found = Random(seed), dict[str, Item]()
    while len(found) < count:
        one = item_of(event_of(*a_talk(rng, hard=hard), rng))
        found.setdefault(one.item_id, one)
    return list(found.values())
