"""Many machines with Ray: `gplan predict|synthesize|judge --engine ray`, and classes for datasets.

    ds = ray.data.read_parquet("s3://contexts").map_batches(
        PlanBatch, fn_constructor_kwargs={"model": "run/model"}, concurrency=8, num_gpus=1
    )

predict deals the parts of a file to tasks, each of which plans a shard of it as one machine does. A
task whose worker dies runs again and goes on at its first missing part. synthesize and judge have
actors ask the language model, each of which pays into a cache of its own, a shard of the command's.
An actor that dies starts again on the same shard. So the bytes are those of one process. What
commands read and write lies where all nodes see it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.chat import ChatClient, ChatConfig, ChatReply, ChatRequest, Ledger, RequestFailed
from gplan_jax.chat.cache import merge_shards as merge_caches
from gplan_jax.chat.cache import shard_of, totals_of
from gplan_jax.chat.ledger import Account
from gplan_jax.chat.messages import request_key
from gplan_jax.evaluation.judge.chat_judge import ChatJudge, JudgeConfig
from gplan_jax.evaluation.judge.judgement import Judgement
from gplan_jax.foundation.errors import GplanError, RowError, load_extra
from gplan_jax.foundation.faulty_rows import FaultyRows, OnError, Streak
from gplan_jax.foundation.files import json_text, refuse_existing
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.row_files import count_rows
from gplan_jax.gsisr import Service, parse_plan
from gplan_jax.inference.prediction import predict as prediction
from gplan_jax.inference.prediction.predict import Manifest, merge_shards
from gplan_jax.synthesis.factory.output_files import Duplicates, Removal
from gplan_jax.synthesis.factory.synthesize import check_answer
from gplan_jax.synthesis.teachers.load import load_teacher
from gplan_jax.synthesis.teachers.seed_selection import read_seeds

PURPOSE = "work on many machines"
# A worker that dies is replaced; what kills as many as this is no accident.
RETRIES = 5


class PlanBatch:
    """Batches of contexts -> the same with their plans, for ``ray.data.Dataset.map_batches``.

    A batch is a dict of columns [B]; those of the public schema make the context, others are
    passed on, and columns that lack are empty. New ones: ``plan`` (JSON), ``text``,
    ``latent_valid``, ``passed``, ``log_probability``. The model is loaded once an actor, from a
    directory that every node can read. Of the options of ``Planner.load``, ``mode`` is drafted
    unless it is given.

    Raises:
        GplanError: a row's prompt can't be made; the row is named by its place in the batch.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self._planner = prediction.load_planner(model, **options)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        contexts = prediction.contexts_of(_cells(batch), form=self._planner.library.rows)
        records, _ = prediction.plan_rows(
            self._planner, Path("the batch"), contexts, skips=False, on_row=lambda: None
        )
        found: dict[str, Any] = dict(batch)
        found["plan"] = np.array([json_text(record["plan"]) for record in records])
        for name in ("text", "latent_valid", "passed", "log_probability"):
            found[name] = np.array([record[name] for record in records])
        return found


class SynthesizeBatch:
    """Batches of contexts -> the same with a teacher's labels, for ``Dataset.map_batches``.

    New columns: ``raw_labels``, reasoning and plan; ``removed``, why the filter removes them ("" if
    not); ``origin``, requests and tokens (JSON). Duplicates are not looked for; rows that repeat
    others may be paid for twice.

    Args:
        teacher: a teacher file. It, ``cache`` and the other files are seen by every node.
        cache, workers: see ``shard_client``; workers are as many as ``concurrency``.
        overrides, service, seeds: as for ``gplan synthesize``.

    Raises:
        GplanError: a context can't be read, or nothing more can be asked.
    """

    def __init__(
        self,
        teacher: str,
        cache: str,
        *,
        workers: int = 1,
        overrides: Sequence[str] = (),
        service: str,
        seeds: str | None = None,
    ) -> None:
        self._library = Service.load(service).library
        known = (self._library, read_seeds(seeds, self._library) if seeds else ())
        connect = partial(shard_client, workers=workers)
        self._teacher = load_teacher(teacher, overrides, Path(cache), *known, connect)
        self._streak = Streak(f"teacher {self._teacher.name}")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        rows = [
            (number, row.with_label(""))
            for number, _, row in prediction.contexts_of(_cells(batch), form=self._library.rows)
        ]
        labels, removed, origins = [], [], []
        answers = asyncio.run(_all_of(self._teacher.answer(sample) for _, sample in rows))
        for (number, sample), answer in zip(rows, answers, strict=True):
            found, why = check_answer(number, sample, answer, self._library, Duplicates()), ""
            if isinstance(found, Removal):
                why = f"{found.tier}/{found.code}: {'; '.join(found.messages)}"
            labels.append("" if isinstance(found, Removal) else found.text)
            removed.append(why)
            origins.append(json_text(getattr(answer, "origin", {})))
            self._streak.add(why or None)
        return {**batch, "raw_labels": labels, "removed": removed, "origin": origins}


