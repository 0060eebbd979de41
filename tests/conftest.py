"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from rich.cells import cell_len
from rich.table import Table

from gplan_jax.foundation.compilation_cache import keep_compiled_programs
from gplan_jax.foundation.tables import TextTable, plain_text
from gplan_jax.gsisr import Sample

# Tests are about values, not speed: one device, no accelerator, no surprises between machines.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of their time is compiling small programs. In processor time, against level 2, training
# runs take half as long again, and baselines and kernels a tenth to a third less. Before JAX is
# imported; the processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# No test asks the hub but through a server of its own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# And to compile once: what one test has compiled, later tests, other workers and the processes that
# tests start read from disk. A run begins with what the last one left, as long as that is not much.
REPOSITORY = Path(__file__).resolve().parents[1]
COMPILED, COMPILED_BYTES = REPOSITORY / ".pytest_cache" / "compiled", 2**30
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Commands bound the cache's size, which wants a file of access times beside every program.
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
keep_compiled_programs()

# Tests that send Ctrl-C want it heard: a shell has what it starts in the background ignore it, and
# so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine and in every run. To look for new ones:
#   ./dev test --hypothesis-profile=explore
settings.register_profile("gplan", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("gplan")

TINY_ROWS = 40
TERMINAL = 80  # columns

SHARED = REPOSITORY.parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Empties the folder of compiled programs once it has grown too large."""
    if hasattr(config, "workerinput") or not COMPILED.is_dir():
        return
    if sum(path.stat().st_size for path in COMPILED.rglob("*")) > COMPILED_BYTES:
        shutil.rmtree(COMPILED)


@pytest.fixture(scope="module", autouse=True)
def _memory_is_that_of_one_file() -> Iterator[None]:
    """Each file's compiled programs go with it, and collections search only what it makes."""
    gc.freeze()
    yield
    gc.unfreeze()
    if "jax" in sys.modules:
        import jax

        jax.clear_caches()
        if sys.platform == "linux":  # What was freed goes back to the system.
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def _tables_are_whole_on_a_terminal() -> Iterator[None]:
    """Reads every table that any test draws, at 80 columns: each cell has to be there."""
    drawn = TextTable.rich

    def checked(table: TextTable) -> Table:
        found = drawn(table)
        assert_whole(table, plain_text(found, width=TERMINAL))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextTable, "rich", checked)
        yield


def assert_whole(table: TextTable, text: str) -> None:
    """Every character of every cell is in ``text``, and a figure's characters side by side."""
    cells = [str(cell) for row in table.rows for cell in row or ()]
    wanted = Counter("".join([*table.headings, *cells]))
    there = Counter(text)
    lost = {c: n for c, n in wanted.items() if not c.isspace() and there[c] < n}
    assert not lost, f"{lost} are cut from\n{text}"
    assert there["…"] == Counter("".join([*cells, table.title, table.caption]))["…"], text
    for row in table.rows:
        for cell in (row or ())[table.words :]:
            assert all(line.strip() in text for line in str(cell).split("\n")), f"{cell!r}, {text}"
    rows = text.splitlines()
    assert all(cell_len(line) <= TERMINAL for line in rows) or len(table.headings) < 3, text


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden figures beside the repository; tests that need it skip where absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("golden figures (../shared beside the repository) are not here")
    return SHARED


@pytest.fixture(scope="session")
def world_rows() -> list[Sample]:
    """A few simulated rows, with reasoning."""
    from gplan_jax.synthesis.world.simulation import simulate_rows

    return list(simulate_rows(TINY_ROWS, seed=1))


