"""A version whose language model answers on servers of its own: verified here before any of them sees it.

A server believes what it is handed (seen: adapters of NaN, with lying ranks, foreign names or missing layers were taken
with 200), so hashes, names, shapes and numbers are checked first; then each server is asked the golden prompts. How
sure an answer is follows here, from the small encoder that the version brings along.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final, Self
from weakref import finalize

import msgspec
import safetensors.torch

from serve.engine.fleet import Adapter, Fleet
from serve.engine.vllm import Prompt, Said
from serve.student.line import Hears
from store.errors import CorruptVersionError
from store.event import TaskInput
from store.policy import Moment, Policy
from store.registry.files.durable import make_folder, sync_folder
from store.registry.students.records import ChatGolden, ChatRecord
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME, Trained
from store.student.chat.chatter import asked_of, chat_of
from store.student.chat.decoder import outline
from store.student.chat.generate import Asked, Generation
from store.student.chat.trust import Trust
from store.student.chat.version import BASE_FOLDER, Words, base_files, check_manifest, check_template, trained_for
from store.student.classify import Opened
from store.student.encoder import Precision, read_tensors
from store.student.folder import CONFIG_NAME, WEIGHTS_NAME
from store.student.loaded import ChatOpinion, SoFar
from store.tasks.chat import ChatTerms

GOLDEN_TOLERANCE: Final = 0.2  # of a log-probability: another engine, in whatever precision it serves
_LEAST_LOGPROB: Final = -6.0  # what is less likely than this is compared as if it were not


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class RemoteTalker:
    """One version, as a gateway holds it whose servers do the talking. Satisfies `store.student.loaded.Loaded`."""

    name: str  # of the version on the servers
    fleet: Fleet
    words: Words  # how its prompts are read
    trust: Trust
    record: ChatRecord
    terms: ChatTerms
    policy: Policy | None
    parameters: int

    @property
    def golden_tolerance(self) -> float:
        """See `Loaded`."""
        return GOLDEN_TOLERANCE

    @property
    def served_parameters(self) -> int:
        """See `Loaded`."""
        return self.parameters

    def look(self, inputs: Sequence[TaskInput]) -> list[ChatOpinion]:
        """See `Loaded`; blocks for as long as the servers take."""
        asked = [asked_of(self.words, chat_of(value), self.terms) for value in inputs]
        prompts = [one for one in asked if one is not None]
        server = next((one.server for one in self.fleet.replicas if one.state == "up"), None)
        if server is None or len(prompts) != len(inputs):
            message = "no server is up" if server is None else "a conversation that this student cannot read"
            raise ValueError(message)
        said = [answered(one, server.ask(self.prompt(one))) for one in prompts]
        return self.trust.opinions(said, self.trust.vectors(inputs))

    def distance(self, first: str, second: str) -> float:
        """See `store.student.loaded.Compares`; no server is asked."""
        return self.trust.distance(first, second)

    async def reply(self, value: TaskInput) -> ChatOpinion | None:
        """See `serve.engine.forward.Elsewhere`."""
        asked = await asyncio.to_thread(asked_of, self.words, chat_of(value), self.terms)
        if asked is None:
            return None
        said = answered(asked, await self.fleet.answer(self.prompt(asked)))
        return await asyncio.to_thread(lambda: self.trust.opinions([said], self.trust.vectors([value]))[0])

    @property
    def moments(self) -> Sequence[Moment]:
        """See `store.student.loaded.Foretells`."""
        return self.trust.moments

    def expect(self, inputs: Sequence[TaskInput]) -> list[ChatOpinion]:
        """See `store.student.loaded.Foretells`; no server is asked."""
        asked = [one for value in inputs if (one := asked_of(self.words, chat_of(value), self.terms)) is not None]
        return self.trust.expect(asked, self.trust.vectors(inputs))

    async def speak(self, value: TaskInput, moment: Moment, hears: Hears) -> ChatOpinion | None:
        """See `serve.engine.forward.Elsewhere`."""
        asked = await asyncio.to_thread(asked_of, self.words, chat_of(value), self.terms)
        if asked is None:
            return None
        vectors = await asyncio.to_thread(self.trust.vectors, [value])

        def heard(said: Said) -> None:
            view = None
            if moment == "first_tokens" and not hears.viewed:
                view = self.trust.opening(growing(asked, said), vectors[0])
            hears.heard(SoFar(text=said.text, view=view))

        said = answered(asked, await self.fleet.answer(self.prompt(asked), heard))
        return await asyncio.to_thread(lambda: self.trust.opinions([said], vectors)[0])

    def supports(self, value: TaskInput) -> bool:
        """See `store.student.loaded.Selects`."""
        return trained_for(self.record, chat_of(value))

    def too_long(self, value: TaskInput) -> bool:
        """See `Loaded`."""
        return asked_of(self.words, chat_of(value), self.terms) is None

    def tokens(self, value: TaskInput) -> int:
        """See `Loaded`."""
        asked = asked_of(self.words, chat_of(value), self.terms)
        return 1 if asked is None else len(asked.ids)

    def check_golden(self) -> float:
        """See `Loaded`: 0, since no server that deviates serves it."""
        return 0.0 if self.fleet.available else float("inf")

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        """See `Loaded`: another model changes no client's request."""

    def prompt(self, asked: Asked) -> Prompt:
        """As the servers take it."""
        return Prompt(version=self.name, ids=asked.ids, limit=asked.limit, stops=asked.stops)


