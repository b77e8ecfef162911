"""What a call earns: +1 or -1 by any verifier of the library, and the process rewards of drafts and workspaces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.operators.workspace import Draft, Workspace

REWARD, PENALTY = 1.0, -1.0
"""What a right answer earns, and a wrong one."""


class Verdict(NamedTuple):
    """What the verifier said of one answer."""

    reward: float | None
    """+1 or -1; None when the verifier failed."""
    detail: str

    @property
    def right(self) -> bool:
        """Whether the answer was accepted."""
        return self.reward == REWARD


class Grader:
    """Grades answers to one question, each different answer once."""

    def __init__(self, runner: Runner, example: dspy.Example, fields: Sequence[str], threshold: float = 0.5) -> None:
        """
        Args:
            runner: of the verifier, a judge included.
            example: the question with its gold fields.
            fields: the task's output fields.
            threshold: the least score, in (0, 1], that counts as right.
        """
        self.runner = runner
        self.example = example
        self.fields = tuple(fields)
        self.threshold = threshold
        self.failures = 0
        """Answers that the verifier could not grade."""
        self._known: dict[str, Verdict] = {}

    async def grade(self, outputs: Mapping[str, Any]) -> Verdict:
        """The verdict on a call's own output fields; a call without any is wrong.

        Raises ConfigError when the verifier cannot work at all. Whatever else it raises is a failure: it is counted,
        and rewarded with nothing.
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
        except Exception as error:  # a verifier of the user's, or one poisonous answer
            return Verdict(None, f"{type(error).__name__}: {error}")
        return Verdict(REWARD if score >= self.threshold else PENALTY, score.detail)


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold outside of (0, 1]."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ConfigError(
            f"`threshold={threshold!r}` must be in (0, 1]: the least score of the verifier that counts as right"
        )


def workspace_reward(
    drafts: Sequence[Draft], right: Sequence[bool], workspace: Workspace, *, fields: Sequence[str], chosen: bool
) -> float | None:
    """The process reward of the distill or select call that wrote a workspace.

    +1 when one of the drafts had a right answer and the workspace still has one, -1 when it was lost. None when no
    draft was right: there was nothing to keep, and the final answer says more about the drafts than about this call.

    Args:
        drafts: all of the round.
        right: whether each has a right answer of its own.
        workspace: what came of them.
        fields: the task's output fields, which are looked for as texts. A number that stands in the workspace for
            another reason is taken for the answer.
        chosen: whether the workspace holds solutions as they are; then one of the right ones must be among them.
    """
    kept = [draft for draft, own in zip(drafts, right, strict=True) if own]
    if not kept:
        return None
    if chosen:
        kept = [draft for draft in kept if draft.index in workspace.sources]
    text = _told(workspace.text)
    found = any(
        all(draft.outputs.get(name) is None or _stands(str(draft.outputs[name]), text) for name in fields)
        for draft in kept
    )
    return REWARD if found else PENALTY


_NOT_WRITTEN = re.compile(r"\AAnswers of all attempts: .*$|^Candidate \d+(?: \(unfinished\))?:", re.MULTILINE)
"""The parts of a workspace that no model wrote: its tally, and the headings of its candidates."""


def _told(text: str) -> str:
    return " ".join(_NOT_WRITTEN.sub(" ", text).split()).casefold()


def _stands(answer: str, text: str) -> bool:
    """Whether an answer stands in a text as a word, or a number, of its own."""
    wanted = " ".join(answer.split()).casefold()
    return bool(wanted) and re.search(rf"(?<![\w.]){re.escape(wanted)}(?!\w|\.\d)", text) is not None
