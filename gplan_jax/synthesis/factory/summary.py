"""What a finished run says at its end: what was kept, what it came to, and where it is."""

from __future__ import annotations

from gplan_jax.synthesis.factory.mix import suggested_target_blocks
from gplan_jax.synthesis.factory.report import Report
from gplan_jax.synthesis.factory.synthesize import Finished


def summary(finished: Finished) -> str:
    """The lines of the end message."""
    report, files = finished.report, finished.outputs
    users = report.users
    lines = [
        f"{report.parts['train']:,} rows of {len(users['train']):,} users are in {files.train}."
    ]
    if files.test.exists():
        test = f"{report.parts['test']:,} rows of {len(users['test']):,} other users"
        lines.append(f"  test rows            {test}, in {files.test}")
    lines += [
        f"  removed, and why     {report.removed.total():,}, in {files.removed}",
        f"  by the filter        {report.filtered:.1%} of the answers (the paper's teacher: 28.9%)",
        f"  duplicates           {report.tier('duplicate'):,}",
        f"  repaired             {report.repaired:,} of the rows kept",
        *_unanswered(report),
        f"  origin of each row   {files.origin}",
        f"  counts, settings     {files.report}",
    ]
    if blocks := suggested_target_blocks(report.mix.lengths):
        lines.append(f"  suggested B*         optimizer.target_blocks={blocks}")
    if finished.note:
        spent = report.spent.to_dict()
        lines += [
            f"  all these answers    {spent['requests']:,} requests{_cost(spent['cost'])}",
            f"  this run             {finished.note}",
        ]
    return "\n".join(lines)


def _unanswered(report: Report) -> list[str]:
    if not (rows := report.tier("answer")):
        return []
    return [f"  without an answer    {rows:,}; running the command again asks for them again"]


def _cost(cost: float | None) -> str:
    return "" if cost is None else f", {cost:,.2f} in all"
