"""What goes into a sandbox, and what comes out of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pdr_dspy.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What one program may use. It is killed, with all that it started, where it exceeds one of them."""

    seconds: float = 5.0
    """Wall time of the program with all its tests; its processor time is held to it too."""
    memory: int = 256
    """MB beside the interpreter's own."""
    output: int = 256
    """KB that a program writes to its standard output; more ends it."""
    files: int = 16
    """MB that it may write, in a folder that ends with it."""
    threads: int = 16
    """Threads side by side. Processes of its own it may not start."""

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "output", "files", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ConfigError(f"`Limits({name}={value!r})` must be a number above 0")
            if name != "seconds" and value != int(value):
                raise ConfigError(f"`Limits({name}={value!r})` must be a whole number")


DEFAULT_LIMITS = Limits()
SIDE_BY_SIDE = max(1, os.cpu_count() or 1)
"""Programs that run at the same time on one event loop; the others wait, and their time does not run."""


@dataclass(frozen=True)
class Case:
    """One test: Python statements.

    With `want`, the value of the last statement (or what it printed) is compared with that text, as in a docstring;
    otherwise the case passes when it raises nothing. A function `check` that it only defines is called with the
    program's function; so are functions `test_...` and unittest's cases.
    """

    source: str
    want: str | None = None


@dataclass(frozen=True)
class Stdin:
    """One test of a program that reads its standard input: what it is given, and what it has to write."""

    given: str
    want: str


@dataclass(frozen=True)
class Job:
    """A program and its tests."""

    programs: tuple[str, ...]
    """Texts, the likeliest first; the first that is Python and defines `entry` is the program."""
    cases: tuple[Case, ...] | tuple[Stdin, ...]
    entry: str | None = None
    """The function, the class or the method (`Solution.solve`) that the tests know as `candidate`."""
    given: tuple[str, ...] = ()
    """Texts of the task whose whole functions and imports the tests may use, such as HumanEval's prompt."""
    setup: tuple[str, ...] = ()
    """Statements that run before the cases, beside them."""


@dataclass(frozen=True)
class Result:
    """How one case ended."""

    passed: bool
    got: str = ""
    """What came, as Python writes it; cut at 2,000 characters. The program's own words: quote them."""
    want: str = ""
    error: str = ""
    """What was raised, or why the case did not end."""
    line: str = ""
    """The line of the tests at which it went wrong."""

    @property
    def reached(self) -> bool:
        """Whether the case ran at all."""
        return self.passed or bool(self.got or self.error)


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    results: tuple[Result, ...]
    """One for each case, in order."""
    failure: str = ""
    """Why the cases did not all run, where they did not: the program is no Python, was stopped, ended by itself."""
    isolation: str = ""
    """What it ran in: "monty" or "bubblewrap"."""
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return sum(result.passed for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether every case passed."""
        return bool(self.results) and self.passed == len(self.results)


class TestsBroken(Exception):
    """The tests themselves are no Python."""

    __test__ = False


def failed(job: Job, failure: str, isolation: str, results: Any = ()) -> Outcome:
    """The outcome of a job whose remaining cases did not run."""
    there = tuple(results)
    missing = tuple(Result(False) for _ in range(len(job.cases) - len(there)))
    return Outcome(there + missing, failure, isolation)
