"""The runs of `benchmarks.search`, their figures over seeds, and the printed tables."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.searchers import REFERENCE
from pdr_dspy.evaluation.statistics import mean_interval, wilson

NEVER = math.inf
"""Tokens until an event that never happened."""


@dataclass
class Run:
    """One method on one world."""

    method: str
    seed: int
    questions: int
    trials: int
    regret: float
    """Final regret in points."""
    optimism: float
    """Reported minus true score, in points."""
    over: bool
    """Whether the chosen schedule truly exceeds a limit by over 5 %."""
    paid: int
    full: int
    chosen: str
    reached: dict[str, list[float]]
    """By distance in points: tokens (each call once, every call) until the choice is and stays within it."""
    dropped: int
    false_drops: int
    """Dropped schedules within the limits that are clearly better than the one returned."""
    worst_drops: int
    """The subset that was clearly better than the choice at the time of the drop."""
    seconds: float
    cost: float = math.nan
    """True B_total of a run of the choice."""
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    """(paid tokens, all tokens, regret in points) at each change of the choice."""


def show(runs: Sequence[Run], path: Path | None = None) -> None:
    """Print a table for each number of questions and trials, and write everything to `path`."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    tables = []
    for count, budget in sorted({(run.questions, run.trials) for run in runs}):
        group: dict[str, list[Run]] = {}
        for run in runs:
            if (run.questions, run.trials) == (count, budget):
                group.setdefault(run.method, []).append(run)
        rows = {name: summarise(of) for name, of in group.items()}
        if REFERENCE in rows:
            aim = rows[REFERENCE]["regret"][0]
            for name, row in rows.items():
                row["paid to TPE's regret"] = tokens_to(group[name], aim)
        console.print(_table(rows, count, budget))
        tables.append({"questions": count, "trials": budget, "methods": rows})
    write_json(path, tables, runs)


def write_json(path: Path | None, tables: Sequence[Any], runs: Sequence[Run]) -> None:
    """Write tables and runs as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(_plain({"tables": tables, "runs": [asdict(run) for run in runs]}), indent=1))


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Figures of one method over seeds, each as [value, low, high] with its 95 % interval."""
    dropped = sum(run.dropped for run in runs)
    row: dict[str, Any] = {
        "seeds": len(runs),
        "regret": _mean([run.regret for run in runs]),
        "optimism": _mean([run.optimism for run in runs]),
        "over": _share(sum(run.over for run in runs), len(runs)),
        "paid": _mean([run.paid for run in runs]),
        "full": _mean([run.full for run in runs]),
        "dropped": dropped,
        "false drops": _share(sum(run.false_drops for run in runs), dropped),
        "false drops when dropped": _share(sum(run.worst_drops for run in runs), dropped),
        "seconds": fmean(run.seconds for run in runs),
    }
    for distance in runs[0].reached:
        for place, name in enumerate(("paid", "full")):
            tokens = [run.reached[distance][place] for run in runs]
            row[f"{name} within {distance}"] = _median(tokens)
        row[f"share within {distance}"] = _share(sum(t < NEVER for t in tokens), len(runs))  # pyright: ignore
    return row


def tokens_to(runs: Sequence[Run], regret: float) -> float:
    """Paid tokens after which the mean regret over seeds is at most `regret`; infinite if it never is."""
    for tokens in sorted({paid for run in runs for paid, _, _ in run.curve}):
        if fmean(_regret_at(run, tokens) for run in runs) <= regret + 0.001:  # curves are rounded
            return float(tokens)
    return NEVER


def _regret_at(run: Run, tokens: int) -> float:
    before = [regret for paid, _, regret in run.curve if paid <= tokens]
    return before[-1] if before else max(regret for _, _, regret in run.curve)


def _mean(values: Sequence[float]) -> list[float]:
    interval = mean_interval(values)
    return [fmean(values), interval.low, interval.high]


def _share(count: int, of: int) -> list[float]:
    if not of:
        return [math.nan, math.nan, math.nan]
    interval = wilson(count, of)
    return [count / of, interval.low, interval.high]


def _median(values: Sequence[float]) -> list[float]:
    rng = random.Random(0)
    many = sorted(median(rng.choices(list(values), k=len(values))) for _ in range(1000))
    return [median(values), many[25], many[974]]


def _plain(value: Any) -> Any:
    """A JSON value, with null for infinity (never reached) and nan (no value)."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Mapping[str, dict[str, Any]], questions: int, trials: int) -> Table:
    seeds = max(row["seeds"] for row in rows.values())
    table = Table(
        "method",
        "regret, points",
        "optimism, points",
        "within 3 points: seeds, Mtok",
        "within 1 point: seeds, Mtok",
        "paid, Mtok",
        "every call, Mtok",
        "to TPE's regret, Mtok",
        "over limit",
        "false drops",
        "CPU s",
        title=f"{questions} questions, {trials} trials, {seeds} seeds, with 95 % intervals",
        show_lines=True,
    )
    for name, row in rows.items():
        table.add_row(
            name,
            _shown(row["regret"]),
            _shown(row["optimism"]),
            *(f"{row[f'share within {d}'][0]:.0%}, {_million(row[f'paid within {d}'])}" for d in ("3", "1")),
            _million(row["paid"]),
            _million(row["full"]),
            _tokens(row["paid to TPE's regret"]) if "paid to TPE's regret" in row else "-",
            f"{row['over'][0]:.0%}",
            f"{row['false drops'][0]:.1%}\nof {row['dropped']}" if row["dropped"] else "-",
            f"{row['seconds']:.1f}",
        )
    return table


def _shown(value: Sequence[float]) -> str:
    return f"{value[0]:.1f}\n({value[1]:.1f} to {value[2]:.1f})"


def _million(value: Sequence[float]) -> str:
    return f"{_tokens(value[0])}\n({_tokens(value[1])} to {_tokens(value[2])})"


def _tokens(value: float) -> str:
    return "never" if value == NEVER else f"{value / 1e6:.2f}"
