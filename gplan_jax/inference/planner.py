"""The planner: contexts in, raw plan texts out, with the prompts the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.task_files import load_task
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample
from gplan_jax.inference.decoding import GreedyDecoder
from gplan_jax.models import Qwen3, load_qwen3


@dataclass(frozen=True)
class Planner:
    """A model with all that turns a row into a prompt and its answer back into text.

    Attributes:
        max_length: tokens of prompt and answer together; a longer prompt loses the left of its
            user part.
        max_new_tokens: tokens an answer may have.
        batch_size: rows decoded together.
        length_multiple: prompts are padded to a multiple of this; each multiple compiles once.
    """

    model: Qwen3
    encoder: ChatEncoder
    template: PromptTemplate
    library: IntentLibrary
    max_length: int = 2048
    max_new_tokens: int = 512
    batch_size: int = 16
    length_multiple: int = 128

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        *,
        template: str | None = None,
        library: str | None = None,
        compute_dtype: str = "float32",
        max_length: int | None = None,
        max_new_tokens: int = 512,
        batch_size: int = 16,
    ) -> Planner:
        """Loads a model directory or a Hugging Face directory.

        Prompt template, intent library and ``max_length`` are those that training stored in the
        directory, unless others are given; a directory without them gets the shipped Amap ones.

        Raises:
            GplanError: the directory, the template or the library is missing or broken.
        """
        folder = Path(model_dir)
        task = load_task(folder, template=template, library=library, max_length=max_length)
        model = load_qwen3(folder, compute_dtype=jnp.dtype(compute_dtype))
        return cls(
            model,
            ChatEncoder.load(folder),
            task.template,
            task.library,
            max_length=task.max_length,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )

    def generate(self, samples: Sequence[Sample]) -> list[str]:
        """Greedy answers of the model, one text a sample, in order; a progress bar counts them."""
        room = self.max_length - self.max_new_tokens
        prompts = [
            self.encoder.prompt_ids(self.template.render(s, self.library), max_length=room).tolist()
            for s in samples
        ]
        longest = max((len(ids) for ids in prompts), default=1)
        multiple = self.length_multiple
        decoder = GreedyDecoder(
            self.model,
            end_id=self.encoder.end_id,
            pad_id=self.encoder.pad_id,
            max_new_tokens=self.max_new_tokens,
            length_buckets=range(multiple, longest + multiple, multiple),
            batch_size=self.batch_size,
        )
        with ProgressBar("planning", len(prompts)) as bar:
            answers = decoder.decode(prompts, on_rows=lambda rows: bar.advance(steps=rows))
        return [self.encoder.decode(ids) for ids in answers]
