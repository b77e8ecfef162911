"""How a search ends: who is returned and why, estimates that are not proud of their luck, and rows that can be read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import dspy
import pytest

from pdr_dspy import load
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.reporting.search_tables import read_search
from pdr_dspy.search import PDROptimizer, SearchResult
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, chance, compiled, questions, reasoner, student

pytestmark = pytest.mark.slow

WIDE = {"widths": (4, 1), "distiller": "random_k", "k": 1, "draft_tokens": 60, "kappa": 200}
"""Five calls where one might do."""


def gold(request: ScriptedRequest) -> str:
    start = request.user.index("Question: q") + len("Question: q")
    return "a" + request.user[start:].split()[0]


def right(request: ScriptedRequest) -> str:
    return f"Answer: {gold(request)}"


def wrong(request: ScriptedRequest) -> str:
    return "Answer: wrong"


def lucky(request: ScriptedRequest) -> str:
    """Right half of the time, whatever the program is."""
    return right(request) if chance(request.user, request.seed) < 0.5 else "Answer: wrong"


def concluded(
    reply: Callable[[ScriptedRequest], str], program: dspy.Module | None = None, **settings: Any
) -> SearchResult:
    settings = {"trials": 5, "finalist_repeats": 2, "confirm_repeats": 1, **settings}
    result = compiled(scripted_lm(reply), program, **settings).result
    assert result is not None
    return result


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    """A search whose winner is much better than the student, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    return concluded(reasoner, count=30, trials=10, confirm_repeats=2, run_dir=folder), folder


@pytest.mark.parametrize("reply", [wrong, right, lucky])
def test_the_untouched_student_is_returned_when_nothing_is_confidently_better_for_its_cost(
    reply: Callable[[ScriptedRequest], str],
) -> None:
    own = student()
    result = concluded(reply, own)
    assert result.confirmation.kept == "student"
    assert "student" in result.confirmation.verdict
    assert "the winner is kept" not in result.confirmation.verdict
    program: Any = result.program
    assert program.schedule == own.schedule
    assert program.score == result.confirmation.student.score
    assert program.dump_state() == own.dump_state()


def test_a_cheaper_program_that_does_as_well_is_returned_and_the_verdict_says_for_what() -> None:
    result = concluded(right, PDR("question -> answer", **WIDE), trials=3)
    assert result.best.schedule.widths == (1,)
    assert result.confirmation.kept == "winner"
    assert "the winner is kept, it did as well for fewer tokens: 1.000 against 1.000" in result.confirmation.verdict
    assert result.program.schedule.widths == (1,)  # type: ignore[attr-defined]


def test_costs_decide_nothing_where_nothing_was_ever_right() -> None:
    result = concluded(wrong, PDR("question -> answer", **WIDE), trials=3)
    assert result.best.schedule.widths == (1,)
    assert result.confirmation.kept == "student"
    assert "the student is kept, since nothing was ever right: 0.000 against 0.000" in result.confirmation.verdict
    assert "whether the verifier reads the answers as you mean it" in result.confirmation.verdict


def test_a_winner_that_may_be_luck_is_returned_only_where_that_is_accepted() -> None:
    """Who reads drafts is right; the student is wrong on all of the training questions and on two of the others."""

    def slightly(request: ScriptedRequest) -> str:
        reads = re.search(r"Answer: \w+", request.user) is not None
        return right(request) if reads or int(gold(request)[1:]) > 101 else "Answer: wrong"

    results = [concluded(slightly, trials=3, accept=accept) for accept in ("confident", "better")]
    for result in results:
        assert result.best.number != 0
        assert result.confirmation.difference.difference == pytest.approx(2 / 12)
    careful, bold = (result.confirmation for result in results)
    assert (careful.kept, bold.kept) == ("student", "winner")
    assert "the winner did better but not confidently so" in careful.verdict
    assert 'or take the winner with `accept="better"`' in careful.verdict
    assert "it did better, though the difference may be chance" in bold.verdict
    assert results[1].program.schedule == results[1].best.schedule  # type: ignore[attr-defined]


