"""Splits rows by user id: python scripts/split_rows.py rows.csv --out DIR --test 0.2 --seed 0"""

from __future__ import annotations

import argparse
from pathlib import Path

from gplan_jax.gsisr import read_samples, split_by_id, write_samples
from gplan_jax.gsisr.service import known_service, record_service


def main() -> None:
    """Writes DIR/train.csv and DIR/test.csv; no id stands in both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test", type=float, default=0.2, help="share of the ids kept back")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--service", help="name or directory; else what the data records")
    options = parser.parse_args()
    library = known_service(options.service, data=options.data)[0].library
    samples = list(read_samples(options.data, form=library.rows))
    parts = split_by_id(samples, options.test, options.seed)
    for name, rows in zip(("train", "test"), parts, strict=True):
        path = options.out / f"{name}.csv"
        write_samples(path, rows)
        record_service(library, path)
        print(f"{len(rows)} rows in {path}")


if __name__ == "__main__":
    main()
