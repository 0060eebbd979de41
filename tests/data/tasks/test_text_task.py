"""Rows of text as a task: read strictly, compressed block by block, scored to the letter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.data import ChatEncoder, Example, Mode, TrainingSet
from gplan_jax.data.tasks.registry import load_task, make_task
from gplan_jax.data.tasks.task import TASK_FILE
from gplan_jax.data.tasks.text_task import TextTask, text_latents
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.objectives import BlockOrder
from gplan_jax.reasoning import LatentVocabulary

Write = Callable[..., Path]
LATENT = TextTask(response="latent")


@pytest.fixture(scope="module")
def encoder(text_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(text_model_dir)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows from what is special of each: ``blocks`` are names, or names with texts."""

    def to_file(*rows: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                if isinstance(row, str):
                    file.write(row + "\n")
                    continue
                names = row.pop("names", "")
                blocks = [{"name": name, "text": "x"} for name in names]
                whole = {"id": str(number), "prompt": "p", "answer": "a", "blocks": blocks}
                file.write(json.dumps(whole | row) + "\n")
        return path

    return to_file


def rows_of(path: Path, encoder: ChatEncoder, mode: Mode, **order: Any) -> TrainingSet:
    task = TextTask(response=mode.response)
    return TrainingSet.read(
        path,
        encoder=encoder,
        task=task,
        mode=mode,
        cache=path.parent / "tokens",
        order=BlockOrder(**order),
    )


@pytest.mark.parametrize(
    ("mode", "order", "stages"),
    [
        (Mode.DIRECT_SFT, {}, ["even"]),
        (Mode.PICD, {}, ["<T>123</T>even", "<T>a23</T>even"]),
        (Mode.PICD, {"chunks": "log"}, ["<T>123</T>even", "<T>a23</T>even", "<T>abc</T>even"]),
        (Mode.PICD, {"order": "reverse"}, ["<T>123</T>even", "<T>12c</T>even"]),
        (Mode.ICOT, {}, ["<T>123</T>even", "<T>23</T>even", "<T>3</T>even", "even", "even"]),
        (Mode.ICOT, {"order": "reverse"}, ["<T>123</T>even", "<T>12</T>even"]),
        (Mode.PAUSE, {}, ["<T>abc</T>even", "<T>abc</T>even"]),
        (Mode.COT_SFT, {}, ["<T>123</T>even", "<T>123</T>even"]),
    ],
)
def test_a_response_at_each_stage(
    text_file: Path, encoder: ChatEncoder, mode: Mode, order: dict[str, Any], stages: list[str]
) -> None:
    """Digits stand for the blocks of row 3, bits 0 1 1, in words; letters for their tokens."""
    spelt = {"<T>": "<THOUGHT>", "</T>": "</THOUGHT>"}
    for number, (letter, parity) in enumerate(zip("abc", "010", strict=True), start=1):
        name = f"BIT_{number}"
        spelt[str(number)] = f"<{name}>{parity}</{name}>"
        spelt[letter] = f"<THOUGHT_{name}_a><THOUGHT_{name}_b>"
    rows = rows_of(text_file, encoder, mode, **order)
    for stage, short in enumerate(stages):
        thought, close, answer = short.rpartition("</T>")
        # One character at a time: what is written out holds digits and letters itself.
        parts = [spelt.get(character, "") for character in thought.removeprefix("<T>")]
        due = f"<THOUGHT>{''.join(parts)}</THOUGHT>{answer}" if close else answer
        assert rows.response_text(3, stage) == due
    table = rows.lengths(5)
    for stage in range(5):
        assert table[3, stage, 1] == len(rows.tokenize(3, stage)[1].ids)


def test_the_vocabulary_is_of_all_names_in_an_order_that_all_rows_agree_with(
    write: Write, tmp_path: Path
) -> None:
    path = write({"names": "AC"}, {"names": ""}, {"names": "ABC"}, {"names": "CD"})
    vocabulary = text_latents(path, width=1)
    assert vocabulary.block_names == ("A", "B", "C", "D")
    assert vocabulary.tokens[1] == "<THOUGHT_B_a>"
    (tmp_path / "names.yaml").write_text("[STEP_1, STEP_2]")
    steps = text_latents(tmp_path / "names.yaml", width=6)
    assert steps.tokens[6] == "<THOUGHT_STEP_2_a>" and len(steps.tokens) == 12
    assert LatentVocabulary.from_dict(json.loads(json.dumps(steps.to_dict()))) == steps
    with pytest.raises(GplanError, match=r"id 2 has B after blocks that stand behind it"):
        text_latents(write({"names": "B"}, {"names": "BCA"}, {"names": "AB"}), width=3)
    with pytest.raises(GplanError, match="names no reasoning block"):
        text_latents(write({}), width=3)
    (tmp_path / "names.yaml").write_text("{A: 1}")
    for missing in (tmp_path / "names.yaml", tmp_path / "none.yaml", tmp_path / "rows.csv"):
        with pytest.raises(GplanError, match=str(missing)):
            text_latents(missing, width=3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "row 2: The line is not valid JSON"),
        ('{"id": "1", "id": "2"}', "an object gives id twice"),
        ({"answer": " "}, "row 2, column answer: String should have at least 1 character"),
        ({"answer": 7}, "column answer: Input should be a valid string"),
        ({"answr": "7"}, "column answr: Extra inputs are not permitted"),
        ({"answer": "<|im_end|>"}, r"column answer: The answer contains <\|im_end\|>"),
        ({"id": "0"}, "column id: 0 is the id of line 1 already"),
        ({"system": "Be brief."}, "column system: another system prompt"),
        ({"names": ["bit"]}, "column blocks: 'bit' can't name a reasoning block"),
        ({"names": ["BIT_1", "BIT_1"]}, "column blocks: a block occurs twice"),
        ({"blocks": [{"name": "BIT_1", "text": ""}]}, r"column blocks\.0\.text: String should"),
        ({"blocks": [{"name": "BIT_1", "text": "<BIT_2>"}]}, "Block BIT_1 contains <BIT_2>"),
        ({"names": ["BIT_2", "BIT_1"]}, "BIT_2, BIT_1 are not some of .*, in its order: BIT_1"),
        ({"names": ["BIT_9"]}, r"BIT_9 are not some of .*Convert .* --latents .*rows\.jsonl"),
    ],
)
def test_a_faulty_row_is_named_or_left_out(
    write: Write, encoder: ChatEncoder, row: Any, said: str
) -> None:
    path = write({"names": ["BIT_2"]}, row, {"names": ["BIT_1", "BIT_3"]})
    with pytest.raises(RowError, match=said) as raised:
        list(LATENT.read(path, encoder.latents))
    assert (raised.value.file, raised.value.row) == (path, 2)
    faulty = FaultyRows("skip")
    assert [e.id for e in LATENT.read(path, encoder.latents, faulty)] == ["0", "2"]
    assert [error.row for error in faulty.errors] == [2]


