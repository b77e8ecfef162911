"""What it saves to ask for drafts in waves: `python -m studies.waves` needs no model; see plans/waves.md.

The drafts of a study's rows arrive in random orders; a schedule's waves are made until its rule ends the round, with
the library's own rule (`consensus.agreed`, `Schedule.wave_of`). Writes docs/results/waves.md.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import typer

from pdr_dspy.cli.ending import guarded
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.consensus import agreed
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole
from studies.expectation import Drafts
from studies.study import ROWS
from studies.verification import OUT, Study, studies_of

ORDERS = 400
"""Of the drafts of each question."""
VOTES = ((0.8, 2, 1), (0.8, 2, 2), (0.85, 2, 1), (0.9, 3, 1), (0.95, 4, None))
"""`agree`, `first_wave` and `next_wave` of a vote."""
STOPS = ((1, 1), (2, 1), (2, 2), (2, None), (4, None))
"""`first_wave` and `next_wave` of a best-of-n that stops at the first draft that passes."""
HEAD = """# Drafts in waves

A round need not ask for all its drafts at once: `first_wave` are asked for, then `next_wave` at a time, until the
drafts agree (`agree`) or one passes the check (`stop_at`). What that saves, on the drafts of the studies: each
question's drafts in 400 random orders, the difference from all at once with a 95 % interval over questions. Tokens are
counted as drafts; each wave waits for the one before, so waves times a draft's tokens is the path. Plan:
`studies/plans/waves.md`. Repeat: `python -m studies.waves`; no model is asked.
"""


class Ended(NamedTuple):
    """A round that ended, on average over orders."""

    score: float
    drafts: float
    waves: float


def until_agreed(drafts: Drafts, schedule: Schedule, order: Sequence[int]) -> Ended:
    """A vote whose drafts arrive in an order."""
    answers = [drafts.answers[place] for place in order]
    votes = [None if answer is None else str(answer) for answer in answers]
    enough, made, wave = None, len(order), 0
    for wave in range(schedule.waves(len(order))):
        made = _made(schedule, len(order), wave)
        enough = None if schedule.agree is None else agreed(votes[:made], schedule.agree)
        if enough is not None:
            break
    counted = Counter(vote for vote in votes[: enough or made] if vote is not None)
    if not counted:
        return Ended(0.0, made, wave + 1)
    most = max(counted.values())
    first = next(place for place, vote in enumerate(votes) if vote is not None and counted[vote] == most)
    return Ended(drafts.scores[order[first]], made, wave + 1)


def until_passed(drafts: Drafts, schedule: Schedule, order: Sequence[int]) -> Ended:
    """The best draft by the check, of drafts that arrive in an order; the first that passes ends the round."""
    checks = [-1.0 if check is None else check for check in (drafts.checks[place] for place in order)]
    made, wave = len(order), 0
    for wave in range(schedule.waves(len(order))):
        made = _made(schedule, len(order), wave)
        if schedule.stop_at is not None and max(checks[:made]) >= schedule.stop_at:
            break
    best = max(range(made), key=lambda place: (checks[place], -place))
    return Ended(drafts.scores[order[best]], made, wave + 1)


def _made(schedule: Schedule, width: int, wave: int) -> int:
    """Drafts made once a wave has ended."""
    return sum(schedule.wave_of(place) <= wave for place in range(width))


def over_orders(study: Study, schedule: Schedule) -> list[Ended]:
    """Of each question, the mean over orders; the same orders for every schedule."""
    ends = until_agreed if schedule.final == "vote" else until_passed
    found = []
    for question, drafts in study.questions.items():
        chance, places = random.Random(f"waves {question}"), list(range(study.width))
        runs = []
        for _ in range(ORDERS):
            chance.shuffle(places)
            runs.append(ends(drafts, schedule, places))
        found.append(Ended(*(fmean(column) for column in zip(*runs, strict=True))))
    return found


def schedules(width: int) -> list[tuple[Schedule, list[Schedule]]]:
    """All drafts at once, and the same in waves."""
    vote = Schedule(widths=(width,), final="vote")
    best = Schedule(widths=(width,), final="best", check="check")
    return [
        (vote, [vote.replace(agree=p, first_wave=first, next_wave=then) for p, first, then in VOTES if first < width]),
        (best, [best.replace(stop_at=1.0, first_wave=first, next_wave=then) for first, then in STOPS if first < width]),
    ]


def table(study: Study) -> str:
    """Of one study."""
    text = "| | score | minus all at once | drafts | saved | waves |\n|---|--:|--:|--:|--:|--:|\n"
    for whole, others in schedules(study.width):
        base = over_orders(study, whole)
        for schedule in (whole, *others):
            ended = over_orders(study, schedule)
            score, drafts, waves = (fmean(column) for column in zip(*ended, strict=True))
            row = [_label(schedule), f"{score:.3f}"]
            if schedule == whole:
                row += ["", f"{drafts:.2f}", "", f"{waves:.2f}"]
            else:
                difference, (low, high), _ = paired([one.score for one in ended], [one.score for one in base])
                row += [f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", f"{drafts:.2f}"]
                row += [f"{1 - drafts / study.width:.0%}", f"{waves:.2f}"]
            text += f"| {' | '.join(row)} |\n"
    return text


def _label(schedule: Schedule) -> str:
    given = {"agree": schedule.agree, "first_wave": schedule.first_wave, "next_wave": schedule.next_wave}
    name = f"{'vote' if schedule.final == 'vote' else 'best'} of {schedule.widths[0]}"
    return ", ".join([name, *(f"`{key}={value}`" for key, value in given.items() if value is not None)])


def page(rows: Path = ROWS) -> str:
    """Of every study that has graded and checked drafts."""
    text = HEAD
    for study in studies_of(rows):
        text += f"\n## {study.name}\n\n{len(study.questions)} questions.\n\n{table(study)}"
    return text


@guarded
def main() -> None:
    """Write the page."""
    write_whole(OUT / "waves.md", page())
    print(OUT / "waves.md")


if __name__ == "__main__":
    typer.run(main)
