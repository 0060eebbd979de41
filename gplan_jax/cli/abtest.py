"""`gplan abtest`: analyse an A/B test, plan one, simulate some, assign users to arms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.files import refuse_existing, write_json

abtest = typer.Typer(
    help="A/B tests: lift, interval, power, daily looks, and users' arms (section 5.5).",
    no_args_is_help=True,
)

Alpha = Annotated[float, typer.Option(help="Two-sided level.")]
Power = Annotated[float, typer.Option(help="Chance to find the lift.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed draws the same users.")]
Spending = Annotated[
    Literal["obrien_fleming", "pocock"], typer.Option(help="How daily looks spend alpha.")
]


@abtest.command()
def analyse(
    log: Annotated[Path, typer.Option(help="Exposures and clicks: .csv, .parquet or .jsonl.")],
    out: Annotated[Path, typer.Option(help="New directory for summary.json and summary.md.")],
    config: Annotated[Path | None, typer.Option(help="experiment.yaml: arms, dates, plan.")] = None,
    control: Annotated[
        str | None, typer.Option(help="Arm that others are compared with, without --config.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="First day of the test; earlier rows are its pre-period.")
    ] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Daily looks, by alpha spending.")
    ] = False,
    planned_days: Annotated[
        int | None, typer.Option(help="Days that the sequential test was planned for.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the config, e.g. metric=ctr.")
    ] = None,
    on_crossover: Annotated[
        Literal["raise", "drop"], typer.Option(help="Users in several arms: stop, or drop them.")
    ] = "raise",
    sum_duplicates: Annotated[
        bool, typer.Option("--sum-duplicates", help="Sum rows of one user, day and arm.")
    ] = False,
) -> None:
    """Compare arms: UV-CTR and CTR, lift with interval, sample ratio, CUPED, power.

    Example: gplan abtest simulate --log-out log.csv --lift 0.2 && gplan abtest analyse --log
    log.csv --start 2026-11-02 --out runs/abtest
    """

    from gplan_jax.abtest.analysis import analyse as run
    from gplan_jax.abtest.analysis import settings_for, summary_tables, write_summary
    from gplan_jax.abtest.estimates import import_tea_tasting
    from gplan_jax.abtest.experiment import AbTest, read_log
    from gplan_jax.foundation.config import load_config, override

    refuse_existing(out)
    import_tea_tasting()
    changes = list(set_ or [])
    changes += [f"start={start}"] if start else []
    changes += [f"planned_days={planned_days}"] if planned_days else []
    if config and control:
        raise GplanError("--control is for logs without --config; the config names its control.")
    test = load_config(AbTest, config, changes) if config else None
    rows = read_log(log)
    test = test or settings_for(rows, control, override({}, changes))
    summary = run(
        rows, test, sequential=sequential, on_crossover=on_crossover, sum_duplicates=sum_duplicates
    )
    write_summary(summary, out)
    console = Console()
    for table in summary_tables(summary):
        console.print(table.rich())
    for text in summary["warnings"]:
        typer.echo(f"Warning: {text}.")
    for text in summary["notes"]:
        typer.echo(f"Note: {text}.")
    for row in summary["comparisons"]:
        typer.echo(f"{row['treatment']}: {row['verdict'].replace('_', ' ')} ({row['because']})")
    typer.echo(f"The analysis is in {out}: summary.json, summary.md.")


@abtest.command()
def power(
    baseline: Annotated[float, typer.Option(help="UV-CTR of the control, 0 to 1.")],
    lift: Annotated[float, typer.Option(help="Relative lift to find.")] = 0.0087,
    users_per_day: Annotated[
        float | None, typer.Option(help="Users seen for the first time a day, over both arms.")
    ] = None,
    ratio: Annotated[float, typer.Option(min=0.01, help="Treatment's users per control's.")] = 1.0,
    looks: Annotated[
        int | None, typer.Option(min=2, max=365, help="Daily looks of a sequential test.")
    ] = None,
    spending: Spending = "obrien_fleming",
    alpha: Alpha = 0.05,
    power: Power = 0.8,
) -> None:
    """Say how many users a lift takes, and how many days until they have come.

    Example: gplan abtest power --baseline 0.30 --lift 0.0087 --users-per-day 100000
    """
    from gplan_jax.abtest.estimates import needed

    need = needed(
        baseline,
        lift,
        alpha=alpha,
        power=power,
        ratio=ratio,
        users_per_day=users_per_day,
        looks=looks,
        spending=spending,
    )
    at = f" with {looks} daily looks" if looks else ""
    typer.echo(
        f"A lift of {lift:+.2%} on {baseline:.2%} ({100 * need.difference:+.3f} points) "
        f"is found{at} with {power:.0%} power at alpha {alpha:g} by"
    )
    typer.echo(f"  users  {need.users:,}: {need.control:,} control, {need.treatment:,} treatment")
    if need.days is not None:
        typer.echo(f"  days   {need.days:,}, at {users_per_day:,.0f} new users a day")


@abtest.command()
def simulate(
    experiments: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    lift: Annotated[
        float, typer.Option(help="0: A/A tests on users' days; else a planted relative lift.")
    ] = 0.0,
    sequential: Annotated[bool, typer.Option("--sequential", help="With daily looks too.")] = False,
    users: Annotated[int, typer.Option(min=20, help="Of an A/A test or the log.")] = 2000,
    days: Annotated[int, typer.Option(min=2, max=365, help="Of the test.")] = 14,
    before: Annotated[int, typer.Option(min=0, help="Days of the pre-period.")] = 7,
    baseline: Annotated[float, typer.Option(help="UV-CTR that the lift is planted on.")] = 0.3,
    alpha: Alpha = 0.05,
    power: Power = 0.8,
    spending: Spending = "obrien_fleming",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    log_out: Annotated[
        Path | None, typer.Option(help="Write one experiment's log (.csv) instead.")
    ] = None,
) -> None:
    """Check error rate and power on simulated experiments, or write a simulated log.

    Example: gplan abtest simulate --experiments 1000 --lift 0 --sequential --out aa.json

    Example: gplan abtest simulate --lift 0.2 --users 20000 --log-out log.csv
    """

    from gplan_jax.abtest import simulate as simulation
    from gplan_jax.abtest.analysis import simulation_table

    for path in (out, log_out):
        if path is not None and path.exists():
            raise GplanError(f"{path} exists and is never overwritten; name another or remove it.")
    if log_out is not None:
        import numpy as np

        if log_out.suffix != ".csv":
            raise GplanError(f"{log_out}: a simulated log is written as .csv.")
        treated = simulation.draw_arms(f"log{seed}", users)
        rng = np.random.default_rng(seed)
        drawn = simulation.simulate_users(treated, days, before, lift, rng)
        rows = simulation.write_log(log_out, drawn)
        typer.echo(f"{rows:,} rows of {users:,} users over {before} + {days} days: {log_out}")
        typer.echo(
            f"  analyse it   gplan abtest analyse --log {log_out} --start {simulation.START} "
            "--out DIR"
        )
        return
    common: dict[str, Any] = {
        "alpha": alpha,
        "days": days,
        "sequential": sequential,
        "spending": spending,
        "seed": seed,
    }
    if lift == 0:
        found = simulation.simulate_aa(experiments, users=users, before=before, **common)
        title = f"False positives of {experiments:,} A/A tests, {users:,} users, {days} days"
        table = simulation_table(found["false_positives"], title, goal=alpha)
    else:
        found = simulation.simulate_power(
            experiments, baseline=baseline, lift=lift, power=power, **common
        )
        sizes = [found[k]["users"] for k in ("need", "need_sequential") if k in found]
        users_text = " and ".join(f"{size:,}" for size in sizes)
        title = f"A lift of {lift:+.2%} on {baseline:.0%}, {users_text} users"
        names = "found", "found_sequentially"
        shares = {name: found[name] for name in names if name in found}
        table = simulation_table(shares, title, goal=power)
    Console().print(table.rich())
    if "mean_days" in found:
        stop = found["mean_days"]
        typer.echo(f"With daily looks a test stops after {stop:.1f} of {days} days on average.")
    if out is not None:
        options = common | {"experiments": experiments, "lift": lift}
        write_json(out, {"options": options, **found})
        typer.echo(f"The figures are in {out}.")


@abtest.command()
def assign(
    config: Annotated[Path, typer.Option(help="experiment.yaml: name, salt, arms.")],
    users: Annotated[Path, typer.Option(help="Text file, one user id a line.")],
    out: Annotated[Path, typer.Option(help="CSV to write: user, arm, user_hash.")],
) -> None:
    """Give users their arms, as the server does, with the hashes of its exposure log.

    Example: gplan abtest assign --config experiment.yaml --users ids.txt --out arms.csv
    """
    from gplan_jax.abtest.experiment import AbTest, assign_file

    counts = assign_file(load_config(AbTest, config), users, out)
    for arm, count in counts.items():
        typer.echo(f"  {arm:12} {count:,}")
    typer.echo(f"The arms of {sum(counts.values()):,} users are in {out}.")
