"""One event of every variant, as a gateway, an import or another producer puts it on the log."""

from typing import Any

import msgspec

from store.answers.top_logprobs import NO_TOKEN, pack_top
from store.event import (
    AgreementVerdict,
    ChatAnswer,
    ChatEscalation,
    ChatInput,
    ClassifyEscalation,
    Escalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    Message,
    RankAnswer,
    RankEscalation,
    RankInput,
    Reason,
    StudentOpinion,
    TextInput,
    Usage,
    event_id_of_key,
    utc,
)
from tests.golden.fixed import NOW_S

LANE = Lane("acme", "support")
VERSION = "0123456789abcdef"
PROMPT = "3cf4cb315bab13a2"  # of the prompt that `init` writes
LISTED_PROMPT = "cbe43a54c24988a4"  # of the same, as 0.1.0 named it: with the lane's labels
MODEL = "gpt-4o-mini"
REASONS: tuple[Reason, ...] = (
    "cold",
    "low_confidence",
    "novel",
    "audit",
    "bought",
    "budget_margin",
    "forced",
    "too_long",
    "unsupported",
    "student_down",
)


def event_id(number: int) -> str:
    """A UUIDv7 that is a function of the number."""
    return f"019b{number:04x}-0000-7000-8000-{number:012x}"


def asked(number: int, text: str, label: str, **fields: Any) -> ClassifyEscalation:
    """A question of `classify`."""
    reason: Reason = fields.pop("reason", "low_confidence")
    opinion = StudentOpinion(version=VERSION, output="refund", confidence=0.5, members=[[0.5, 0.25, 0.25]])
    return ClassifyEscalation(
        id=fields.pop("id", event_id(number)),
        time=utc(fields.pop("time_s", NOW_S - 100_000 + number)),
        use_case=LANE.use_case,
        tenant=fields.pop("tenant", LANE.tenant),
        student=fields.pop("student", opinion),
        escalation=EscalationCause(
            reason=reason,
            threshold=fields.pop("threshold", None if reason == "cold" else 0.75),
            propensity=fields.pop("propensity", 0.05 if reason == "audit" else 1.0),
        ),
        subject=fields.pop("subject", None),
        eligible=fields.pop("eligible", True),
        input=TextInput(text=text),
        teacher=LabelAnswer(model=MODEL, prompt_version=fields.pop("prompt", PROMPT), label=label, **fields),
    )


def ranked(number: int, documents: list[str], *, query: str = "shoes", **fields: Any) -> RankEscalation:
    """A question of `rank`."""
    output = fields.pop("output", None)
    members = fields.pop("members", [])
    opinion = StudentOpinion(version=VERSION, output=output or "", confidence=0.5, members=members)
    return RankEscalation(
        id=event_id(number),
        time=utc(fields.pop("time_s", NOW_S)),
        use_case=fields.pop("use_case", LANE.use_case),
        tenant=LANE.tenant,
        student=None if output is None else opinion,
        escalation=EscalationCause(reason="low_confidence", threshold=0.75, propensity=1.0),
        subject=fields.pop("subject", None),
        input=RankInput(query=query, documents=documents),
        teacher=RankAnswer(model=MODEL, prompt_version=PROMPT, **fields),
    )