def test_rows_without_blocks_train_answers_only(write: Write, encoder: ChatEncoder) -> None:
    path = write({}, {"names": ["BIT_1"]})
    assert rows_of(path, encoder, Mode.DIRECT_SFT).response_text(0, 3) == "a"
    for mode in (Mode.COT_SFT, Mode.PICD, Mode.ICOT, Mode.PAUSE):
        with pytest.raises(GplanError, match=r"1 of 2 rows .*mode=direct_sft"):
            rows_of(path, encoder, mode)
    with pytest.raises(GplanError, match=r"has no pairs"):
        LATENT.read_pairs(path, encoder.latents)


@pytest.mark.parametrize(
    ("text", "exact", "tokens", "failure"),
    [
        ("<THOUGHT>{1}{2}</THOUGHT>10 01", 1, 1, None),
        ("<THOUGHT>{1}{2}</THOUGHT> 10 00", 0, 3 / 4, None),
        ("<THOUGHT>{1}</THOUGHT>10 01", 1, 1, "prefix: "),
        ("<THOUGHT>{2}{1}</THOUGHT>0 01", 0, 0, "prefix: "),
        ("10 01", 1, 1, "prefix: "),
        ("", 0, 0, "prefix: "),
    ],
)
def test_scores(
    encoder: ChatEncoder, text: str, exact: float, tokens: float, failure: str | None
) -> None:
    """The tokens of the answer are 1, 0, a space with 0, 1."""
    example = Example("1", None, (), ("BIT_1", "BIT_2"), "10 01")
    blocks = {str(n): "".join(encoder.latents.block_tokens(f"BIT_{n}")) for n in (1, 2)}
    assert len(encoder.response("10 01").ids) == 4 + 1  # with the end token
    for number, written in blocks.items():
        text = text.replace(f"{{{number}}}", written)
    scores = LATENT.score(text, example, encoder)
    assert scores.values["exact"] == exact
    assert scores.values["answer_tokens"] == pytest.approx(tokens)
    assert scores.values["latent_valid"] == (failure is None)
    assert (scores.latent_failure or "").startswith(failure or "")
    free = dataclasses.replace(LATENT, response="plan").score("10 01", example, encoder)
    assert free.values["exact"] == 1 and free.latent_failure is None
    assert "latent_valid" not in free.values


def test_a_model_directory_says_which_task_is_its(tmp_path: Path) -> None:
    task = make_task("text", template="amap_zh", service=None, prompt_length=9, response="latent")
    task.save(tmp_path)
    assert load_task(tmp_path) == task == TextTask(prompt_length=9, response="latent")
    with pytest.raises(GplanError, match=r"data\.service is for data\.task=gsisr"):
        make_task("text", template="amap_zh", service="amap", prompt_length=9, response=None)
    (tmp_path / TASK_FILE).write_text('{"task": "chess", "prompt_length": 9}')
    with pytest.raises(GplanError, match=r"task\.json: task is 'chess'; it is gsisr or text"):
        load_task(tmp_path)
