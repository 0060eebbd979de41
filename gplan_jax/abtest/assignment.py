"""A file of users with their arms and the pseudonyms that the server's log has for them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import track

NO_PART = "(none)"


def assign_file(experiment: Experiment, users: Path, out: Path) -> Counter[str]:
    """Writes user, arm and user_hash of each line of ``users``; the arm of who takes no part is "".

    Returns:
        The number of users of each arm, ``NO_PART`` for those who take none.

    Raises:
        GplanError: ``users`` is missing or no UTF-8, or ``out`` exists.
        RowError: an empty line.
    """
    if out.exists():
        raise GplanError(f"{out} exists and is never overwritten; name another or remove it.")
    counts: Counter[str] = Counter()
    try:
        with (
            users.open(encoding="utf-8-sig") as lines,
            atomic_write(out) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as target,
        ):
            writer = csv.writer(target)
            writer.writerow(("user", "arm", "user_hash"))
            for row, line in enumerate(track(lines, "Assigning users"), start=1):
                user = line.strip()
                if not user:
                    raise RowError(users, row, None, "the line is empty", "Remove it.")
                arm = experiment.assign(user)
                counts[arm or NO_PART] += 1
                writer.writerow((user, arm or "", experiment.pseudonym(user)))
    except FileNotFoundError:
        raise GplanError(f"{users} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{users} is not UTF-8 text: {error}.") from None
    return counts