@pytest.fixture(scope="session")
def tiny_hf_dir(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """A tiny random Qwen3 checkpoint in Hugging Face format, with its own tokenizer."""
    from gplan_jax.gsisr import IntentLibrary, PromptTemplate, training_texts
    from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "hf"
    template, library = PromptTemplate.load("compact_zh"), IntentLibrary.load()
    texts = list(training_texts(world_rows, template, library))
    write_tiny_checkpoint(
        folder,
        texts,
        vocab_size=512,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        intermediate_size=48,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_hf_dir: Path) -> Path:
    """The same checkpoint as a model directory with the latent tokens."""
    from gplan_jax.models import convert_checkpoint
    from gplan_jax.reasoning import GSISR_LATENTS

    folder = tiny_hf_dir.parent / "model"
    convert_checkpoint(
        tiny_hf_dir,
        folder,
        new_tokens=GSISR_LATENTS.tokens,
        metadata={"latents": GSISR_LATENTS.to_dict()},
    )
    return folder


@pytest.fixture(scope="session")
def qwen3_json(shared: Path) -> str:
    """Qwen3's own tokenizer with the latent tokens."""
    from tokenizers import AddedToken, Tokenizer

    from gplan_jax.reasoning import GSISR_LATENTS

    tokenizer = Tokenizer.from_file(str(shared / "qwen3_tokenizer" / "tokenizer.json"))
    latents = [AddedToken(t, special=True, normalized=False) for t in GSISR_LATENTS.tokens]
    tokenizer.add_special_tokens(latents)
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of text: running parities of two or three bits, a block a bit."""
    path = tmp_path_factory.mktemp("text") / "parity.jsonl"
    with path.open("w") as file:
        for number in range(12):
            bits = [int(bit) for bit in f"{number % 8:03b}"][number // 8 :]
            sums = [sum(bits[:end]) % 2 for end in range(1, len(bits) + 1)]
            blocks = [{"name": f"BIT_{i}", "text": str(one)} for i, one in enumerate(sums, 1)]
            answer = "odd" if sums[-1] else "even"
            prompt = " ".join(map(str, bits))
            row = {"id": f"r{number}", "prompt": prompt, "blocks": blocks, "answer": answer}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="session")
def text_model_dir(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A tiny random model directory whose latent vocabulary, two tokens a block, is of that file.

    It is made with the commands that a user would type.
    """
    from typer.testing import CliRunner

    from gplan_jax.cli.main import app

    folder = tmp_path_factory.mktemp("text-model")
    small = ["--vocab=300", "--hidden=32", "--layers=1", "--latents-per-block=2"]
    rows, to = [f"--data={text_file}", f"--latents={text_file}"], f"--out={folder / 'model'}"
    arguments = ["convert", "tiny", *rows, to, *small]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    return folder / "model"


@pytest.fixture(scope="session")
def world_file(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """The simulated rows as a CSV file."""
    from gplan_jax.gsisr import write_samples

    path = tmp_path_factory.mktemp("rows") / "world.csv"
    write_samples(path, world_rows)
    return path


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """A file of context pairs: the simulated rows, and the same users where another row's user is.

    All of them are of two contexts that want different plans.
    """
    import dataclasses
    import itertools

    from gplan_jax.gsisr import ContextPair, IntentLibrary, Provenance, write_context_pairs
    from gplan_jax.gsisr.context_pairs import changed_columns
    from gplan_jax.reasoning import split_response
    from gplan_jax.synthesis.rules.service_rules import ServiceRules

    rules = ServiceRules(IntentLibrary.load())
    places = ("current_poi_name", "current_tag", "current_city", "current_district")
    pairs = []
    for number, (anchor, other) in enumerate(itertools.pairwise(world_rows[:20]), start=1):
        there = {column: getattr(other, column) for column in places}
        moved = dataclasses.replace(anchor, **there)
        first, second = (c.with_label(rules.label(c)) for c in (anchor, moved))
        if split_response(first.raw_labels)[1] == split_response(second.raw_labels)[1]:
            continue
        changed = changed_columns(first, second)
        origin = Provenance(anchor.id, number, "elsewhere", changed, "rules", "passed")
        pairs.append(ContextPair(f"{anchor.id}/{number}/elsewhere", first, second, origin))
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_context_pairs(path, pairs)
    return path


HOLD = """
import sys
from gplan_jax.foundation.paths import alone_in
with alone_in(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """path -> another process that is alone in it, until its standard input ends."""
    started: list[subprocess.Popen[bytes]] = []

    def hold(path: Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", HOLD, str(path)]
        started.append(subprocess.Popen(argv, stdin=-1, stdout=-1))
        assert started[-1].stdout and started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.wait()
