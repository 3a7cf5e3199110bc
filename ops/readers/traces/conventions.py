"""What the attributes of a span say of a call: the names that instrumentations give them.

Read are OpenTelemetry's conventions for generative models (messages in attributes, and in events before 1.37),
OpenLLMetry's and OpenInference's numbered attributes, a reranker's too, and Langfuse's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ops.readers.shapes import opened
from store.tracing.names import REQUEST_MODEL, RESPONSE_MODEL

_MODELS: Final = (
    *(REQUEST_MODEL, RESPONSE_MODEL, "llm.model_name", "langfuse.observation.model.name"),
    "reranker.model_name",
)
_EVENTS: Final = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_MOST: Final = 2_000  # messages or documents of one span
_DETAILS: Final = "gen_ai.client.inference.operation.details"

Attributes = Mapping[str, Any]
Events = Sequence[tuple[str, Attributes]]


def call_in(attributes: Attributes, events: Events) -> dict[str, Any] | None:
    """`request` and `response` in OpenAI's shape, or that of rerank endpoints; None: neither is said."""
    said = {**attributes, **{key: one for name, held in events if name == _DETAILS for key, one in held.items()}}
    model = next((said[name] for name in _MODELS if isinstance(said.get(name), str)), None)
    if (ranked := _ranked(said)) is not None:
        return {"request": {"model": model, **ranked[0]}, "response": ranked[1]}
    for read in (_semantic, _of_events, _numbered, _langfuse):
        asked, answered = read(said, events)
        if asked and answered is not None:
            return {"request": {"model": model, "messages": asked}, "response": {"model": model, "choices": [answered]}}
    return None


Said = tuple[list[dict[str, Any]], dict[str, Any] | None]  # messages, and the choice that was answered


def _semantic(said: Attributes, _: Events) -> Said:
    """`gen_ai.input.messages`: a role and parts each; the system's stand beside them."""
    system = _parts({"role": "system", "parts": opened(said.get("gen_ai.system_instructions"))})
    asked = [_parts(one) for one in _mappings(opened(said.get("gen_ai.input.messages")))]
    answered = _mappings(opened(said.get("gen_ai.output.messages")))
    choice = None if not answered else _choice(_parts(answered[0]), answered[0].get("finish_reason"))
    return ([system, *asked] if system["content"] else asked), choice


def _of_events(_: Attributes, events: Events) -> Said:
    """An event a message, and one for what was chosen."""
    asked, choice = list[dict[str, Any]](), None
    for name, held in events:
        body = opened(held.get("gen_ai.event.content", held.get("event.body")))
        told = body if isinstance(body, Mapping) else held
        if name in _EVENTS:
            asked.append({**_kept(told), "role": _EVENTS[name]})
        elif name == "gen_ai.choice":
            message = opened(told.get("message"))
            message = _kept(message if isinstance(message, Mapping) else told)
            choice = choice or _choice(message, told.get("finish_reason"))
    return asked, choice


def _numbered(said: Attributes, _: Events) -> Said:
    """`llm.input_messages.0.message.role`, or `gen_ai.prompt.0.role`."""
    for asked, answered, inner in (
        ("llm.input_messages", "llm.output_messages", "message."),
        ("gen_ai.prompt", "gen_ai.completion", ""),
    ):
        messages, found = _listed(said, asked, inner), _listed(said, answered, inner)
        if messages and found:
            return [_kept(one) for one in messages], _choice(_kept(found[0]), found[0].get("finish_reason"))
    return [], None


def _langfuse(said: Attributes, _: Events) -> Said:
    """`langfuse.observation.input`: messages, or a text."""
    if str(said.get("langfuse.observation.type", "generation")).lower() != "generation":
        return [], None
    asked = opened(said.get("langfuse.observation.input"))
    answered = opened(said.get("langfuse.observation.output"))
    if isinstance(asked, Mapping):
        asked = asked.get("messages")
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if isinstance(answered, str):
        answered = {"content": answered}
    if not isinstance(answered, Mapping) or "content" not in answered:
        return [], None
    return [_kept(one) for one in _mappings(asked)], _choice(_kept(answered), None)


def _ranked(said: Attributes) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """OpenInference's reranker: what was asked, and what was answered, by texts."""
    documents = [one.get("content") for one in _listed(said, "reranker.input_documents", "document.")]
    found = _listed(said, "reranker.output_documents", "document.")
    if not documents or not found:
        return None
    results = [{"document": {"text": one.get("content")}, "relevance_score": one.get("score")} for one in found]
    return {"query": said.get("reranker.query"), "documents": documents}, {"results": results}


def _listed(said: Attributes, name: str, inner: str) -> list[dict[str, Any]]:
    """The numbered attributes below a name: what stands behind each number."""
    found: list[dict[str, Any]] = []
    start = len(name) + 1
    for key, value in said.items():
        if key.startswith(f"{name}."):
            number, _, rest = key[start:].partition(".")
            if number.isdecimal() and int(number) < _MOST and rest.startswith(inner):
                found += ({} for _ in range(int(number) + 1 - len(found)))
                found[int(number)][rest.removeprefix(inner)] = value
    return found


def _parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of parts as OpenAI's: texts are its content, calls of tools its own."""
    parts = _mappings(message.get("parts"))
    texts = [str(part.get("content") or "") for part in parts if part.get("type", "text") == "text"]
    answers = [part for part in parts if part.get("type") == "tool_call_response"]
    texts += (_text(part.get("response", part.get("result"))) for part in answers)
    made = {"role": message.get("role") or "assistant", "content": "".join(texts)}
    calls = [
        {
            "id": str(part.get("id") or ""),
            "type": "function",
            "function": {"name": str(part.get("name") or ""), "arguments": _text(part.get("arguments"))},
        }
        for part in parts
        if part.get("type") == "tool_call"
    ]
    return {**made, **({"tool_calls": calls} if calls else {})}


def _kept(message: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: message[name] for name in ("role", "content", "tool_calls", "name") if message.get(name) is not None}
    return {"role": "assistant", "content": "", **found}


def _choice(message: dict[str, Any], finish_reason: Any) -> dict[str, Any]:
    return {"index": 0, "message": {**message, "role": "assistant"}, "finish_reason": finish_reason or "stop"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