def answered(asked: Asked, said: Said) -> Generation:
    """An answer, as one that grew here."""
    return Generation(
        asked=asked,
        ids=said.ids,
        logprobs=said.logprobs,
        text=said.text,
        finish_reason="stop" if said.whole else "length",
    )


def growing(asked: Asked, said: Said) -> Generation:
    """An answer that has not come to its end."""
    return Generation(asked=asked, ids=said.ids, logprobs=said.logprobs, text=said.text)


def load_remote(
    opened: Opened, fleet: Fleet, *, version: str, folder: Path, device: str = "auto", precision: Precision = "auto"
) -> RemoteTalker:
    """Verify a version, put its adapter where the servers see it, and load it on them.

    Layers that were trained in full are put there as a whole model: no server can take that on while it runs, so one is
    drained, started anew with it, and asked the golden prompts before the version serves.

    Args:
        opened: its verified files.
        fleet: the lane's servers.
        version: its name there; never used for anything else.
        folder: where the servers see adapters.
        device: of the small encoder.
        precision: likewise.

    Raises:
        CorruptVersionError: its files do not fit together.
        SwapRefusedError: no server takes it, or they answer otherwise than the trainer saw.
    """
    record = check_manifest(opened.manifest)
    check_template(record, opened)
    is_whole = record.rank is None
    files = {name: opened.read(name) for name in ([TUNED_NAME] if is_whole else [ADAPTER_CONFIG, ADAPTER_WEIGHTS])}
    shape = outline(opened.read(BASE_FOLDER + CONFIG_NAME))
    trained = Trained.read(files, shape, layers=record.layers, rank=record.rank)
    words = Words.read(opened)
    place(_model_of(opened, trained) if is_whole else files, folder / version)
    talker = RemoteTalker(
        name=version,
        fleet=fleet,
        words=words,
        trust=Trust.read(opened, record, device=device, precision=precision),
        record=record,
        terms=ChatTerms(
            max_prompt_tokens=record.max_prompt_tokens,
            max_answer_tokens=record.max_answer_tokens,
        ),
        policy=opened.manifest.policy,
        parameters=opened.manifest.served_parameters,
    )
    fleet.load(
        Adapter(
            name=version,
            folder=str(folder / version),
            probe=_Probe(version, words, tuple(record.golden)),
            tolerance=GOLDEN_TOLERANCE,
            whole=is_whole,
        )
    )
    finalize(talker, fleet.forget, version)  # once no request holds it any more
    return talker


def _model_of(opened: Opened, trained: Trained) -> dict[str, bytes]:
    """The files of a model directory with a version's own weights, for a server to start with."""
    files = {name: opened.read(BASE_FOLDER + name) for name in base_files(opened.manifest)}
    base = read_tensors(WEIGHTS_NAME, files[WEIGHTS_NAME])
    own = {name: one.to(base[name].dtype) for name, one in trained.tensors.items()}
    return files | {WEIGHTS_NAME: safetensors.torch.save(base | own, {"format": "pt"})}


def place(files: Mapping[str, bytes], target: Path) -> None:
    """An adapter's files in a folder of their own, which is never changed: what is there already must be the same.

    Raises:
        CorruptVersionError: there is something else.
    """
    names = {name.rpartition("/")[2]: data for name, data in files.items()}
    if target.exists():
        if any(not (target / name).is_file() or (target / name).read_bytes() != data for name, data in names.items()):
            message = f"{target} is there and holds another adapter: move it away"
            raise CorruptVersionError(message)
        return
    draft = target.with_name(f".{target.name}")
    make_folder(draft, mode=0o755)
    for name, data in names.items():
        (draft / name).write_bytes(data)
    sync_folder(draft)
    draft.rename(target)
    sync_folder(target.parent)


@dataclass(frozen=True, slots=True)
class _Probe:
    """Asks a server a version's golden prompts; holds nothing of the version but those."""

    version: str
    words: Words
    golden: tuple[ChatGolden, ...]

    def __call__(self, ask: Callable[[Prompt], Said]) -> float:
        """The largest deviation from what the trainer saw."""
        return max((self._off(one, ask) for one in self.golden), default=0.0)

    def _off(self, golden: ChatGolden, ask: Callable[[Prompt], Said]) -> float:
        """By how much tokens are likelier or less, up to the first other one; and by how much that one is."""
        ids = self.words.template.render([msgspec.to_builtins(message) for message in golden.messages])
        said = ask(Prompt(version=self.version, ids=ids, limit=max(1, len(golden.tokens))))
        worst = 0.0
        for place, (token, before) in enumerate(zip(golden.tokens, golden.logprobs, strict=False)):
            if place >= len(said.ids):
                return inf
            found = said.logprobs[place]
            if said.ids[place] != token:
                return max(worst, found - before)
            worst = max(worst, abs(max(found, _LEAST_LOGPROB) - max(before, _LEAST_LOGPROB)))
        return worst