def test_the_confirmation_is_paired_by_question_on_what_nothing_was_chosen_on(found: tuple[SearchResult, Path]) -> None:
    confirmation = found[0].confirmation
    assert confirmation.kept == "winner"
    assert "confidently better" in confirmation.verdict
    assert confirmation.untouched
    names = {example.id for example in questions(30, 100)}
    for report in (confirmation.winner, confirmation.student):
        assert set(report.by_question) == names
    assert len(confirmation.winner.rows) == 60
    assert len(confirmation.student.rows) == 60 * confirmation.over
    again = paired(confirmation.winner.per_question, confirmation.student.per_question)
    assert confirmation.difference == again
    assert again.interval.low <= again.difference <= again.interval.high
    assert f"{confirmation.winner.score:.3f} against {confirmation.student.score:.3f}" in confirmation.verdict


def test_a_student_of_one_pass_is_judged_by_all_drafts_that_the_winner_made(found: tuple[SearchResult, Path]) -> None:
    result, folder = found
    confirmation, width = result.confirmation, result.best.schedule.widths[0]
    assert (result.trials[0].schedule.widths, width > 1) == ((1,), True)
    assert confirmation.over == width
    for name, rows in confirmation.winner.by_question.items():
        drafts = [draft.score or 0.0 for row in rows for draft in row.rounds[0].drafts]
        assert fmean(row.score for row in confirmation.student.by_question[name]) == fmean(drafts)
    (place,) = (folder / "confirm").iterdir()
    single = read_report(place / "student")
    assert len(single.rows) * width == len(confirmation.student.rows)
    assert (single.sequential, single.total) == (confirmation.student.sequential, confirmation.student.total)
    assert f"the student is one pass, and its score the mean of {width} drafts of each question" in confirmation.verdict
    facts = read_search(folder)
    assert facts.difference == confirmation.difference
    assert facts.student.score == confirmation.student.score


def test_a_winner_with_other_drafts_is_held_against_the_student_alone() -> None:
    result = concluded(right, PDR("question -> answer", **WIDE), trials=3)
    assert result.confirmation.over == 1
    assert "drafts of each question" not in result.confirmation.verdict


def test_the_student_is_not_confirmed_against_itself() -> None:
    result = concluded(wrong, trials=1)
    assert (result.best.number, result.front[0].number) == (0, 0)
    assert result.confirmation.winner is result.confirmation.student
    assert result.confirmation.difference == (0.0, (0.0, 0.0), 1.0)
    assert "the untouched student was the best of the search" in result.confirmation.verdict
    assert math.isnan(result.optimism)


@pytest.mark.parametrize(("train", "held_out", "seen"), [(6, questions(6, 4), 2), (4, None, 4)])
def test_the_verdict_tells_which_questions_were_seen(
    train: int, held_out: list[dspy.Example] | None, seen: int
) -> None:
    optimizer = PDROptimizer(Exact(), space=SMALL, trials=2, finalist_repeats=1, confirm_repeats=1)
    with dspy.context(lm=scripted_lm(reasoner)):
        optimizer.compile(student(), trainset=questions(train), valset=held_out)
    assert optimizer.result is not None
    assert not optimizer.result.confirmation.untouched
    verdict = optimizer.result.confirmation.verdict
    assert ("the questions are those of the search" in verdict) == (held_out is None)
    assert (f"{seen} of the 6 questions took part in the search" in verdict) == (held_out is not None)


def test_scores_lie_in_their_intervals(found: tuple[SearchResult, Path]) -> None:
    for trial in found[0].trials:
        assert 0 <= trial.interval.low <= trial.score <= trial.interval.high <= 1
        assert 0 < trial.pooled_sd < 0.5


