"""The reward of a call: +1 or -1 by any verifier of the library, and process rewards of drafts and workspaces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.operators.workspace import Draft, Workspace
from pdr_dspy.settings import is_number

REWARD, PENALTY = 1.0, -1.0
"""The rewards of a right and of a wrong answer."""


class Verdict(NamedTuple):
    """The verifier's verdict on one answer."""

    reward: float | None
    """+1 or -1; None when the verifier failed."""
    detail: str

    @property
    def right(self) -> bool:
        """Whether the answer was accepted."""
        return self.reward == REWARD


class Grader:
    """Grades answers to one question, each distinct answer once."""

    def __init__(self, runner: Runner, example: dspy.Example, fields: Sequence[str], threshold: float = 0.5) -> None:
        """
        Args:
            runner: the runner of the verifier, which may be a judge.
            example: the question with its gold fields.
            fields: the task's output fields.
            threshold: the lowest score, in (0, 1], that counts as right.
        """
        self.runner = runner
        self.example = example
        self.fields = tuple(fields)
        self.threshold = threshold
        self.failures = 0
        """Answers that the verifier could not grade."""
        self._known: dict[str, Verdict] = {}

    async def grade(self, outputs: Mapping[str, Any]) -> Verdict:
        """The verdict on a call's own output fields; a call without output fields is wrong.

        Raises ConfigError when the verifier cannot work at all. Any other error counts as a failure, without a reward.
        """
        if all(outputs.get(name) is None for name in self.fields):
            return Verdict(PENALTY, "no answer")
        key = repr([outputs.get(name) for name in self.fields])
        if key not in self._known:
            self._known[key] = await self._ask(outputs)
        if self._known[key].reward is None:
            self.failures += 1
        return self._known[key]

    async def _ask(self, outputs: Mapping[str, Any]) -> Verdict:
        prediction = dspy.Prediction(**{name: outputs.get(name) for name in self.fields})
        try:
            score = await self.runner.grade(self.example, prediction)
        except ConfigError:
            raise
        except Exception as error:  # a user's verifier may raise anything
            return Verdict(None, f"{type(error).__name__}: {error}")
        return Verdict(REWARD if score >= self.threshold else PENALTY, score.detail)


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold outside of (0, 1]."""
    if not is_number(threshold) or not 0 < threshold <= 1:
        raise ConfigError(
            f"`threshold={threshold!r}` must be in (0, 1]: the lowest score of the verifier that counts as right"
        )


def workspace_reward(
    drafts: Sequence[Draft], right: Sequence[bool], workspace: Workspace, *, fields: Sequence[str], chosen: bool
) -> float | None:
    """The process reward of the distill or select call that wrote a workspace.

    +1 when one of the drafts had a right answer and the workspace still has one, -1 when the workspace lost it. None
    when no draft was right: the final answer then depends more on the drafts than on this call.

    Args:
        drafts: all of the round.
        right: whether each draft's own answer is right.
        workspace: the workspace that was distilled from them.
        fields: the task's output fields, whose values are searched in the text. An unrelated number in the workspace
            that equals the answer counts as the answer.
        chosen: whether the workspace holds verbatim solutions; then a right one must be among them.
    """
    kept = [draft for draft, own in zip(drafts, right, strict=True) if own]
    if not kept:
        return None
    if chosen:
        kept = [draft for draft in kept if draft.index in workspace.sources]
    text = _model_text(workspace.text)
    found = any(
        all(draft.outputs.get(name) is None or _contains(text, str(draft.outputs[name])) for name in fields)
        for draft in kept
    )
    return REWARD if found else PENALTY


_NOT_WRITTEN = re.compile(r"\AAnswers of all attempts: .*$|^Candidate \d+(?: \(unfinished\))?:", re.MULTILINE)
"""The parts of a workspace that the library writes: its tally, and the headings of its candidates."""


def _model_text(text: str) -> str:
    return " ".join(_NOT_WRITTEN.sub(" ", text).split()).casefold()


def _contains(text: str, answer: str) -> bool:
    """Whether a text contains an answer as a separate word or number."""
    wanted = " ".join(answer.split()).casefold()
    return bool(wanted) and re.search(rf"(?<![\w.]){re.escape(wanted)}(?!\w|\.\d)", text) is not None
