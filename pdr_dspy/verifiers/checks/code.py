"""Running programs in a sandbox with the examples of their task."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.errors import DataError
from pdr_dspy.text.code import programs
from pdr_dspy.text.task_examples import CodeExample, code_examples
from pdr_dspy.verifiers import sandbox
from pdr_dspy.verifiers.arguments import check_whole_numbers
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import FEEDBACK_TOKENS, SyncForm, bounded, one_line
from pdr_dspy.verifiers.code import as_limits, check_isolation, completion_of
from pdr_dspy.verifiers.code_tests import NoEntry, begun, cases_of, tests_something
from pdr_dspy.verifiers.fields import as_text, short
from pdr_dspy.verifiers.sandbox import DEFAULT_LIMITS, Case, Isolation, Job, Limits, Outcome, Stdin, TestsBroken

_SHOWN = 3


@explained
@dataclass(frozen=True)
class CodeCheck(SyncForm):
    """Scores a program by the fraction of its task's examples that it passes.

    Feedback names the failing examples with their expected and actual results. The examples are those in the task's
    text (see `text.task_examples.code_examples`), or tests in a separate input field; a task without unambiguous
    examples raises DataError: its drafts are unchecked, not wrong.

    An example passes as in doctest, if the value's `repr` is the text, or if the value equals that literal. So an
    object that only prints as the answer passes too: tasks with classes are written that way (`>>> Stack([1, 2])` and
    `[1, 2]`). The equality of values is what CodeVerifier's tests assert.
    """

    time_limit: ClassVar[float | None] = None  # the limits of the sandbox hold
    prompt: str = "prompt"
    """The input with the task."""
    field: str = "code"
    """The output with the program."""
    entry_point: str | None = None
    """The input with the function's name; None: the last function that the task begins, or the one that its tests
    call."""
    tests: str | None = None
    """The input with public tests, in one of the forms of CodeVerifier; None: the examples in the task's text. A text
    is one test."""
    limits: Limits = DEFAULT_LIMITS
    isolation: Isolation = "auto"
    feedback_tokens: int = FEEDBACK_TOKENS

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", as_limits(type(self).__name__, self.limits))
        check_isolation(type(self).__name__, self.isolation)
        check_whole_numbers(self, "feedback_tokens")

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The fraction of the examples that pass; cancelling the call kills the program.

        Raises DataError if the task has no usable example, NoSandbox if no sandbox is available.
        """
        prompt, entry, cases = self.read(inputs)
        completion = completion_of(outputs.get(self.field))
        if completion is None or not completion.strip():
            return Score(0, "no answer", feedback="There is no program.")
        job = Job(programs(completion, prompt, entry), cases, entry, (prompt,))
        if not job.programs:
            return Score(0, "no program in the answer", feedback="There is no program.")
        try:
            outcome = await sandbox.run(job, self.limits, self.isolation)
        except TestsBroken as error:
            raise DataError(f"the examples of {short(prompt)} are not Python: {error}") from error
        return _score(job, outcome, self.feedback_tokens)

    def read(self, inputs: Mapping[str, Any]) -> tuple[str, str | None, tuple[Case, ...] | tuple[Stdin, ...]]:
        """The task, the name of its function, and the cases to run. Raises DataError."""
        prompt = as_text(inputs.get(self.prompt)) or ""
        entry = as_text(inputs.get(self.entry_point)) if self.entry_point else None
        if self.tests is not None:
            tests = inputs.get(self.tests)
            if tests is None or (hasattr(tests, "__len__") and not len(tests)):
                raise DataError(f"there are no public tests in the input {self.tests!r}")
            try:
                cases, entry = cases_of(tests, entry, prompt)
            except NoEntry as error:
                raise DataError(
                    f"the tests in the input {self.tests!r} name no function: {error}; begin it in the input "
                    f"{self.prompt!r}, or give its name in an input and that input's in `CodeCheck(entry_point=...)`"
                ) from error
            except ValueError as error:
                raise DataError(f"the tests in the input {self.tests!r} cannot be read: {error}") from error
            return prompt, entry, cases
        entry = entry or begun(prompt)
        examples = code_examples(prompt, entry)
        if not any(example.want is not None for example in examples):
            raise DataError(f"the task {short(prompt)} has no example that can be read with certainty")
        if entry is None:
            with suppress(ValueError):  # without a name the examples find their function in the program
                _, entry = cases_of([example.source for example in examples], None)
        return prompt, entry, tuple(_case(example) for example in examples)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        return {"kind": type(self).__name__, **asdict(self)}


def usable_examples(prompt: str, entry: str | None = None) -> int:
    """The number of unambiguous examples in a task's text."""
    return sum(example.want is not None for example in code_examples(prompt, entry))


def _case(example: CodeExample) -> Case:
    return Case(example.source, example.want or None)


def _score(job: Job, outcome: Outcome, tokens: int) -> Score:
    ran = list(zip(job.cases, outcome.results, strict=True))
    # A statement that only prepares the next one is not counted, unless there is no other.
    counted = [
        (case, result)
        for case, result in ran
        if isinstance(case, Stdin) or case.want is not None or tests_something(case.source)
    ] or ran
    wrong = [(case, result) for case, result in counted if not result.passed]
    passed = len(counted) - len(wrong)
    value = passed / len(counted)
    detail = f"passes {passed} of {len(counted)} examples"
    if not wrong:
        return Score(1, detail)
    lines = [f"The program {detail}."]
    if outcome.failure:
        lines.append(f"It was stopped or could not run: {one_line(outcome.failure)}")
    for case, result in [pair for pair in wrong if pair[1].reached][:_SHOWN]:
        lines.append(f"Failing: {one_line(case.given if isinstance(case, Stdin) else case.source)}")
        want = result.want or (case.want or "")
        if want:
            lines.append(f"  expected: {one_line(want)}")
        if result.error:
            lines.append(f"  raised: {one_line(result.error)}")
        else:
            lines.append(f"  got: {one_line(result.got) if result.got else 'nothing'}")
    return Score(
        value,
        f"{detail}: {short(outcome.failure, 120)}" if outcome.failure else detail,
        feedback=bounded(lines, tokens),
    )
