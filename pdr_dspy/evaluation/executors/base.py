"""What an executor is, and the one that runs rows in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import dspy

from pdr_dspy.calls.budget import Budget
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.evaluation.texts import RowTexts
from pdr_dspy.verifiers.base import Verifier

OnTexts = Callable[[RowTexts], None]


class Rows(Protocol):
    """The rows of one program under one verifier. `Runner` is one, in this process."""

    misconfigured: ConfigError | None
    """The first sentence about a program that cannot run on an example."""
    refused: set[tuple[str, int]]
    """(id, repeat) of such rows."""

    async def row(self, example: dspy.Example, name: str, repeat: int) -> Row:
        """Run one example once; see `Runner.row`. Raises StoreError; ExecutorError where nothing can run it."""
        ...

    async def settle(self) -> None:
        """Return when the calls of all rows would outlive the machines that made them."""
        ...

    def close(self) -> None:
        """Let go of the program."""
        ...


class Executor(Protocol):
    """Runs rows."""

    def rows(
        self,
        program: dspy.Module,
        verifier: Verifier,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        threads: int = 64,
        on_texts: OnTexts | None = None,
        in_flight: int = 64,
        sharing: bool = False,
    ) -> Rows:
        """The rows of a program, to be run where the executor runs them, and kept in the store of the session.

        Args:
            program: an operator, or any DSPy module.
            verifier: gives a score in [0, 1].
            seed: the evaluation's seed.
            budget: limits, in tokens, on each run of an operator.
            threads: most synchronous programs and verifiers that run side by side in one process.
            on_texts: given the texts of each run, before its row is returned.
            in_flight: most requests of one process that are on the wire at one time. For rows in this process the
                session says it.
            sharing: other rows ask for some of the same calls: each looks for what was made elsewhere before it
                begins, and its own calls are on the disk when it ends.
        """
        ...

    def side_by_side(self, rows: int) -> int:
        """How many rows are to be under way at one time, where `rows` keep one process busy."""
        ...


class Local:
    """Runs rows in this process, which keeps some thousand calls in flight."""

    def rows(
        self,
        program: dspy.Module,
        verifier: Verifier,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        threads: int = 64,
        on_texts: OnTexts | None = None,
        in_flight: int = 64,
        sharing: bool = False,
    ) -> Rows:
        """See `Executor`. The session's bound on requests in flight holds."""
        del in_flight, sharing
        return Runner(program, verifier, seed=seed, budget=budget, threads=threads, on_texts=on_texts)

    def side_by_side(self, rows: int) -> int:
        """See `Executor`."""
        return rows
