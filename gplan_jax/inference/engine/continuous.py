"""Continuous batching without threads: rows come and go between the passes of the others.

A request is admitted to a free slot by a prefill of its prompt; every ``step`` then runs one pass
for all rows there are. A row that is finished or given up leaves its slot free for the next one.

Keys and values of users' profiles and histories are kept by page under a byte budget: the tokens
that a request shares with the next one of its user (``Prompted.shared``) are cut into pages. A page
is found again by the hash of all tokens up to its end, so requests share the pages of whatever they
have in common, and a page is only of use where the ones before it are there too. The least recently
used page goes first; of one request's pages the last is the first to go.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.best_plans import SearchRow, best_plans
from gplan_jax.inference.engine.passes import KVCache
from gplan_jax.inference.engine.programs import PAGE, Programs, empty_trees, set_tree
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.engine.sequences import SequenceState, accept_start, accept_tree
from gplan_jax.inference.grammar.drafts import DraftModel, DraftTree, Start
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar


class PrefixPages:
    """A cache from tokens to pages of ``page`` tokens each, ``budget`` bytes of them at most."""

    def __init__(self, page: int, budget: int) -> None:
        self.page = page
        self._budget = budget
        self._pages: OrderedDict[bytes, KVCache] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def find(self, tokens: Sequence[int]) -> list[KVCache]:
        """The pages that are there for the beginning of ``tokens``, from the first one on."""
        found = []
        keys = self._keys(tokens)
        for key in keys:
            if key not in self._pages:
                break
            found.append(self._pages[key])
        if keys:
            self.hits, self.misses = self.hits + bool(found), self.misses + (not found)
        for key in reversed(keys[: len(found)]):
            self._pages.move_to_end(key)
        return found

    def missing(self, tokens: Sequence[int]) -> list[int]:
        """Numbers of the whole pages of ``tokens`` that are not there, ascending."""
        return [n for n, key in enumerate(self._keys(tokens)) if key not in self._pages]

    def put(self, tokens: Sequence[int], number: int, page: KVCache) -> None:
        """Keeps page ``number`` of ``tokens``, unless an earlier one of theirs would have to go."""
        keys = self._keys(tokens)[: number + 1]
        size = _bytes(page)
        while self._pages and self.bytes + size > self._budget:
            oldest = next(iter(self._pages))
            if oldest in keys:
                return
            self.bytes -= _bytes(self._pages.pop(oldest))
        if self.bytes + size > self._budget:
            return
        self._pages[keys[number]] = page
        self.bytes += size
        for key in reversed(keys):
            if key in self._pages:
                self._pages.move_to_end(key)

    def _keys(self, tokens: Sequence[int]) -> list[bytes]:
        """A hash for each whole page, of all tokens up to its end."""
        if not self._budget:
            return []
        digest = hashlib.blake2b(digest_size=16)
        keys = []
        for start in range(0, len(tokens) - self.page + 1, self.page):
            digest.update(np.asarray(tokens[start : start + self.page], np.int32).tobytes())
            keys.append(digest.digest())
        return keys


def _bytes(page: KVCache) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(page))


@dataclass(frozen=True)
class Prompted:
    """A prompt as tokens."""

    ids: Sequence[int]  # all of them; they begin with the system prompt's
    shared: int = 0  # how many of them the user's next request is likely to have too
    context: tuple[str, ...] = ()  # what the drafts know of the request
    # see ``PlanRequest``
    temperature: float = 0.0
    seed: int = 0
    best: int = 0
    least_first: float = 1.0  # see ``best_plans``
    start: GrammarState | None = None  # where the response begins; None for the grammar's start


@dataclass
class Counts:
    """Passes so far, and how many of them decoded so many rows together."""

    passes: int = 0
    rows_of_passes: Counter[int] = field(default_factory=Counter)


class ContinuousDecoder:
    """Decodes rows that come and go; one thread may use it.

    Without a ``grammar`` it decodes freely, until ``end_id`` or ``max_new_tokens``; without a
    ``drafter``, one token a pass. ``system`` tokens of each prompt are what the programs hold.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        system: int,
        grammar: PlanGrammar | None,
        drafter: DraftModel | None,
        end_id: int,
        max_new_tokens: int,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self.programs, self._system = programs, system
        self.grammar, self._drafter = grammar, drafter
        self._end_id, self._max_new_tokens = end_id, max_new_tokens
        self._free = sorted(range(max(programs.shapes.nodes)), reverse=True)
        self.rows: dict[int, SequenceState] = {}
        self._begun: dict[int, int] = {}  # slot -> tokens that it holds of a prompt in parts
        self.pages = PrefixPages(PAGE, prefix_cache_bytes)
        self.counts = Counts()

    @property
    def free_slots(self) -> int:
        """Rows that could be admitted now."""
        return len(self._free)

    def admit(self, prompted: Prompted) -> tuple[SequenceState, int]:
        """As ``admission``, all parts at once."""
        parts = self.admission(prompted)
        while True:
            try:
                next(parts)
            except StopIteration as ended:
                return ended.value

    def admission(self, prompted: Prompted) -> Generator[None, None, tuple[SequenceState, int]]:
        """Prefills a prompt into a free slot, a part each time that it is asked; returns its row
        and the tokens found in the cache.

        The row may be finished already; it keeps its slot until ``release``. NotFinite where its
        first logits are not finite; then, and where the generator is closed, it holds none.
        """
        if not self._free:
            raise GplanError("No slot is free; release a row first.")
        ids = [int(token) for token in prompted.ids[self._system :]]
        longest = self.programs.shapes.buckets[-1] - self.programs.shapes.tail
        if not 1 <= len(ids) <= longest:
            raise GplanError(
                f"A prompt of {len(ids)} tokens after its system part was given; this engine takes "
                f"1 to {longest}. Shorten it, or load the model with a greater prompt_length."
            )
        slot = self._free.pop()
        try:
            row, cached = yield from self._prefill(slot, ids, prompted)
        except BaseException:
            self._give_back(slot)
            raise
        finally:
            self._begun.pop(slot, None)
        self.rows[slot] = row
        return row, self._system + cached

    def step(self) -> list[SequenceState]:
        """Runs one pass for all rows that are not finished; returns those that now are.
        A row whose logits are not finite is one of them, with its ``fault``.
        """
        rows = [row for row in self.rows.values() if not row.finished]
        if not rows:
            return []
        grammar, shapes = self.grammar, self.programs.shapes
        size = shapes.rows(max(row.slot for row in rows))
        nodes = shapes.nodes[size]

        # Each row's tree goes where its slot is; what no row fills in is padding.
        trees = empty_trees(size, nodes, shapes.window)
        for slot, held in self._begun.items():  # Padding goes behind what the slot holds.
            if slot < size:
                trees.lengths_b[slot] = trees.base_b[slot] = held
        allowed = self.programs.no_edges(size, nodes)
        drafted = []
        for row in rows:
            wanted: Mapping[int, GrammarState] = {}
            if isinstance(row, SearchRow):
                tree, wanted = row.tree(nodes)
            elif row.state is None:
                tree = DraftTree(row.chain, (-1,), (), 1)
            else:
                tree = DraftTree(row.chain[:1], (-1,), (row.state,), 1)
                if self._drafter is not None:
                    tree = self._drafter.tree(row.state, row.chain, row.context, nodes)
                # Where the chain alone is longer than the tree, nothing is decided.
                if tree.chain == len(row.chain):
                    wanted = dict(enumerate(tree.states[tree.chain - 1 :], start=tree.chain - 1))
            drafted.append(tree)
            trees.lengths_b[row.slot], trees.base_b[row.slot] = row.held, row.base
            trees.moves_bxM[row.slot, : len(row.path)] = row.path
            set_tree(trees, row.slot, tree.tokens, tree.parents)
            if grammar is None or allowed is None:
                continue
            for node, state in wanted.items():
                allowed.node[row.slot, node] = state.node
                allowed.open_bits[row.slot, node] = grammar.words(grammar.open_bits(state))

        choices = self.programs.verify(trees, allowed)
        self.counts.passes += 1
        self.counts.rows_of_passes[len(rows)] += 1
        for row, tree in zip(rows, drafted, strict=True):
            try:
                if isinstance(row, SearchRow) and grammar is not None:
                    row.accept(grammar, tree, choices[row.slot])
                elif grammar is not None:
                    accept_tree(row, grammar, tree, choices[row.slot])
                else:
                    row.passes += 1
                    row.base, row.path, row.held = row.held, (0,), row.held + 1
                    self._take_freely(row, int(choices[row.slot, 0]))
            except NotFinite as fault:  # The other rows have nothing to do with it.
                row.fault, row.finished = fault, True
        return [row for row in rows if row.finished]

    def release(self, row: SequenceState) -> None:
        """Leaves a row's slot to the next one, whether the row is finished or not."""
        if self._drafter and row.finished and row.state is not None and row.fault is None:
            self._drafter.learn(row.context, row.state.taken)
        del self.rows[row.slot]
        self._give_back(row.slot)

    def _give_back(self, slot: int) -> None:
        # The lowest free slot is taken first, so that passes reach over few rows.
        self._free = sorted([*self._free, slot], reverse=True)

    def _prefill(
        self, slot: int, ids: list[int], prompted: Prompted
    ) -> Generator[None, None, tuple[SequenceState, int]]:
        grammar, shapes = self.grammar, self.programs.shapes
        # A prefill may decide as well: along what is drafted, or the first token alone. A search
        # begins behind it.
        start, state = Start((), ()), None
        if grammar is not None:
            state = prompted.start or grammar.start
            if self._drafter is not None and not prompted.best:
                context, tail = prompted.context, shapes.tail
                start = self._drafter.start(state, context, tail, shapes.queries)
            elif len(grammar.edges(state)) > 1:
                start = Start((), ((0, state),))
        shared = ids[: max(0, min(prompted.shared - self._system, len(ids) - 1))]
        held = self._restore(slot, shared, len(ids) + len(start.tokens))
        cached, passes, chunk = held, 1, shapes.chunk
        # The last part has the prompt's last token, whose logits decide, and what is drafted.
        while chunk and (left := len(ids) - held) > 1 and left + len(start.tokens) > chunk:
            part = ids[held : held + min(chunk, left - 1)]
            self.programs.prefill(slot, part, held, (), self.programs.no_edges(shapes.queries))
            self.counts.passes += 1
            held, passes = held + len(part), passes + 1
            self._begun[slot] = held
            yield
        rest = [*ids[held:], *start.tokens]
        row = SequenceState(
            slot,
            len(ids),
            state,
            context=prompted.context,
            temperature=prompted.temperature,
            seed=prompted.seed,
            base=len(ids),
            passes=passes,
        )
        if prompted.best:
            assert grammar is not None, "only plans under a grammar can be searched for"
            least = prompted.least_first
            search = best_plans(grammar, prompted.best, start=state, least_first=least)
            row = SearchRow(**vars(row), search=search, root=ids[-1], before=len(ids) - 1)
        allowed = self.programs.no_edges(shapes.queries)
        before_start = len(ids) - held - 1
        queries = [before_start + front for front, _ in start.decisions] or [before_start]
        if grammar is not None and allowed is not None:
            for index, (_, state) in enumerate(start.decisions):
                allowed.node[index] = state.node
                allowed.open_bits[index] = grammar.words(grammar.open_bits(state))
        choices = self.programs.prefill(slot, rest, held, queries, allowed)
        self.counts.passes += 1
        if isinstance(row, SearchRow):
            row.go_on()
        elif grammar is not None:
            accept_start(row, grammar, start, choices)
        else:
            self._take_freely(row, int(choices[0]))
        for number in self.pages.missing(shared):
            self.pages.put(shared, number, self.programs.read_page(slot, number * PAGE))
        return row, cached

    def _restore(self, slot: int, shared: list[int], tokens: int) -> int:
        """Puts the cached pages of a user prefix into a slot; how many tokens they are."""
        shapes = self.programs.shapes
        pages = self.pages.find(shared)
        # What is left is padded to a bucket, which must fit behind the pages.
        while pages:
            bucket = shapes.bucket(tokens - len(pages) * PAGE)
            if not shapes.continues(bucket):
                pages.clear()
            elif len(pages) * PAGE + bucket > shapes.places:
                pages.pop()
            else:
                break
        for number, page in enumerate(pages):
            self.programs.write_page(slot, number * PAGE, page)
        return len(pages) * PAGE

    def _take_freely(self, row: SequenceState, token: int) -> None:
        if token < 0:
            raise NotFinite
        row.chain = (token,)
        row.finished = token == self._end_id
        if not row.finished:
            row.response.append(token)
            row.finished = row.cut = len(row.response) >= self._max_new_tokens


def decode_all(
    decoder: ContinuousDecoder, prompts: Sequence[Prompted], *, on_row: Callable[[], None]
) -> list[SequenceState]:
    """Decodes prompts, as many at a time as there are slots; the rows in order of the prompts.
    NotFinite where the logits of one are.
    """
    done: list[SequenceState | None] = [None] * len(prompts)
    numbers: dict[int, int] = {}
    waiting = iter(enumerate(prompts))
    upcoming = next(waiting, None)
    while upcoming is not None or numbers:
        finished = []
        # A pass takes hardly longer for many rows than for few: it begins with all slots full.
        while upcoming is not None and decoder.free_slots:
            number, prompt = upcoming
            row, _ = decoder.admit(prompt)
            numbers[row.slot] = number
            finished += [row] if row.finished else []
            upcoming = next(waiting, None)
        for row in [*finished, *decoder.step()]:
            if row.fault is not None:
                raise row.fault
            done[numbers.pop(row.slot)] = row
            decoder.release(row)
            on_row()
    return [row for row in done if row is not None]
