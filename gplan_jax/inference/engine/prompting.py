"""From a context to its prompt's tokens, and to how many of them its user's next one shares."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample
from gplan_jax.gsisr.context_pairs import SPATIOTEMPORAL_COLUMNS
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME
from gplan_jax.gsisr.intent_counts import context_key
from gplan_jax.inference.engine.continuous import Prompted
from gplan_jax.inference.engine.requests import PlanRequest

_TRIGGER_COLUMNS = tuple(f"trigger_{number}" for number in range(1, 8))
_TIMES = ("2000-01-01 00:00:00", "2001-12-31 12:59:59")
_TIME_COLUMNS = (REQUEST_TIME, *ORDER_TIMES)


@dataclass(frozen=True)
class Prompter:
    """All that turns a request into a prompt.

    Attributes:
        max_length: tokens a prompt may have; a longer one loses the left of its user part.
        find_shared: whether to find out what the user's next prompt shares with this one, which
            costs a second rendering.
    """

    encoder: ChatEncoder
    template: PromptTemplate
    library: IntentLibrary
    max_length: int
    find_shared: bool = True

    def prompted(self, request: PlanRequest) -> Prompted:
        """The prompt of a request.

        Raises:
            GplanError: a time can't be read, or the template can't be filled in.
        """
        ids = self._ids(request.sample)
        return Prompted(
            ids,
            self._shared(request.sample, ids) if self.find_shared else 0,
            context_key(request.sample),
            request.temperature,
            request.seed,
        )

    def system_ids(self, sample: Sample) -> list[int]:
        """What the prompts of all samples begin with; it does not hang on the sample's values.

        Raises:
            GplanError: it leaves no room for a user part.
        """
        prompt = self.template.render(sample, self.library)
        self.encoder.user_room(prompt, max_length=self.max_length)
        return [int(token) for token in self.encoder.system_ids(prompt)]

    def _ids(self, sample: Sample) -> list[int]:
        prompt = self.template.render(sample, self.library)
        return [int(token) for token in self.encoder.prompt_ids(prompt, max_length=self.max_length)]

    def _shared(self, sample: Sample, ids: list[int]) -> int:
        """Tokens in front of the first one that another time, place or trigger would change."""
        try:
            other = self._ids(elsewhere(sample))
        except GplanError:  # A template that takes no such values: nothing is known to be shared.
            return 0
        pairs = enumerate(itertools.zip_longest(ids, other))
        return next((index for index, (mine, theirs) in pairs if mine != theirs), len(ids))


def elsewhere(sample: Sample) -> Sample:
    """The same user at another time and place after another order: none of these columns agrees."""
    changed = {}
    for column in (*SPATIOTEMPORAL_COLUMNS, *_TRIGGER_COLUMNS):
        value = getattr(sample, column)
        if column in _TIME_COLUMNS:
            changed[column] = next(time for time in _TIMES if time != value)
        elif column.endswith("flag"):
            changed[column] = "0" if value == "1" else "1"
        else:
            changed[column] = "#" + value
    return dataclasses.replace(sample, **changed)