def test_fresh_seeds_are_the_finalists_and_the_chosen_is_the_best_of_all_that_is_known(
    found: tuple[SearchResult, Path],
) -> None:
    result = found[0]
    rerun = {one.number: one for one in result.finalists}
    assert result.finalists[0].number == result.best.number
    assert 0 in rerun
    assert len(rerun) == 5
    for trial in result.trials:
        assert math.isnan(trial.fresh) == (trial.number not in rerun)
    for one in result.finalists:
        assert one.fresh == result.trials[one.number].fresh
        assert one.race == pytest.approx(result.trials[one.number].score)
        assert one.pooled == result.trials[one.number].pooled
        assert one.interval.low <= one.pooled <= one.interval.high
    assert result.best.pooled == max(one.pooled for one in result.finalists)


def test_optimism_is_what_the_scores_that_were_chosen_for_are_too_high() -> None:
    """Where programs are equally good the luckiest are chosen; where luck has no part nothing is too high."""
    result = concluded(lucky, count=20, trials=8)
    chosen = [one for one in result.finalists if one.number != 0]
    assert result.optimism == pytest.approx(fmean(one.race - one.fresh for one in chosen))
    assert result.optimism > 0
    assert fmean(one.pooled for one in chosen) < fmean(one.race for one in chosen)
    scores, pooled = ([getattr(trial, name) for trial in result.trials] for name in ("score", "pooled"))
    assert max(pooled) - min(pooled) < max(scores) - min(scores)  # drawn towards each other
    for sure in (right, wrong):
        assert concluded(sure, trials=3).optimism == 0


def test_the_rows_on_disk_are_those_of_the_result_and_can_be_read_as_evaluations(
    found: tuple[SearchResult, Path],
) -> None:
    result, folder = found
    assert sorted(place.name for place in (folder / "trials").iterdir()) == [
        f"{trial.number:04d}" for trial in result.trials
    ]
    for trial in result.trials:
        rows = read_report(folder / f"trials/{trial.number:04d}").rows
        assert len(rows) == trial.runs
        again = folder / f"final/{trial.number:04d}"
        assert again.exists() == (not math.isnan(trial.fresh))
        rows += read_report(again).rows if again.exists() else ()
        assert sorted(rows, key=str) == sorted(result.rows[trial.number], key=str)
    (confirmed,) = (folder / "confirm").iterdir()
    assert read_report(confirmed / result.confirmation.place).rows == result.confirmation.student.rows
    assert read_report(confirmed / f"{result.best.number:04d}").rows == result.confirmation.winner.rows
    configs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*/config.json"))]
    assert len({json.dumps(config["examples"]) for config in configs}) == 1  # all on the training questions
    assert len({config["seed"] for config in configs}) == 2  # of the race and of the finalists


def test_the_program_that_was_kept_is_on_disk_with_what_was_confirmed(found: tuple[SearchResult, Path]) -> None:
    result, folder = found
    facts = json.loads((folder / "search.json").read_text())
    assert facts["confirmation"]["verdict"] == result.confirmation.verdict
    assert [facts["best"], facts["confirmation"]["winner"]] == [result.best.number, f"{result.best.number:04d}"]
    again: Any = load(folder / "best.json")
    assert again.schedule == result.best.schedule


def test_no_schedule_within_the_limits_is_reported_with_the_least_that_was_measured() -> None:
    with pytest.raises(ConfigError) as refused:
        concluded(reasoner, trials=3, max_total=62)  # the prompt fits, with its answer it does not
    message = str(refused.value)
    assert message.startswith(
        "no schedule is within `max_sequential=None`, `max_total=62`: the least that was measured"
    )
    assert message.endswith("raise the limit or lower the caps")


def test_a_folder_that_cannot_be_written_is_named_and_costs_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("in the way")
    with pytest.raises(StoreError, match="trials"):
        concluded(reasoner, trials=2, run_dir=tmp_path)
    (tmp_path / "trials").unlink()
    lm = scripted_lm(reasoner)
    again = compiled(lm, trials=2, finalist_repeats=2, confirm_repeats=1, run_dir=tmp_path).result
    assert again is not None
    assert lm.served.calls == 0
