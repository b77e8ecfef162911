"""Running programs in a sandbox with hidden tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.runtime.event_loop import run as run_async
from pdr_dspy.text.code import programs
from pdr_dspy.verifiers import sandbox
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.code_tests import NoEntry, cases_of
from pdr_dspy.verifiers.fields import Fields, as_text, called, lookup, short
from pdr_dspy.verifiers.sandbox import DEFAULT_LIMITS, Case, Isolation, Job, Limits, Outcome, Stdin, TestsBroken

if TYPE_CHECKING:
    import dspy


@explained
@dataclass(frozen=True)
class CodeVerifier(Fields):
    """Scores a program by hidden tests: 1 if all of them pass, else 0.

    The tests are a text that defines `check(candidate)` (HumanEval), statements, functions `test_...`, a list of
    assertions (MBPP), or a list of `{"input": ..., "output": ...}` for a program that reads its standard input; with
    `"testtype": "functional"` the inputs are the arguments of a method, one JSON value a line (LiveCodeBench).
    """

    gold: str = "test"
    """The example's field with the tests."""
    field: str = "code"
    """The prediction's field with the program; a fenced program, one that repeats the task's beginning, or only a body
    is accepted."""
    prompt: str = "prompt"
    """The example's field with the task; if it begins a Python file, its imports and complete functions are
    available."""
    entry_point: str = "entry_point"
    """The example's field with the name of the function; without one it is found in the tests, or it is the last
    function that the task begins."""
    setup: tuple[str, ...] = ("test_setup_code", "test_imports")
    """The example's fields with statements that the tests need; missing fields are ignored."""
    limits: Limits = DEFAULT_LIMITS
    isolation: Isolation = "auto"
    grades_drafts: ClassVar[bool] = True
    """Running tests costs no tokens, so evaluations grade every draft, which shows where runs lose right answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "setup", tuple(self.setup))
        object.__setattr__(self, "limits", as_limits(type(self).__name__, self.limits))
        check_isolation(type(self).__name__, self.isolation)

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return run_async(lambda: self.averify(example, prediction))

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        """`__call__` for async code; cancelling the call kills the program."""
        prompt, entry, cases, setup = self._read(example)
        completion = completion_of(lookup(prediction, self.field))
        if completion is None or not completion.strip():
            return Score(0, "no answer")
        job = Job(programs(completion, prompt, entry), cases, entry, (prompt,), setup)
        if not job.programs:
            return Score(0, "no program in the answer")
        try:
            outcome = await sandbox.run(job, self.limits, self.isolation)
        except TestsBroken as error:
            raise DataError(f"{called(example)}: the tests in {self.gold!r} are not Python: {error}") from error
        return Score(float(outcome.ok), summary_of(outcome))

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the example has no tests that can be read, or they name no function."""
        self._read(example)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        return {**super().describe(), "setup": list(self.setup), "limits": asdict(self.limits)}

    def _read(self, example: Any) -> tuple[str, str | None, tuple[Case, ...] | tuple[Stdin, ...], tuple[str, ...]]:
        tests = lookup(example, self.gold)
        if tests is None or (isinstance(tests, (str, Sequence)) and not len(tests)):
            raise DataError(f"{called(example)} has no tests in the field {self.gold!r}")
        entry = as_text(lookup(example, self.entry_point)) or None
        prompt = as_text(lookup(example, self.prompt)) or ""
        try:
            cases, entry = cases_of(tests, entry, prompt)
        except NoEntry as error:
            raise DataError(
                f"{called(example)}: the tests in {self.gold!r} name no function: {error}; give its name in the field "
                f"{self.entry_point!r}, or begin it in the field {self.prompt!r}"
            ) from error
        except ValueError as error:
            raise DataError(f"{called(example)}: the tests in {self.gold!r} cannot be read: {error}") from error
        setup = []
        for name in self.setup:
            given = lookup(example, name)
            lines = given if isinstance(given, (list, tuple)) else [given]
            setup += [str(line) for line in lines if line]
        return prompt, entry, cases, tuple(setup)


def completion_of(value: Any) -> str | None:
    """The text of a field's value that contains a program; for a `dspy.Code` its code."""
    held = getattr(value, "code", None)
    return held if isinstance(held, str) else as_text(value)


def as_limits(owner: str, limits: Any) -> Limits:
    """Limits from a value or from its `describe()`. Raises ConfigError."""
    if isinstance(limits, Mapping):
        known = [field.name for field in fields(Limits)]
        unknown = sorted(str(name) for name in limits if name not in known)
        if unknown:
            raise ConfigError(
                f"`{owner}(limits=...)`: Limits has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
            )
        limits = Limits(**limits)
    if not isinstance(limits, Limits):
        raise ConfigError(f"`{owner}(limits={limits!r})` must be `Limits(...)`")
    return limits


def check_isolation(owner: str, isolation: Any) -> None:
    """Raise ConfigError for an unknown sandbox."""
    if isolation not in ("auto", "monty", "bubblewrap"):
        raise ConfigError(f'`{owner}(isolation={isolation!r})` must be "auto", "monty" or "bubblewrap"')


def summary_of(outcome: Outcome) -> str:
    """A short sentence on how a program ended."""
    if outcome.ok:
        return f"passes all {len(outcome.results)} tests" if len(outcome.results) > 1 else "passes the tests"
    first = next((result for result in outcome.results if not result.passed and result.reached), None)
    ratio = f"passes {outcome.passed} of {len(outcome.results)}: " if len(outcome.results) > 1 else ""
    if first is None:
        return f"{ratio}{short(outcome.failure or 'the tests did not run', 160)}"
    where = f" at `{short(first.line, 80)}`" if first.line else ""
    what = first.error or f"{short(first.got)} where {short(first.want)} was expected"
    return f"{ratio}{short(what, 160)}{where}"
