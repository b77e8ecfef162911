"""The protocol of executors, and the executor that runs rows in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import dspy

from pdr_dspy.calls.budget import Budget
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.evaluation.texts import RowTexts
from pdr_dspy.verifiers.base import Verifier

OnTexts = Callable[[RowTexts], None]


@dataclass(frozen=True)
class RowSettings:
    """How the rows of one program are run, wherever they are."""

    seed: int = 0
    """The evaluation's seed."""
    budget: Budget | None = None
    """Limits, in tokens, on each run of an operator."""
    threads: int = 64
    """Maximum of synchronous programs and verifiers that run concurrently in one process."""
    in_flight: int = 64
    """Maximum requests in flight of each process of a cluster. For rows in this process the session determines it."""
    sharing: bool = False
    """Whether other rows make some of the same calls. In a cluster, each row then reads calls made elsewhere before it
    begins, and its own calls are on the disk when it ends."""


DEFAULT = RowSettings()


class Rows(Protocol):
    """The rows of one program under one verifier. `Runner` implements it in this process."""

    misconfigured: ConfigError | None
    """The first error of a program that cannot run on an example."""
    refused: set[tuple[str, int]]
    """(id, repeat) of such rows."""

    async def row(self, example: dspy.Example, name: str, repeat: int) -> Row:
        """Run one example once; see `Runner.row`. Raises StoreError; ExecutorError if no process can run it."""
        ...

    async def settle(self) -> None:
        """Return when the calls of all rows would survive a crash of the machines that made them."""
        ...

    def close(self) -> None:
        """Release the program."""
        ...


class Executor(Protocol):
    """Runs rows."""

    def rows(
        self,
        program: dspy.Module,
        verifier: Verifier,
        settings: RowSettings = DEFAULT,
        *,
        on_texts: OnTexts | None = None,
    ) -> Rows:
        """The rows of a program, run where the executor runs them; their calls are kept in the session's store.

        Args:
            program: an operator, or any DSPy module.
            verifier: returns a score in [0, 1].
            settings: the same for all of these rows.
            on_texts: called with the texts of each run, before its row is returned.
        """
        ...

    def side_by_side(self, rows: int) -> int:
        """How many rows should run at a time, if `rows` keep one process busy."""
        ...


class Local:
    """Runs rows in this process, which keeps some thousand calls in flight."""

    def rows(
        self,
        program: dspy.Module,
        verifier: Verifier,
        settings: RowSettings = DEFAULT,
        *,
        on_texts: OnTexts | None = None,
    ) -> Rows:
        """See `Executor`. The session's bound on requests in flight holds."""
        seed, budget, threads = settings.seed, settings.budget, settings.threads
        return Runner(program, verifier, seed=seed, budget=budget, threads=threads, on_texts=on_texts)

    def side_by_side(self, rows: int) -> int:
        """See `Executor`."""
        return rows
