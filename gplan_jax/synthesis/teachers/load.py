"""Loads the teacher that a command names: the rules, or the model of a teacher file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gplan_jax.chat import ChatClient, Connect
from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.teachers.chat_teacher import ChatTeacher, TeacherConfig
from gplan_jax.synthesis.teachers.seed_selection import Seed, SeedPool
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, Teacher

log = logging.getLogger(__name__)

RULES = "rules"


def load_teacher(
    spec: str,
    overrides: Sequence[str],
    cache: Path,
    library: IntentLibrary,
    seeds: Sequence[Seed] = (),
    connect: Connect = ChatClient,
) -> Teacher:
    """The teacher that ``--teacher`` names: "rules", or the path of a YAML ``TeacherConfig``.

    ``overrides`` are ``key=value`` changes to that file, ``cache`` is where a paid teacher keeps
    its answers, ``seeds`` are a model's examples. GplanError where the file or a key in it is
    wrong, or the rules are given overrides or a library that they don't know.
    """
    if spec != RULES:
        config = load_config(TeacherConfig, spec, overrides)
        if config.examples and not seeds:
            log.warning(
                "No --seeds: %s is asked without examples (examples=0 says that this is meant).",
                config.server.model,
            )
        return ChatTeacher(config, cache, library, SeedPool(seeds) if seeds else None, connect)
    if overrides:
        raise GplanError(f"--set changes a teacher file; {RULES} has no settings.")
    return RuleTeacher(library)


def settings_of(teacher: Teacher) -> dict[str, Any]:
    """What a report says about a teacher."""
    settings = teacher.settings if isinstance(teacher, ChatTeacher) else {}
    return {"name": teacher.name, **settings}


def note_of(teacher: Teacher) -> str:
    """What a progress bar shows beside the rate: requests and cost so far, "" for rules."""
    return teacher.ledger.note() if isinstance(teacher, ChatTeacher) else ""