class JudgeBatch:
    """Batches of contexts and plans -> the same with a judge's scores, for ``map_batches``.

    ``plan`` is JSON, as ``PlanBatch`` writes it. New columns: ``scores``, axis -> reason and score
    (JSON), and ``unscored``, why there are none ("" if there are). Arguments and errors are those
    of ``SynthesizeBatch``, with a judge file.
    """

    def __init__(
        self,
        judge: str,
        cache: str,
        *,
        workers: int = 1,
        overrides: Sequence[str] = (),
        service: str,
    ) -> None:
        self._library = Service.load(service).library
        config, connect = JudgeConfig.load(judge, overrides), partial(shard_client, workers=workers)
        self._judge = ChatJudge(config, Path(cache), self._library, connect)
        self._streak = Streak(f"judge {self._judge.name}")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        cells = _cells(batch)
        plans = [parse_plan(text, self._library) for text in cells["plan"]]
        rows = zip(prediction.contexts_of(cells, form=self._library.rows), plans, strict=True)
        asked = [(row.with_label(""), plan) for (_, _, row), plan in rows if plan]
        answers = iter(asyncio.run(_all_of(self._judge.judge(*one) for one in asked)))
        told = [next(answers) if plan else Judgement({}, "no plan") for plan in plans]
        for plan, one in zip(plans, told, strict=True):
            self._streak.add(one.unscored if plan else None)
        scores = [json_text({k: asdict(score) for k, score in one.scores.items()}) for one in told]
        return {**batch, "scores": scores, "unscored": [one.unscored or "" for one in told]}


