"""The inputs and outputs of a sandbox."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.settings import is_number


@dataclass(frozen=True)
class Limits:
    """The resource limits of one program. A program that exceeds one is killed with its children."""

    seconds: float = 5.0
    """Wall time, and likewise processor time, of the program with all its tests."""
    memory: int = 256
    """MB of memory beside the interpreter's own."""
    output: int = 256
    """KB that the program may write to its standard output."""
    files: int = 16
    """MB that it may write to its temporary folder."""
    threads: int = 16
    """Concurrent threads. It may not start processes."""

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "output", "files", "threads"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < float("inf"):
                raise ConfigError(f"`Limits({name}={value!r})` must be a number above 0")
            if name != "seconds" and value != int(value):
                raise ConfigError(f"`Limits({name}={value!r})` must be a whole number")


DEFAULT_LIMITS = Limits()
SIDE_BY_SIDE = max(1, os.cpu_count() or 1)
"""Concurrent programs of one event loop; the time of a waiting program does not run."""


@dataclass(frozen=True)
class Case:
    """One test: Python statements.

    With `want`, the value of the last statement (or its printed output) is compared with that text, as in a doctest;
    otherwise the case passes if it raises nothing. If it only defines a function `check`, that is called with the
    program's function; functions `test_...` and unittest's cases are called, too.
    """

    source: str
    want: str | None = None


@dataclass(frozen=True)
class Stdin:
    """One test of a program that reads its standard input: the input, and the expected output."""

    given: str
    want: str


@dataclass(frozen=True)
class Job:
    """A program and its tests."""

    programs: tuple[str, ...]
    """Candidate texts, the likeliest first; the first that is Python and defines `entry` is the program."""
    cases: tuple[Case, ...] | tuple[Stdin, ...]
    entry: str | None = None
    """The function, the class or the method (`Solution.solve`) that is `candidate` in the tests."""
    given: tuple[str, ...] = ()
    """Texts of the task whose complete functions and imports the tests may use, such as HumanEval's prompt."""
    setup: tuple[str, ...] = ()
    """Statements that run before the cases, in the same process."""


@dataclass(frozen=True)
class Result:
    """The result of one case."""

    passed: bool
    got: str = ""
    """The actual value as Python writes it, cut at 2,000 characters. Untrusted text of the program: quote it."""
    want: str = ""
    error: str = ""
    """The exception, or the reason why the case did not end."""
    line: str = ""
    """The line of the tests that failed."""

    @property
    def reached(self) -> bool:
        """Whether the case ran at all."""
        return self.passed or bool(self.got or self.error)


@dataclass(frozen=True)
class Outcome:
    """The result of a program."""

    results: tuple[Result, ...]
    """One result for each case, in order."""
    failure: str = ""
    """The reason why not all cases ran: the program is not Python, was stopped, or ended by itself; else empty."""
    isolation: str = ""
    """The sandbox: "monty" or "bubblewrap"."""
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return sum(result.passed for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether every case passed."""
        return bool(self.results) and self.passed == len(self.results)


class TestsBroken(Exception):
    """The tests themselves are not Python."""

    __test__ = False


def failed(job: Job, failure: str, isolation: str, results: Any = ()) -> Outcome:
    """The outcome of a job whose remaining cases did not run."""
    finished = tuple(results)
    missing = tuple(Result(False) for _ in range(len(job.cases) - len(finished)))
    return Outcome(finished + missing, failure, isolation)
