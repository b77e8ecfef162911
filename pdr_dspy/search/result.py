"""What a search tells while it runs and when it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.artifact import save
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.files import write_whole
from pdr_dspy.search import pareto
from pdr_dspy.search.confirmation import Confirmation
from pdr_dspy.search.objective import TrialRecord, program_with
from pdr_dspy.search.pareto import Limits
from pdr_dspy.verifiers._base import Verifier


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands; given to the `progress` callback."""

    event: str
    """"started" or "finished" for a trial, "row" for each row of it, "confirming" and "confirmed" for a program on
    untouched questions, "done" at the end."""
    what: str
    """The schedule, in words."""
    trial: TrialRecord | None
    """The trial that ended, for "finished"."""
    best: TrialRecord | None
    """The best within the limits so far, with its interval."""
    rows: tuple[int, int]
    """Rows done and rows in all, of what runs now."""
    trials: int
    """Measured trials so far."""
    trials_left: int
    paid: int
    """Tokens spent by the search so far."""
    saved: int
    """Tokens that trials found in the store instead of paying for them."""
    seconds: float
    """Since `compile` was called."""
    seconds_left: float | None
    """An estimate from the trials that this process ran; None before the first."""


@dataclass(frozen=True)
class SearchResult:
    """Everything that a search found."""

    program: dspy.Module = field(repr=False)
    """What `compile` returned."""
    student: dspy.Module = field(repr=False)
    """As it was given."""
    trials: tuple[TrialRecord, ...]
    """In the order in which they were tried."""
    best: TrialRecord
    """The best trial within the limits; its score is what chose it, and so on the high side."""
    front: tuple[TrialRecord, ...]
    """Trials that no other beats in score and both costs, the cheapest first."""
    confirmation: Confirmation
    limits: Limits
    stopped: str
    """Why the search ended."""

    @property
    def paid(self) -> int:
        """Tokens that the trials and the confirmation cost."""
        confirmed = self.confirmation.winner.paid + self.confirmation.student.paid
        return sum(trial.paid for trial in self.trials) + confirmed

    @property
    def saved(self) -> int:
        """Tokens of trials that were found in the store."""
        return sum(trial.saved for trial in self.trials)

    def best_for(self, *, sequential: int | None = None, total: int | None = None) -> dspy.Module:
        """A program with the best schedule measured within other limits, in mean tokens of a run.

        Raises ConfigError, naming the least, when none is within them.
        """
        measured = [trial for trial in self.trials if trial.state == "measured"]
        chosen = pareto.best(measured, Limits(sequential, total))
        if chosen is None:
            least = min(trial.sequential for trial in measured), min(trial.total for trial in measured)
            raise ConfigError(
                f"`best_for(sequential={sequential}, total={total})`: no schedule is within it; the least that was "
                f"measured is {least[0]:.0f} sequential and {least[1]:.0f} total tokens"
            )
        return program_of(self.student, chosen)


def program_of(student: dspy.Module, trial: TrialRecord) -> dspy.Module:
    """A copy of the student as it ran in a trial."""
    return student.deepcopy() if trial.origin == "student" else program_with(student, trial.candidate)


def write(
    result: SearchResult,
    folder: Path,
    config: Mapping[str, Any],
    confirmed_in: str,
    *,
    verifier: Verifier,
    data: Mapping[str, Any],
) -> None:
    """`search.json` for the report and `best.json` to run. Raises StoreError when they cannot be written."""
    confirmation = result.confirmation
    facts = {
        "config": config,
        "trials": [json.loads(trial.model_dump_json(exclude={"profile"})) for trial in result.trials],
        "best": result.best.number,
        "front": [trial.number for trial in result.front],
        "stopped": result.stopped,
        "confirmation": {
            "kept": confirmation.kept,
            "verdict": confirmation.verdict,
            "untouched": confirmation.untouched,
            "difference": [confirmation.difference.difference, *confirmation.difference.interval],
            "folder": confirmed_in,
            "student": "student",
            "winner": "student" if result.best.origin == "student" else f"{result.best.number:04d}",
        },
    }
    path = folder / "search.json"
    try:
        write_whole(path, json.dumps(facts, indent=1))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    kept, others = confirmation.student, []
    if confirmation.kept == "winner":
        kept, others = confirmation.winner, [confirmation.student]
    save(
        result.program,
        folder / "best.json",
        verifier=verifier,
        data=data,
        figures=[kept, *others],
        notes=confirmation.verdict,
    )


ATTACHED = ("score", "candidate_programs", "trial_logs", "confirmation", "front")
"""What a compiled program carries beside its own attributes."""


def detached(student: dspy.Module) -> dspy.Module:
    """A copy without what an earlier search attached, which every trial would copy again."""
    own = student.deepcopy()
    if "candidate_programs" in vars(own):
        for name in ATTACHED:
            if name in vars(own) and not _is_part(own, name):
                delattr(own, name)
    return own


def _is_part(program: dspy.Module, name: str) -> bool:
    """Whether the program has a module of its own under this name."""
    return isinstance(getattr(program, name, None), dspy.Module)


def attach(program: dspy.Module, result: SearchResult) -> None:
    """What DSPy's users look for on a compiled program. A module of its own that has such a name is left alone."""
    measured = [trial for trial in result.trials if trial.state == "measured"]
    measured.sort(key=lambda trial: (not trial.feasible, -trial.score, trial.total))
    kept = result.confirmation.winner if result.confirmation.kept == "winner" else result.confirmation.student
    attributes: dict[str, Any] = {
        "score": kept.score,
        "candidate_programs": [
            {
                "score": trial.score,
                "program": program_of(result.student, trial),
                "schedule": trial.schedule,
                "sequential": trial.sequential,
                "total": trial.total,
                "feasible": trial.feasible,
            }
            for trial in measured
        ],
        "trial_logs": {trial.number: trial.model_dump(exclude={"profile"}) for trial in result.trials},
        "confirmation": result.confirmation,
        "front": result.front,
    }
    for name in ATTACHED:
        if not _is_part(program, name):
            setattr(program, name, attributes[name])
