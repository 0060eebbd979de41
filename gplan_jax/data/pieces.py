"""A row's text cut into pieces that are tokenized once, and responses put together from them.

A response is cut before the ``>`` of each of its tags:

    <THOUGHT><CONTEXT | >a few words</CONTEXT | ><STRATEGY | >more</STRATEGY | ></THOUGHT | >[...]

What stands between the pieces that hold a row's own words is the same in all rows. Byte-level BPE
merges nothing across words, and where the tokenizer's words end at these places and don't depend on
what stands before them, as with Qwen's pattern, the ids of the parts one after the other are those
of the whole, whichever blocks are latent or gone. Merges across the tags' borders (``><``, ``>[``)
lie inside a part. That it is so is checked for every row when its pieces are made (``cut_row``);
a tokenizer of which it isn't so has every stage's response as a piece (``whole_row``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.task import Example, Mode
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import PLAN_SECTION, write_response
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, THOUGHT_OPEN

# Where the pieces of a row stand: the prompt's user part; what of the ">" before the answer is no
# token of the plan's, the answer behind it, the answer alone; then the blocks, or the stages.
USER, BORDER, ANSWER, ALONE, FIRST = range(5)

Shown = tuple[tuple[str, int | None], ...]
"""Blocks of a response: the name of each, and the number of its text, None where it is latent."""
Layout = tuple[np.ndarray | int, ...]
"""A response: constant ids, and places of pieces; the last is the plan, all before reasoning."""


class NotCut(Exception):
    """Tokens of this tokenizer cross the borders of the pieces."""


def shown_blocks(mode: Mode, order: BlockOrder, names: Sequence[str], stage: int) -> Shown:
    """The blocks of a response at compression stage g, of a row whose blocks have these names."""
    hidden = order.hidden_blocks(stage, len(names))
    match mode:
        case Mode.DIRECT_SFT:
            return ()
        case Mode.PICD:
            return tuple((name, None if i in hidden else i) for i, name in enumerate(names))
        case Mode.ICOT:
            return tuple((name, i) for i, name in enumerate(names) if i not in hidden)
        case Mode.PAUSE:
            return tuple((name, None) for name in names)
    return tuple((name, i) for i, name in enumerate(names))


def last_stage(mode: Mode, order: BlockOrder, blocks: int) -> int:
    """The stage from which on responses of so many blocks stay the same."""
    return order.last_stage(blocks) if mode in (Mode.PICD, Mode.ICOT) else 0


def response_text(example: Example, shown: Shown, encoder: ChatEncoder) -> str:
    """The response of a row that shows these blocks."""
    blocks = ((name, None if i is None else example.blocks[i][1]) for name, i in shown)
    return write_response(blocks, example.answer, encoder.latents)


@lru_cache(maxsize=4096)
def response_layout(encoder: ChatEncoder, shown: Shown) -> Layout:
    """How a response that shows these blocks is put together from pieces of ``cut_row``.

    GplanError where a latent block has no tokens in the encoder's latent vocabulary.
    """
    if not shown:
        return (ALONE,)
    parts: list[np.ndarray | int] = []
    constant = THOUGHT_OPEN
    for name, text in shown:
        if text is None:
            constant += "".join(encoder.latents.block_tokens(name))
        else:
            parts += [*encoder.response_ids([f"{constant}<{name}"]), FIRST + text]
            constant = ">"
    end = f"{constant}{THOUGHT_CLOSE[:-1]}"
    return (*parts, *encoder.response_ids([end]), BORDER, ANSWER)


def whole_layout(stage: int) -> Layout:
    """The same for pieces of ``whole_row``."""
    return (FIRST + 2 * stage, FIRST + 2 * stage + 1)


def parts_of(layout: Layout, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int32 arrays of a response in turn."""
    return [pieces[part] if isinstance(part, int) else part for part in layout]


def cut_row(
    example: Example, user_ids: np.ndarray, encoder: ChatEncoder, *, number: int
) -> list[np.ndarray]:
    """The pieces of a row: int32 ids of each.

    The whole response is tokenized once and cut, and what stands between the pieces compared with
    the constants. So is one response with blocks latent or gone; which, the row's number says.

    Raises:
        NotCut: a token crosses a border, or they differ.
    """
    # Where the reasoning is not known, what is left of it ends with its last tag.
    text = f"{THOUGHT_CLOSE}{example.answer}"
    places, end = [], len(THOUGHT_OPEN)
    if example.blocks:
        text = write_response(example.blocks, example.answer, encoder.latents)
    for name, words in example.blocks:
        start = end + len(f"<{name}")
        end = start + len(f">{words}</{name}>")
        places += [start, end - 1]
    answer = len(text) - len(example.answer)
    places.append(answer - 1)
    ids_T, spans_Tx2 = encoder.response_spans(text)
    # The token that ends beyond a place is the first of what follows it.
    cuts = np.searchsorted(spans_Tx2[:, 1], [*places, answer], side="right")
    if not np.array_equal(spans_Tx2[cuts[:-1], 0], places):
        raise NotCut
    before = np.split(ids_T, cuts)

    # What can be put together from them must be what the whole texts give.
    names = [name for name, _ in example.blocks]
    latent = number % 2 == 0 and encoder.has_latents(names)
    order = BlockOrder(order="forward" if number % 4 < 2 else "reverse")
    mode, stage = Mode.PICD if latent else Mode.ICOT, 1 + number // 4 % max(len(names), 1)
    some = shown_blocks(mode, order, names, stage)
    alone_T, some_T = encoder.response_ids([example.answer, response_text(example, some, encoder)])
    pieces = [user_ids, *before[-2:], alone_T, *before[1:-2:2]]
    every = shown_blocks(Mode.COT_SFT, FORWARD, names, 0)
    for shown, due_T in ((every, ids_T), (some, some_T)) if names else ():
        found_T = np.concatenate(parts_of(response_layout(encoder, shown), pieces))
        if not np.array_equal(found_T, due_T):
            raise NotCut
    return pieces


def whole_row(
    example: Example, user_ids: np.ndarray, encoder: ChatEncoder, *, mode: Mode, order: BlockOrder
) -> list[np.ndarray]:
    """The same with the reasoning and the plan of every stage's response as pieces."""
    names = example.block_names
    pieces = [user_ids] + [user_ids[:0]] * (FIRST - 1)
    for stage in range(last_stage(mode, order, len(names)) + 1):
        shown = shown_blocks(mode, order, names, stage)
        response = encoder.response(response_text(example, shown, encoder))
        plan = response.sections[:-1] == PLAN_SECTION
        pieces += [response.ids[:-1][~plan], response.ids[:-1][plan]]
    return pieces
