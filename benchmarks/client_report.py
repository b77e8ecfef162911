"""The rows of `benchmarks.client`, and the tables that it prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """The figures of one client on one workload; None for a figure that does not exist."""

    client: str
    about: str
    """The client's task."""
    workload: str
    load: float
    """The machine's one-minute load before the run."""
    questions: int
    needed: int
    """Completions that its plan needs."""
    useful: int
    """Completions that could be in flight at once."""
    stopped: str = ""
    """The reason for missing figures."""
    startup: float | None = None
    """Wall seconds from the start of the process to its first answer."""
    startup_cpu: float | None = None
    wall: float | None = None
    path: float | None = None
    """Seconds of the critical path."""
    cpu_ms: float | None = None
    """Milliseconds of CPU for each needed completion."""
    memory: int | None = None
    """Bytes that the run added at its peak."""
    peak_memory: int | None = None
    """Bytes of the whole process at its peak."""
    reported: int | None = None
    """Tokens, as the client counts them."""
    done: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    """The server's."""
    profile: dict[str, Any] | None = None

    @property
    def ratio(self) -> float | None:
        """Makespan over the critical path."""
        return self.wall / self.path if self.wall is not None and self.path else None

    @property
    def served(self) -> int:
        """Tokens of the answers that the server gave in full."""
        return self.counters.get("prompt_tokens", 0) + self.counters.get("completion_tokens", 0)

    @property
    def truth(self) -> float | None:
        """Tokens reported over tokens served."""
        return self.reported / self.served if self.reported is not None and self.served else None

    @property
    def hits(self) -> float | None:
        """Share of prefix blocks that an earlier prompt had."""
        return self.counters["block_hits"] / self.counters["blocks"] if self.counters.get("blocks") else None


@dataclass(frozen=True)
class Aim:
    """A target for a figure of this client."""

    about: str
    goal: str
    reach: Callable[[Callable[[str, str], Row | None]], float | None]
    """(the row of a client and a workload) -> the figure; None if it was not run."""
    met: Callable[[float], bool]


def show(console: Console, rows: Sequence[Row], aims: Sequence[Aim] = ()) -> None:
    """Print a table for each workload, one of start-up, and the targets with the measured figures."""
    for workload in dict.fromkeys(row.workload for row in rows):
        console.print(_workload(workload, [row for row in rows if row.workload == workload]))
    console.print(_startup(rows))
    if aims:
        console.print(_aims(rows, aims))


def show_profile(console: Console, row: Row) -> None:
    """Print the CPU profile of a run, in milliseconds for each call."""
    if row.profile is None or row.cpu_ms is None:
        console.print(f"{row.client}: {row.stopped or 'no profile'}")
        return
    samples = row.profile["samples"]
    title = f"{row.client}, {row.workload}: {row.cpu_ms:.2f} ms of CPU a call, {samples} samples"
    for kind in ("groups", "functions"):
        table = Table(kind[:-1], "share", "ms a call", title=title if kind == "groups" else "the dearest functions")
        for name, share in row.profile[kind].items():
            table.add_row(name, f"{share:.1%}", f"{share * row.cpu_ms:.3f}")
        console.print(table)


def _workload(title: str, rows: Sequence[Row]) -> Table:
    notes = []
    table = Table(
        *("client", "runs", "makespan, s", "over path", "CPU, ms a call", "peak in flight", "kB each", "connections"),
        *("requests", "other requests", "tokens", "block hits", "answered"),
        title=title,
        title_justify="left",
        caption_justify="left",
    )
    for row in rows:
        if row.stopped:
            notes.append(f"{row.client}: {row.stopped}")
            table.add_row(row.client, row.about, "stopped")
            continue
        if row.failures:
            notes.append(f"{row.client}: " + ", ".join(f"{count} {name}" for name, count in row.failures.items()))
        peak = row.counters["peak_completions"]
        each = row.memory / 1024 / peak if row.memory is not None and peak else None
        table.add_row(
            row.client,
            row.about,
            _shown(row.wall),
            _shown(row.ratio, "{:.3f}"),
            _shown(row.cpu_ms),
            f"{peak} of {row.useful}",
            _shown(each, "{:.0f}"),
            str(row.counters["connections"]),
            f"{row.counters['requests']} for {row.needed}",
            str(row.counters["tokenized"] + row.counters["others"]),
            "none" if row.reported is None else _shown(row.truth, "{:.3f}"),
            _shown(row.hits, "{:.0%}"),
            f"{row.done} of {row.questions}",
        )
    table.caption = "\n".join(notes) or None
    return table


def _startup(rows: Sequence[Row]) -> Table:
    table = Table(
        "client", "start-up, s", "its CPU, s", title="From the start of a process to its first answer, medians"
    )
    for client in dict.fromkeys(row.client for row in rows):
        own = [row for row in rows if row.client == client and row.startup is not None]
        if own:
            wall, cpu = (median(getattr(row, name) or 0.0 for row in own) for name in ("startup", "startup_cpu"))
            table.add_row(client, f"{wall:.1f}", f"{cpu:.1f}")
    return table


def _aims(rows: Sequence[Row], aims: Sequence[Aim]) -> Table:
    found = {(row.client, row.workload): row for row in rows if not row.stopped}
    table = Table("figure", "aim", "reached", "", title="Aims")
    for aim in aims:
        value = aim.reach(lambda client, workload: found.get((client, workload)))
        if value is None:
            table.add_row(aim.about, aim.goal, "-", "not run")
        else:
            table.add_row(aim.about, aim.goal, f"{value:.3f}", "met" if aim.met(value) else "missed")
    return table


def _shown(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)