async def _all_of(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """What each call returns, or its RequestFailed. Another error is raised, but only when all are
    through: what is on the wire is paid for. The client sees to how many are sent at once.
    """
    found = await asyncio.gather(*calls, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, RequestFailed):
            raise one
    return found


def shard_client(config: ChatConfig, cache: Path, *, workers: int = 1) -> ChatClient:
    """A client that pays into this actor's shard of ``cache``, the same when Ray starts it again.

    Whoever uses it merges the shards (``chat.cache.merge_shards``) once all actors are through.
    """
    ray = load_extra("ray", "ray", PURPOSE)
    name = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else "alone"
    return ChatClient(_share(config, cache, workers), shard_of(cache, name))


def _share(config: ChatConfig, cache: Path, workers: int) -> ChatConfig:
    """The config of a worker, which may spend an equal part of what is left of the budget."""
    spent, part = totals_of(cache, config.currency), dict[str, float]()
    if config.budget is not None:
        part["budget"] = max(0.0, config.budget - spent.cost) / workers
    if config.token_budget is not None:
        tokens = spent.prompt_tokens + spent.completion_tokens
        part["token_budget"] = max(0, config.token_budget - tokens) // workers
    return config.model_copy(update=part)


class ClientOfWorkers(ChatClient):
    """Has clients on actors of a Ray cluster send what it is asked.

    The key of a request decides which, so what is asked twice is paid for once. Each pays into a
    shard of ``cache``; shards are merged at the end, those of a killed command at the start.

    There are ``workers`` actors, each with up to ``concurrency`` requests; None for one a node.
    ``address`` is as for ``predict_with_ray``.
    """

    def __init__(
        self, config: ChatConfig, cache: Path, *, workers: int | None, address: str | None
    ) -> None:
        self._ray = load_extra("ray", "ray", PURPOSE)
        self._config, self._whole = config, cache.resolve()
        self._workers, self._address = workers, address
        self._actors: list[Any] = []

    @property
    def at_once(self) -> int:
        """As many as keep all actors at work though some are behind. The first call starts them."""
        ray, config, cache = self._ray, self._config, self._whole
        if not self._actors:
            merge_caches(cache)
            self._account = Account(config, totals_of(cache, config.currency), cache)
            ray.init(self._address, log_to_driver=False, include_dashboard=False)
            count = self._workers or len(ray.nodes())
            options = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
            actor = ray.remote(scheduling_strategy="SPREAD", **options)(ChatClient)
            share = _share(config, cache, count)
            self._actors = [actor.remote(share, shard_of(cache, f"{n}")) for n in range(count)]
        return 2 * len(self._actors) * config.concurrency

    @property
    def ledger(self) -> Ledger:
        """The books of all actors, without what they tried in vain."""
        return self._account.ledger

    async def ask(self, request: ChatRequest) -> ChatReply:
        """As ``ChatClient.ask``; or an actor died again and again. What is paid for stays."""
        number = int(request_key(self._config, request), 16) % len(self._actors)
        try:
            reply: ChatReply = await self._actors[number].ask.remote(request)
        except self._ray.exceptions.RayError as error:
            raise _explained(error, f"What is paid for stays beside {self._whole}") from None
        if reply.cached:
            self._account.count(from_cache=1)
        else:
            self._account.paid(reply)
        return reply

    async def close(self) -> None:
        """Waits for answers on the wire, lets go of the cluster and merges the shards."""
        closing = (actor.close.remote() for actor in self._actors)
        await asyncio.gather(*closing, return_exceptions=True)
        self._ray.shutdown()
        self._actors = []
        merge_caches(self._whole)


def predict_with_ray(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    faulty: FaultyRows | None = None,
    workers: int | None = None,
    address: str | None = None,
    part_rows: int = prediction.PART_ROWS,
    **options: Any,
) -> Manifest:
    """What ``predict`` does with a file, as tasks of a Ray cluster at ``address``; None is that of
    ``RAY_ADDRESS``, or one on this machine.

    ``workers`` shards are planned at once; None: as many as the cluster has GPUs or TPU hosts, or
    else nodes.

    Raises:
        GplanError: as ``predict``; or a worker died again and again. What is planned stays.
    """
    ray = load_extra("ray", "ray", PURPOSE)
    out = Path(out).resolve()
    shards = out.with_name(f"{out.name}.shards")
    refuse_existing(out)  # now, not when all is planned
    ray.init(address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    try:
        found = ray.cluster_resources()
        device = next((kind for kind in ("GPU", "TPU") if found.get(kind)), None)
        count = workers or int(found[device] if device else len(ray.nodes()))
        parts = -(-count_rows(Path(data)) // part_rows)
        count = max(1, min(count, parts))
        task = ray.remote(max_retries=RETRIES, **({"resources": {"TPU": 1}} if device == "TPU" else
                          {"num_gpus": 1 if device else 0}))(_plan_shard)  # fmt: skip
        model, data, faulty = Path(model).resolve(), Path(data).resolve(), faulty or FaultyRows()
        # Workers run elsewhere: a path is made absolute, the name of what is shipped stays one.
        for name in ("template", "service"):
            if (given := options.get(name)) and Path(given).exists():
                options[name] = str(Path(given).resolve())
        tasks = running = [
            task.remote(
                *(model, data, shards / str(number), f"{number}/{count}"),
                faulty.on_error,
                options | {"part_rows": part_rows},
            )
            for number in range(1, count + 1)
        ]
        with ProgressBar("shards", count) as bar:
            while running:
                done, running = ray.wait(running)
                ray.get(done[0])
                bar.advance(steps=1)
        for fault in itertools.chain.from_iterable(ray.get(tasks)):
            faulty.add(fault)
    except ray.exceptions.RayError as error:
        raise _explained(error, f"What is planned stays in {shards}") from None
    finally:
        ray.shutdown()
    manifest = merge_shards(shards, out)
    shutil.rmtree(shards)
    return manifest


def _plan_shard(
    model: Path, data: Path, out: Path, shard: str, on_error: OnError, options: Mapping[str, Any]
) -> list[RowError]:
    faulty = FaultyRows(on_error)
    prediction.predict(model, data, out, shard=shard, faulty=faulty, **options)
    return faulty.errors


def _explained(error: Any, stays: str) -> GplanError:
    """What a worker raised, or that it died."""
    if isinstance(cause := getattr(error, "cause", None), GplanError):
        return cause
    return GplanError(
        f"A worker of Ray died {RETRIES + 1} times ({str(error).splitlines()[0]}). {stays}; run "
        "the command again, perhaps with more memory a worker."
    )


def _cells(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns as Python's values; of times, NumPy would make numbers of nanoseconds."""
    columns = {name: np.asarray(column) for name, column in batch.items()}
    return {
        name: (column.astype("datetime64[us]") if column.dtype.kind == "M" else column).tolist()
        for name, column in columns.items()
    }
