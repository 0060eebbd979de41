"""A trained model in another runtime: exported, then run by transformers as anyone would."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, grammar_from
from typer.testing import CliRunner

from gplan_jax.cli import quickstart_run as quickstart
from gplan_jax.cli.main import app
from gplan_jax.foundation.config import load_config
from gplan_jax.gsisr import IntentLibrary, Prompt, Sample, check_plan, latent_valid
from gplan_jax.inference.engine.continuous import Prompted, decode_all
from gplan_jax.inference.engine.decoder_setup import build_decoder, build_prompter, load_parts
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.inference.engine.requests import EngineConfig
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import TrainConfig

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NEW_TOKENS, ROWS = 120, 6


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, world_file: Path
) -> Path:
    """A few steps of PICD: far from good, but it has learnt what a response looks like."""
    config = load_config(
        TrainConfig,
        quickstart.CONFIGS / "picd.yaml",
        [
            f"model={tiny_model_dir}",
            f"output={tmp_path_factory.mktemp('handover') / 'run'}",
            f"data.train={world_file}",
            "data.max_length=512",
            "data.length_multiple=512",
            "data.response_multiple=384",
            "batch_size=4",
            "epochs=8",
            "optimizer.learning_rate=1e-2",
            "optimizer.polish_lr=5e-3",
        ],
    )
    return train(config)


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    folder = trained.parent / "hf"
    result = CliRunner().invoke(app, ["export", str(trained), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "latent.ebnf, latent.lark, plan.ebnf, plan.lark" in result.output
    return folder


@pytest.fixture(scope="module")
def prompts(trained: Path, world_rows: list[Sample]) -> list[Prompt]:
    planner = Planner.load(trained)
    return [planner.task.prompt(sample) for sample in world_rows[:ROWS]]


@pytest.fixture(scope="module")
def prompt_ids(trained: Path, prompts: list[Prompt]) -> list[list[int]]:
    encoder = Planner.load(trained).encoder
    return [encoder.prompt_ids(prompt, max_length=512).tolist() for prompt in prompts]


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)


def generate(model: Any, ids: list[int], **options: Any) -> list[int]:
    """Greedy tokens of transformers, its end token cut off."""
    tokens = torch.tensor([ids])
    mask = torch.ones_like(tokens)
    limits = dict(max_new_tokens=NEW_TOKENS, do_sample=False)
    [found] = model.generate(tokens, attention_mask=mask, **limits, **options).tolist()
    ends = model.generation_config.eos_token_id
    return [token for token in found[len(ids) :] if token not in ends]


def test_its_chat_template_writes_our_prompts(
    exported: Path, prompts: list[Prompt], prompt_ids: list[list[int]]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        parts = dataclasses.asdict(prompt)
        messages = [{"role": role, "content": parts[role]} for role in ("system", "user")]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_generate_gives_the_tokens_of_our_greedy_decoder(
    trained: Path, theirs: Any, prompt_ids: list[list[int]]
) -> None:
    config = EngineConfig(
        mode="unconstrained",
        slots=ROWS,
        max_new_tokens=NEW_TOKENS,
        prefix_cache_mib=0,
    )
    parts = load_parts(trained, config, prompt_length=512)
    prompter = build_prompter(parts.task, parts.encoder, config)
    prompts = [Prompted(ids) for ids in prompt_ids]
    decoder = build_decoder(parts, config, prompter, prompts=prompts, ahead=False)
    rows = decode_all(decoder, prompts, on_row=lambda: None)
    ours = [row.response for row in rows]
    assert [generate(theirs, ids) for ids in prompt_ids] == ours
    texts = [parts.encoder.decode(tokens) for tokens in ours]
    assert all(text.startswith("<THOUGHT><THOUGHT_CONTEXT_a>") for text in texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.parent / "hf")
    assert [tokenizer.decode(tokens) for tokens in ours] == texts


def test_guided_by_the_exported_grammar_every_answer_is_a_plan(
    exported: Path, theirs: Any, prompt_ids: list[list[int]]
) -> None:
    """As vLLM's guidance backend does it: the matcher's mask on every step's logits."""
    tokenizer = LLTokenizer((exported / "tokenizer.json").read_text(encoding="utf-8"))
    grammar = grammar_from("grammar", (exported / "guided" / "latent.lark").read_text("utf-8"))
    texts = transformers.AutoTokenizer.from_pretrained(exported)
    end = theirs.generation_config.eos_token_id
    for ids in prompt_ids:
        matcher = LLMatcher(tokenizer, grammar)

        def allowed(_: int, so_far: Any, matcher: Any = matcher, n: int = len(ids)) -> list[int]:
            if len(so_far) > n:
                matcher.consume_token(int(so_far[-1]))
            if matcher.is_stopped():
                return end
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            return np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()

        tokens = generate(theirs, ids, prefix_allowed_tokens_fn=allowed, max_length=None)
        text = texts.decode(tokens)
        assert latent_valid(text)
        assert {violation.tier for violation in check_plan(text, IntentLibrary.load())} <= {"logic"}
