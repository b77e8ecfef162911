"""The verdicts of who saw the gold answer, as a chat data set whose prompts are without it (`hindsight`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.failures import CallError
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import event_loop
from pdr_dspy.training.export_sft import Exported
from pdr_dspy.training.hindsight import Labels, Turn, Ungraded, exported, operator_of, tells
from pdr_dspy.training.replay import NAMED_MODELS, WHOLE_ROUNDS, Replayed
from pdr_dspy.verifiers import Metric, Score, Verifier, as_verifier
from pdr_dspy.verifiers.checks import AsyncCheck, CalibratedCheck, JudgeCheck
from pdr_dspy.verifiers.words import weights_of


def export_verdicts(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    teacher: dspy.LM | None = None,
) -> Exported:
    """The calls of the `JudgeCheck` of `program` on the first-round drafts of an evaluation, with the verdicts of who
    saw the gold: Yes for a right draft and No for a wrong one.

    The mix of right and wrong drafts is left as it came, so that the learnt probabilities are those of the task.
    Arguments and errors are those of `export_picks`; the program needs a `JudgeCheck`.
    """
    operator = operator_of(program, "export_verdicts")
    return exported(run_dir, examples, _Verdicts(operator, as_verifier(verifier), teacher))


class _Verdicts:
    """Makes the turns of a judge."""

    kind: Literal["verdict"] = "verdict"

    def __init__(self, program: Operator, verifier: Verifier, teacher: dspy.LM | None) -> None:
        self.labels = Labels(program, verifier)
        self.teacher = teacher
        name, self.judge = _judge_of(program)
        self.shown = _Shown(self.judge.reads_solution)
        first = program.schedule.widths[0]
        one = {**WHOLE_ROUNDS, "keep": False, "distiller": "summary"}
        final = {"final": "vote" if first > 1 else "refine", "critique": False, "check": name}
        self.program = program.with_schedule(program.schedule.replace(widths=(first,), **one, **final, **NAMED_MODELS))
        self.program.checks = dict[str, AsyncCheck]({name: self.shown})

    def begin(self) -> None:
        """Forget what was shown before."""
        self.shown.seen = []

    def turns(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[Turn]:
        """The verdicts on the drafts of a row."""
        drafts = replayed.round.drafts
        answered = sum(draft.complete(self.labels.fields) for draft in drafts)
        yield from [Turn([], None, "no_answer")] * (len(drafts) - answered)
        yield from [Turn([], None, "duplicates")] * (answered - len(self.shown.seen))  # equal answers are shown once
        for inputs, outputs in self.shown.seen:
            messages = self.judge.messages(inputs, outputs)
            answer = {name: value for name, value in outputs.items() if name in self.labels.fields}
            if messages is None:
                yield Turn([], None, "no_answer")
                continue
            try:
                right = self.labels.is_right(example, answer)
            except Ungraded as error:
                self.labels.say(error)
                yield Turn([], None, "ungraded")
                continue
            turn = Turn([], "Yes" if right else "No")
            if self.teacher is not None:
                turn = self._taught(example, inputs, outputs, right)
            yield turn._replace(messages=messages)

    def _taught(
        self, example: dspy.Example, inputs: Mapping[str, Any], outputs: Mapping[str, Any], right: bool
    ) -> Turn:
        """The teacher's verdict."""
        gold = self.labels.gold(example)
        messages = self.judge.messages(inputs, outputs, reference=gold)
        assert self.teacher is not None
        assert messages is not None
        lm, cap, words = self.teacher, self.judge.max_tokens, ("Yes", "No")

        def read(logprobs: Any, text: str) -> Any:
            return {"yes": weights_of(logprobs, text, words)["Yes"], "text": text}

        try:
            given = event_loop.run(lambda: calls.weigh(lm, messages, read, cap=cap, words=words))
        except CallError:
            return Turn([], None, "failed")
        text = str(given.value["text"]).strip() if cap > 1 else ("Yes" if right else "No")
        if (given.value["yes"] >= 0.5) != right:
            return Turn([], None, "disagreed")
        if tells(text, gold, str(inputs) + str(outputs)):
            return Turn([], None, "leaked")
        return Turn([], text)


class _Shown:
    """Stands in for a check and keeps what it is shown."""

    def __init__(self, reads_solution: bool) -> None:
        self.reads_solution = reads_solution
        self.seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        self.seen.append((dict(inputs), dict(outputs)))
        return Score(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shown:
        return self


def _judge_of(program: Operator) -> tuple[str, JudgeCheck]:
    """The program's JudgeCheck, that of its schedule first, and its name."""
    names = sorted(program.checks, key=lambda name: name != program.schedule.check)
    for name in names:
        check = program.checks[name]
        check = check.base if isinstance(check, CalibratedCheck) else check
        if isinstance(check, JudgeCheck):
            return name, check
    raise ConfigError(
        f"`export_verdicts(program=...)` needs a program with a JudgeCheck, whose verdicts are learnt; it has the "
        f"checks {', '.join(names) or 'none'}: `PDR(..., check=JudgeCheck())`"
    )
