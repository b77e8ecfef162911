"""Progress: every step in its order, what was paid and how long it may take; and how the callback ends a search."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.operators.strategies import PDR
from pdr_dspy.search import PDROptimizer, SearchProgress, progress
from pdr_dspy.search.front_members import by_estimate
from pdr_dspy.testing import scripted_lm
from tests.search.test_optimizer import SMALL, Exact, compiled, questions, reasoner, student

MOST = 60_000
EVENTS = ("racing", "row", "finished", "rerunning", "confirming", "confirmed", "done")


def searched(progress: Callable[[SearchProgress], None] | None, **settings: Any) -> PDROptimizer:
    return compiled(
        scripted_lm(reasoner),
        **{"trials": 5, "finalist_repeats": 2, "max_tokens": MOST, "progress": progress, **settings},
    )


@pytest.fixture(scope="module")
def told() -> list[SearchProgress]:
    seen: list[SearchProgress] = []
    searched(seen.append)
    return seen


def test_the_steps_come_in_their_order(told: list[SearchProgress]) -> None:
    steps = [one.event for one in told if one.event != "row"]
    shape = "".join({"racing": "r", "finished": "f", "rerunning": "n", "confirming": "c"}.get(s, s) for s in steps)
    assert re.fullmatch(r"(r+f+)+n{1,2}cconfirmeddone", shape)
    assert set(EVENTS) == {one.event for one in told}


def test_every_block_is_announced_and_counted_to_its_end(told: list[SearchProgress]) -> None:
    blocks: list[list[SearchProgress]] = []
    for one in told:
        if one.event in ("racing", "rerunning", "confirming"):
            assert one.rows[0] == 0
            blocks.append([one])
        elif one.event == "row":
            blocks[-1].append(one)
    for first, *rows in blocks:
        count = first.rows[1]
        programs = len(rows) // count
        done = [row.rows[0] for row in rows]
        assert done == [pair for pair in range(1, count + 1) for _ in range(programs)]
        assert {(row.what, row.rows[1]) for row in rows} == {(first.what, count)}
        assert f"{programs} " in first.what


def test_a_race_says_which_runs_it_is_at(told: list[SearchProgress]) -> None:
    pattern = re.compile(r"cohort (\d+): racing (\d+) of (\d+) programs, runs (\d+) to (\d+) of 12")
    last: dict[str, tuple[int, int]] = {}
    for one in told:
        if one.event == "racing":
            match = pattern.fullmatch(one.what)
            assert match is not None, one.what
            cohort, racing, entered, first, end = match[1], *(int(match[place]) for place in (2, 3, 4, 5))
            ended, before = last.get(cohort, (0, entered))
            assert first == ended + 1
            assert end - ended == one.rows[1]
            assert 1 <= racing <= before <= entered
            last[cohort] = (end, racing)
    assert list(last) == ["1", "2"]
    assert {end for end, _ in last.values()} == {12}


def test_finalists_and_confirmation_say_on_what_they_run(told: list[SearchProgress]) -> None:
    again = [one.what for one in told if one.event == "rerunning"]
    assert [text.split(", ")[1] for text in again] == [f"time {n} of 2" for n in range(1, len(again) + 1)]
    assert all("finalists on fresh seeds" in text for text in again)
    (what,) = (one.what for one in told if one.event == "confirming")
    assert re.fullmatch(r"(1 program|2 programs) on 12 untouched questions", what)
    (verdict,) = (one.what for one in told if one.event == "confirmed")
    assert "student" in verdict
    assert told[-1].what == verdict  # the last words stay


def test_questions_that_were_seen_are_not_called_untouched() -> None:
    seen: list[SearchProgress] = []
    optimizer = PDROptimizer(Exact(), space=SMALL, trials=1, finalist_repeats=1, confirm_repeats=1)
    optimizer.progress = seen.append
    with dspy.context(lm=scripted_lm(reasoner)):
        optimizer.compile(student(), trainset=questions(4))
    assert [one.what for one in seen if one.event == "confirming"] == ["1 program on 4 questions, fresh seeds"]


def test_each_trial_is_told_of_once_when_its_race_is_over(told: list[SearchProgress]) -> None:
    finished = [one for one in told if one.event == "finished"]
    assert [one.trial.number for one in finished if one.trial is not None] == list(range(5))
    assert all(one.trial is None for one in told if one.event != "finished")
    for one in finished:
        assert one.trial is not None
        assert one.what == str(one.trial.candidate)
    for before, after in itertools.pairwise(told):
        assert before.trials <= after.trials
    assert all(one.trials + one.trials_left == 5 for one in told)
    assert (told[0].trials, told[-1].trials) == (0, 5)


def test_the_best_so_far_is_the_highest_estimate_within_the_limits() -> None:
    seen: list[SearchProgress] = []
    dear = PDR("question -> answer", widths=(4, 1), distiller="random_k", k=1, draft_tokens=60, kappa=200)
    result = searched(seen.append, program=dear, max_total=250).result
    assert result is not None
    assert not result.trials[0].feasible
    for one in seen:
        assert (one.best is None) == (one.trials == 0)
        assert one.best is None or (one.best.feasible and one.best.state == "measured")
    allowed = [trial for trial in result.trials if trial.feasible and trial.state == "measured"]
    assert seen[-1].best == min(allowed, key=by_estimate)


def test_what_was_paid_only_grows_and_ends_as_the_result_says(told: list[SearchProgress]) -> None:
    for before, after in itertools.pairwise(told):
        assert before.paid <= after.paid
        assert before.saved <= after.saved
        assert before.seconds <= after.seconds
    assert all(one.tokens_left == max(MOST - one.paid, 0) for one in told)
    seen: list[SearchProgress] = []
    result = searched(seen.append, max_tokens=None, trials=2).result
    assert result is not None
    assert (seen[-1].paid, seen[-1].saved) == (result.paid, result.saved)
    assert all(one.tokens_left is None for one in seen)


def test_the_time_that_is_left_is_known_from_the_first_cohort_on(told: list[SearchProgress]) -> None:
    for one in told:
        assert (one.seconds_left is None) == (one.trials == 0)
        assert one.seconds_left is None or one.seconds_left >= 0
    assert told[-1].seconds_left == 0


def test_the_time_that_is_left_goes_by_trials_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    clock = progress.Clock()
    assert clock.seconds_left(10, 0) is None
    for trials, seconds in ((2, 4.0), (1, 4.0)):  # 2 and 4 seconds a trial
        clock.begin_cohort()
        now += seconds
        clock.end_cohort(trials)
    assert clock.seconds == 8.0
    assert clock.seconds_left(7, 0) == 7 * 3.0
    assert clock.seconds_left(0, 0) == 0.0
    clock.begin_cohort()
    assert clock.seconds_left(7, 4) == 7 * 3.0
    now += 6.0
    assert clock.seconds_left(7, 4) == 7 * 3.0 - 6.0
    now += 14.0  # it takes longer than those before it: so will the others
    assert clock.seconds_left(7, 4) == 0.0 + 3 * 20.0 / 4


@pytest.mark.parametrize("event", EVENTS)
def test_what_progress_raises_ends_the_search_and_what_is_finished_is_not_paid_again(
    tmp_path: Path, event: str
) -> None:
    class Enough(Exception):
        pass

    enough = Enough()
    last: list[SearchProgress] = []

    def end(progress: SearchProgress) -> None:
        last.append(progress)
        if progress.event == event:
            raise enough

    settings: dict[str, Any] = {"trials": 3, "finalist_repeats": 1, "run_dir": tmp_path, "max_in_flight": 1}
    first, second, whole = (scripted_lm(reasoner) for _ in range(3))
    with pytest.raises(Enough) as raised:
        compiled(first, progress=end, **settings)
    assert raised.value is enough
    assert last[-1].event == event
    compiled(second, **settings)
    compiled(whole, **{**settings, "run_dir": None})
    assert first.served.calls + second.served.calls == whole.served.calls
    assert (first.served.calls == 0) == (event == "racing")
    assert (second.served.calls == 0) == (event in ("confirmed", "done"))


def test_the_log_has_a_line_for_each_trial_whether_anyone_is_told_or_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pdr_dspy.search"):
        result = searched(None, trials=3).result
    assert result is not None
    lines = [text for text in caplog.messages if text.startswith("trial ")]
    assert len(lines) == len(result.trials) == 3
    for line, trial in zip(lines, result.trials, strict=True):
        assert line.startswith(f"trial {trial.number}: {trial.origin} ")
        assert f"{trial.paid} tokens paid, {trial.saved} saved" in line
        assert line.endswith(f"; {trial.dropped}") == (trial.dropped is not None)
