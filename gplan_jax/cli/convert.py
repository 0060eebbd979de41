"""`gplan convert` and `gplan export`: between Hugging Face checkpoints and model directories."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gplan_jax.cli.options import Service, service_of
from gplan_jax.foundation import GplanError

if TYPE_CHECKING:
    from gplan_jax.models import CheckpointReport

TINY = "tiny"


def convert(
    hf_dir: Annotated[
        Path,
        typer.Argument(
            help="Qwen3 checkpoint: a directory, or an id on the hub: Qwen/Qwen3-1.7B; or tiny, a "
            "small Qwen3 of random weights for --data, to try things on."
        ),
    ],
    out: Annotated[Path, typer.Option(help="New directory for the model.")],
    revision: Annotated[
        str | None, typer.Option(help="Of a hub id: branch, tag or commit; else main.")
    ] = None,
    latents: Annotated[
        str,
        typer.Option(
            help="Latent tokens to add: gsisr, none, or those of the blocks that FILE names, rows "
            "of text (.jsonl) or a list of names (.yaml)."
        ),
    ] = "gsisr",
    latents_per_block: Annotated[
        int, typer.Option(min=1, max=26, help="Latent tokens a block, K in the paper.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the new tokens' embedding noise.")] = 0,
    adapter: Annotated[
        Path | None,
        typer.Option(help="LoRA adapter in PEFT's format to merge into the weights."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="For tiny: rows whose words its tokenizer should know.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="For tiny; else 3.")] = None,
    hidden: Annotated[
        int | None, typer.Option(min=2, help="For tiny: the size of a layer; else 128.")
    ] = None,
    vocab: Annotated[
        int | None, typer.Option(min=259, help="For tiny: the most tokens; else 1,024.")
    ] = None,
    service: Service = None,
) -> None:
    """Turn a Hugging Face Qwen3 checkpoint into a GPlan model directory.

    What is fetched from the hub stays in its cache (HF_HOME), as transformers keeps it.

    Example: gplan convert Qwen/Qwen3-1.7B --out models/Qwen3-1.7B

    Example: gplan convert Qwen/Qwen3-1.7B --out models/mine --latents rows.jsonl

    Example: gplan convert Qwen/Qwen3-1.7B --adapter my-lora --out models/mine

    Example: gplan convert tiny --data rows.csv --layers 2 --hidden 96 --out models/tiny

    Example: gplan convert tiny --data text.jsonl --latents text.jsonl --out models/tiny
    """
    from gplan_jax.data.tasks.text_task import text_latents, texts_of_rows
    from gplan_jax.gsisr import read_samples, training_texts
    from gplan_jax.gsisr.service import COMPACT
    from gplan_jax.models import convert_checkpoint
    from gplan_jax.models.checkpoints.hub import model_path
    from gplan_jax.models.checkpoints.tiny import SPACED_SPLIT, SPLIT, write_tiny_model
    from gplan_jax.reasoning import LatentVocabulary

    tiny = hf_dir == Path(TINY) and not hf_dir.is_dir()
    of_tiny = {"data": data, "layers": layers, "hidden": hidden, "vocab": vocab, "service": service}
    misplaced = {"revision": revision, "adapter": adapter} if tiny else of_tiny
    if given := [f"--{name}" for name, value in misplaced.items() if value is not None]:
        kind = "a checkpoint" if tiny else TINY
        raise GplanError(f"{', '.join(given)}: only for {kind}, and this converts {hf_dir}.")
    vocabulary = None
    if latents == "gsisr":
        vocabulary = LatentVocabulary(width=latents_per_block)
    elif latents != "none":
        vocabulary = text_latents(latents, width=latents_per_block)
    if tiny:
        if data is None or vocabulary is None:
            raise GplanError(f"{TINY} is made for rows: give --data FILE, and latent tokens.")
        if latents == "gsisr":
            found = service_of(service, data=data)
            rows = read_samples(data, form=found.library.rows)
            texts, split = training_texts(rows, found.template(COMPACT), found.library), SPLIT
        else:
            texts, split = texts_of_rows(data), SPACED_SPLIT
        hidden = hidden or 128
        write_tiny_model(
            out,
            texts,
            new_tokens=vocabulary.tokens,
            metadata={"latents": vocabulary.to_dict()},
            seed=seed,
            vocab_size=vocab or 1024,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            layers=layers or 3,
            heads=2,
            kv_heads=1,
            head_dim=64,
            split=split,
        )
        typer.echo(f"Made. A tiny Qwen3 of random weights is in {out}")
        return
    report = convert_checkpoint(
        model_path(hf_dir, revision),
        out,
        new_tokens=vocabulary.tokens if vocabulary else (),
        metadata={"latents": vocabulary.to_dict()} if vocabulary else {},
        seed=seed,
        adapter=adapter,
        progress=True,
    )
    typer.echo(f"Converted. The model is in {report.directory}")
    _describe(report)
    if report.new_tokens:
        ids = report.new_tokens.values()
        known = len(report.new_tokens) - report.tokens_added
        typer.echo(
            f"  latent tokens  {report.tokens_added} added"
            + (f", {known} already there" if known else "")
            + f", ids {min(ids)} to {max(ids)}"
        )


def export(
    model_dir: Annotated[Path, typer.Argument(help="GPlan model directory.")],
    out: Annotated[
        Path | None, typer.Option(help="New directory for the Hugging Face checkpoint.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Publish it on the hub, with its card.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Push: make a new repository private.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Print the model card, and export nothing.")
    ] = False,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="Directory that evaluate, judge or bench latency wrote, for the card; repeatable."
        ),
    ] = None,
    adapter: Annotated[
        Literal["peft", "vllm"] | None,
        typer.Option(
            help="The LoRA adapter of the run alone: for peft, trained rows of the embedding with "
            "it; for vllm, which takes none, OUT/adapter and OUT/base with those rows."
        ),
    ] = None,
) -> None:
    """Turn a GPlan model directory into a Hugging Face checkpoint that transformers loads.

    Its README.md is a model card, written from the runs' own records. Where the model has an intent
    library, OUT/guided holds its plans as grammars for the guided decoding of vLLM and SGLang;
    docs/other_servers.md shows how to use them.

    Example: gplan export runs/picd/model --out qwen3-planner-hf --records runs/test

    Example: gplan export runs/picd/model --push me/qwen3-planner --records runs/test

    Example: gplan export runs/lora/model --adapter peft --out planner-lora
    """
    from gplan_jax.evaluation.report.model_card import CARD, GUIDED, export_planner, model_card
    from gplan_jax.models import export_adapter
    from gplan_jax.models.checkpoints.hub import push_model
    from gplan_jax.models.checkpoints.model_directory import is_model_directory

    if sum((out is not None or push is not None, card)) != 1 or (adapter and (push or card)):
        raise GplanError(
            "Say what to do: --out DIR, --push OWNER/NAME or both, or --card; --adapter has --out."
        )
    if adapter is not None and out is not None:
        found = export_adapter(model_dir, out, rows_in_base=adapter == "vllm")
        typer.echo(f"Exported. The adapter is in {out}")
        kind = f" (gplan export {found.base} first)" if is_model_directory(Path(found.base)) else ""
        typer.echo(f"  its base       {found.base}{kind}")
        for name, (ids, _) in found.rows.items():
            typer.echo(f"  rows           {len(ids)} of the {name}, ids {min(ids)} to {max(ids)}")
        return
    text = model_card(model_dir, records or [], push)
    if card:
        typer.echo(text, nl=False)
        return
    with tempfile.TemporaryDirectory() as temporary:
        target = out or Path(temporary) / "planner"

        def write() -> Path:
            report = export_planner(model_dir, target, text, progress=True)
            typer.echo(f"Exported. The Hugging Face checkpoint is in {out or 'a temporary place'}")
            _describe(report)
            typer.echo(f"  model card     {CARD}: look through what it says, above all its limits")
            if grammars := sorted(path.name for path in (target / GUIDED).glob("*")):
                where = f"{', '.join(grammars)} in {target / GUIDED}"
                typer.echo(f"  plan grammars  {where}, for guided decoding in vLLM and SGLang")
            return target

        if push:
            typer.echo(f"Published. The model is at {push_model(push, write, private=private)}")
            typer.echo(f"  try it         gplan serve --model {push}")
        else:
            write()


def _describe(report: CheckpointReport) -> None:
    if report.rows_after == report.rows_before:
        rows = f"{report.rows_after:,}, as in the original checkpoint"
    else:
        rows = f"{report.rows_after:,}, grown from {report.rows_before:,}"
    typer.echo(f"  parameters     {report.parameters:,} in {report.dtype}")
    typer.echo(f"  embedding rows {rows}")
