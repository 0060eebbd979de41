"""A row's text cut into pieces that are tokenized once, and responses put together from them.

A response is cut before the ``>`` of each of its tags:

    <THOUGHT><CONTEXT | >a few words</CONTEXT | ><STRATEGY | >more</STRATEGY | ></THOUGHT | >[...]

What stands between the pieces with a row's own words is the same in all rows. Byte-level BPE merges
nothing across words, and where the tokenizer's words end at these places and don't depend on what
stands before them, as with Qwen's pattern, the ids of the parts one after the other are those of
the whole, whichever blocks are latent or gone; merges such as ``><`` and ``>[`` lie inside a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.task import Example, Mode
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import write_response
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, THOUGHT_OPEN

# Where the pieces of a row stand: the prompt's user part; what of the ">" before the answer is no
# token of the plan's, the answer behind it, the answer alone; the blocks.
USER, BORDER, ANSWER, ALONE, BLOCKS = range(5)

Shown = tuple[tuple[str, int | None], ...]
"""Blocks of a response: the name of each, and the number of its text, None where it is latent."""
Layout = tuple[np.ndarray | int, ...]
"""A response: constant ids, and places of pieces; the last is the plan, all before reasoning."""


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


def response_text(example: Example, shown: Shown, encoder: ChatEncoder) -> str:
    """The response of a row that shows these blocks."""
    blocks = ((name, None if i is None else example.blocks[i][1]) for name, i in shown)
    return write_response(blocks, example.answer, encoder.latents)


@lru_cache(maxsize=4096)
def response_layout(encoder: ChatEncoder, shown: Shown) -> Layout:
    """How a response is put together from pieces; GplanError where a latent block has no tokens."""
    if not shown:
        return (ALONE,)
    parts: list[np.ndarray | int] = []
    constant = THOUGHT_OPEN
    for name, text in shown:
        if text is None:
            constant += "".join(encoder.latents.block_tokens(name))
        else:
            parts += [*encoder.response_ids([f"{constant}<{name}"]), BLOCKS + text]
            constant = ">"
    end = constant + THOUGHT_CLOSE.removesuffix(">")
    return (*parts, *encoder.response_ids([end]), BORDER, ANSWER)


def parts_of(layout: Layout, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int32 arrays of a response in turn."""
    return [pieces[part] if isinstance(part, int) else part for part in layout]


def cut_row(
    example: Example, user_ids: np.ndarray, encoder: ChatEncoder, *, number: int
) -> list[np.ndarray]:
    """The pieces of a row, int32 ids; the user part alone where the tokenizer's words don't fit.

    The whole response is tokenized once and cut. What the pieces give is compared with it, and with
    one response of blocks that are latent or gone; which one, the row's number says.
    """
    names = [name for name, _ in example.blocks]
    every = shown_blocks(Mode.COT_SFT, FORWARD, names, 0)
    # Where the reasoning is not known, what is left of it ends with its last tag.
    text = response_text(example, every, encoder) if names else THOUGHT_CLOSE + example.answer
    places, end = [], len(THOUGHT_OPEN)
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
        return [user_ids]
    parts = np.split(ids_T, cuts)

    latents = encoder.latents
    latent = {*latents.block_names} >= {*names} and len(encoder.latent_ids) == len(latents.tokens)
    mode = Mode.PICD if latent and number % 2 else Mode.ICOT
    order = BlockOrder(order="reverse" if number % 4 < 2 else "forward")
    some = shown_blocks(mode, order, names, 1 + number // 4 % max(len(names), 1))
    alone_T, some_T = encoder.response_ids([example.answer, response_text(example, some, encoder)])
    pieces = [user_ids, *parts[-2:], alone_T, *parts[1:-2:2]]
    for shown, due_T in ((every, ids_T), (some, some_T)) if names else ():
        found_T = np.concatenate(parts_of(response_layout(encoder, shown), pieces))
        if not np.array_equal(found_T, due_T):
            return [user_ids]
    return pieces