def every_event(prompt: str = PROMPT) -> dict[str, Escalation]:
    """By name; all of one lane, answered under one prompt version."""
    events: dict[str, Escalation] = {
        f"reason {reason}": asked(number, f"my parcel is late {number}", "delivery", reason=reason)
        for number, reason in enumerate(REASONS)
    }
    base = 100
    full = StudentOpinion(
        version=VERSION,
        output="login",
        confidence=0.625,
        members=[[0.25, 0.625, 0.125], [0.5, 0.25, 0.25]],
        logits=[-1.5],
    )
    events |= {
        "cold, nothing optional": asked(base, "where is my parcel", "delivery", reason="cold", student=None),
        "everything optional": asked(
            base + 1,
            "password reset for <EMAIL:0a1b2c3d4e>",
            "login",
            student=full,
            subject="jane",
            usage=Usage(prompt_tokens=120, completion_tokens=2),
            cost_usd=0.00025,
            latency_ms=321.5,
            probs={"login": 0.9, "refund": 0.1},
        ),
        "personal data that the producer left in": asked(
            base + 2, "charged twice, card 4111 1111 1111 1111, mail jane@example.com", "refund"
        ),
        "not to be learned from": asked(base + 3, "please forget me", "login", eligible=False),
        "unicode": asked(base + 4, "Zażółć gęślą jaźń 👩‍👩‍👧 e\u0301 مرحبا 你好\u00a0\u2028 end", "refund"),
        "white space and controls": asked(base + 5, "  a\tb\r\n\u0007 c  ", "refund"),
        "id of an idempotency key": asked(
            base + 6, "parcel late", "delivery", id=event_id_of_key(LANE, "key-1", "0" * 32)
        ),
        "the smallest propensity": asked(base + 7, "code please", "login", reason="audit", propensity=1e-6),
        "a label spelled otherwise": asked(base + 8, "money back please", "**Refund**."),
        "an import": asked(
            base + 9, "the courier was late", "delivery", reason="cold", student=None, time_s=NOW_S - 9e5
        ),
    }
    common: dict[str, Any] = {
        "use_case": LANE.use_case,
        "tenant": LANE.tenant,
        "student": None,
        "escalation": EscalationCause(reason="cold", threshold=None, propensity=1.0),
    }
    said: dict[str, Any] = {"model": MODEL, "prompt_version": PROMPT}
    rank = RankInput(query="shoes", documents=["red shoes", "blue shoes"])
    chat = ChatInput(
        messages=[
            Message(role="system", content="be brief"),
            Message(role="user", content="hello"),
            Message(role="assistant", content="hi"),
            Message(role="tool", content="{}"),
        ]
    )
    events |= {
        "rank, scores": RankEscalation(
            id=event_id(200), time=utc(NOW_S), input=rank, teacher=RankAnswer(scores=[0.75, 0.25], **said), **common
        ),
        "rank, order": RankEscalation(
            id=event_id(201), time=utc(NOW_S), input=rank, teacher=RankAnswer(order=[1, 0], **said), **common
        ),
        "chat": ChatEscalation(
            id=event_id(202), time=utc(NOW_S), input=chat, teacher=ChatAnswer(text="hi there", **said), **common
        ),
        "chat, logprobs": ChatEscalation(
            id=event_id(203),
            time=utc(NOW_S),
            input=chat,
            teacher=ChatAnswer(text="hi", logprobs=[{"token": "hi", "logprob": -0.5, "top_logprobs": []}], **said),
            **common,
        ),
        # From 0.2.0 on.
        "rank, everything optional": ranked(
            204,
            ["red shoes", "blue  shoes\n  in stock", "ask <EMAIL:0a1b2c3d4e>", "red shoes"],
            scores=[0.75, 0.25, -1.5, 0.75],
            output="[3,0,1,2]",
            members=[[0.5, 0.25, 0.125, 0.5]],
            subject="jane",
            usage=Usage(prompt_tokens=120),
            cost_usd=0.00025,
            latency_ms=321.5,
        ),
        "chat, everything optional": talked(205),
    }
    return {name: answered_under(prompt, event) for name, event in events.items()}


def talked(number: int) -> Escalation:
    """An event of chat with everything that one may have."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"mail": "jane@example.com"}'}}
    return ChatEscalation(
        id=event_id(number),
        time=utc(NOW_S),
        use_case=LANE.use_case,
        tenant=LANE.tenant,
        student=StudentOpinion(
            version="0123456789abcdef",
            output='{"answer": 42.0}',
            confidence=0.5,
            members=[[-1.5, 0.25, 0.75, 0.125]],
            verdict=AgreementVerdict(agreed=True, by="judge", model=MODEL, calls=2, cost_usd=0.0001),
        ),
        escalation=EscalationCause(reason="low_confidence", threshold=0.75, propensity=1.0),
        subject="jane",
        input=ChatInput(
            messages=[
                Message(role="developer", content="Answer as JSON."),
                Message(role="user", content="def f():\n    return 1\n\nask jane@example.com", name="jane"),
                Message(role="assistant", tool_calls=[call]),
                Message(role="tool", content="42", tool_call_id="c1"),
            ],
            shape={"response_format": {"type": "json_object"}, "stop": ["END"]},
        ),
        teacher=ChatAnswer(
            text='{"answer": 42}',
            finish_reason="stop",
            top=pack_top([[5, 7], [2, NO_TOKEN]], [[-0.25, -2.0], [0.0, float("-inf")]], tokenizer="ab" * 32),
            model=MODEL,
            prompt_version=PROMPT,
            usage=Usage(prompt_tokens=60, completion_tokens=8),
            cost_usd=0.00025,
            latency_ms=321.5,
        ),
    )


def answered_under(prompt: str, event: Escalation) -> Escalation:
    """The same event with another prompt version."""
    teacher: Any = msgspec.structs.replace(event.teacher, prompt_version=prompt)
    return msgspec.structs.replace(event, teacher=teacher)
