"""How a lane's answers are read now: from its settings, its rulings, and the lists of labels it has had."""

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from ops.sections import LaneSection
from ops.settings import read_prompt
from ops.site import Site
from serve.teacher.ask.prompts import shaped_beside
from store.answers.prompt import prompt_version
from store.answers.rules import Drawing, Rules
from store.answers.rulings import Ruling, rules_of
from store.buffer.repair.lists import Lists, ListsHeld, lists_of
from store.tasks.tasks import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A lane with its prompt as it was read once: a process goes by that until it is started again."""

    section: LaneSection
    prompt: str

    @classmethod
    def of(cls, section: LaneSection) -> "Reading":
        """The lane as its settings and its prompt file are now.

        Raises:
            SettingsError: the prompt cannot be read.
        """
        return cls(section=section, prompt=read_prompt(section))

    def version(self, labels: Sequence[str] | None = None) -> str:
        """The prompt version that the lane's teacher answers under; with `labels` as earlier releases named it."""
        teacher = self.section.teacher
        return prompt_version(
            model=teacher.model,
            prompt=self.prompt,
            parameters=teacher.parameters,
            answer_format=teacher.parser,
            labels=labels,
            beside=shaped_beside(self.section.task, teacher.kind, window_documents=teacher.window_documents),
        )

    def key(self, labels: Sequence[str] | None = None) -> str:
        """How items name that version in their tally; `labels` as of `version`."""
        return f"{self.section.teacher.model}@{self.version(labels)}"

    def rules(self, site: Site, held: Sequence[ListsHeld]) -> Rules:
        """How the lane's older answers are read now; errors as of `Site.rulings`, the rest as of `rules_by`."""
        return self.rules_by(site.rulings(self.section.lane), held)

    def rules_by(self, rulings: Sequence[Ruling], held: Sequence[ListsHeld]) -> Rules:
        """How the lane's older answers are read.

        Args:
            rulings: of the lane.
            held: the lists of labels it has had: earlier releases had them in the prompt version's hash.
        """
        lists = [self.section.labels, *lists_of(held, self.section.lane)]
        return rules_of(rulings, {self.key(), *map(self.key, lists)})

    def drawing(self, site: Site, client: redis.Redis, now_s: float) -> Drawing:
        """How a cycle of the lane would read its items now (Unix seconds); errors as of `rules`, and Redis'."""
        return Drawing(
            prompt_version=self.key(),
            quarantine_s=site.settings.trainer.quarantine_s,
            now_s=now_s,
            allowed_labels=frozenset(self.section.labels),
            rules=self.rules(site, Lists(client).held(self.section.use_case)),
            labelled=TASKS[self.section.task](self.section.terms()).most_said is None,
        )
