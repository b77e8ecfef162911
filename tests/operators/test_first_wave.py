"""A round whose drafts are asked for in waves: each only where those before it did not end the round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import Budget, calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.calls.telemetry import figures
from pdr_dspy.endpoint.work import spent
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.evaluation import evaluate
from pdr_dspy.operators import PDR, BestOfN, Schedule, SelfConsistency
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.reporting.evaluation_tables import program_row
from pdr_dspy.search.racing.cost_model import profile_of
from pdr_dspy.verifiers import ExactVerifier
from tests.support.checks import QA, SMALL, Marks, ask, says


def test_a_first_wave_that_passes_is_all_that_is_asked_for() -> None:
    lm = says("a", "b", "c", "d")
    program = BestOfN(QA, n=4, check=Marks({"b": 1.0}), stop_at=1.0, first_wave=2, **SMALL)
    prediction = ask(program, lm)
    assert (prediction.answer, lm.served.calls) == ("b", 2)
    assert [call.finish for call in prediction.ledger.calls] == ["stop", "stop", "cancelled", "cancelled"]
    assert prediction.ledger.total == sum(call.tokens for call in prediction.ledger.calls[:2])
    assert prediction.ledger.exact


def test_where_it_does_not_pass_the_others_follow_and_both_are_on_the_path() -> None:
    lm = says("a", "b", "c", "d")
    program = BestOfN(QA, n=4, check=Marks({"c": 1.0}), stop_at=1.0, **SMALL)
    together = ask(program, says("a", "b", "c", "d"))
    waves = ask(BestOfN(QA, n=4, check=Marks({"c": 1.0}), stop_at=1.0, first_wave=2, **SMALL), lm)
    assert waves.answer == together.answer == "c"
    assert [call.wave for call in waves.ledger.calls] == [0, 0, 1, 1]
    dearest = [max(call.tokens for call in waves.ledger.calls[at : at + 2] if call.fate == "taken") for at in (0, 2)]
    assert waves.ledger.sequential == sum(dearest) > together.ledger.sequential


def test_the_second_wave_does_not_go_out_while_the_first_runs() -> None:
    """The third draft would pass at once; the first wave is waited for, and the first draft passes."""
    lm = says("a", "b", "c", delays={0: 5.0, 1: 1.0})
    program = BestOfN(QA, n=3, check=Marks({"a": 1.0, "c": 1.0}), stop_at=1.0, first_wave=2, **SMALL)
    assert (ask(program, lm).answer, lm.served.calls) == ("a", 2)


def test_drafts_that_agree_end_a_vote_after_its_first_wave() -> None:
    lm = says("a", "a", "a", "a", "b", "b", "b", "b")
    prediction = ask(SelfConsistency(QA, n=8, agree=0.95, first_wave=4, **SMALL), lm)
    assert (prediction.answer, lm.served.calls) == ("a", 4)
    split = says("a", "b", "a", "b", "a", "a", "a", "a")
    prediction = ask(SelfConsistency(QA, n=8, agree=0.95, first_wave=4, **SMALL), split)
    assert (prediction.answer, split.served.calls) == ("a", 8)


@pytest.mark.parametrize(
    ("answers", "waves", "sent"),
    [
        ("aabbbbbb", [0, 0], 2),
        ("abaabbbb", [0, 0, 1, 2], 4),  # 2 : 1 is not enough at 0.8, 3 : 1 is
        ("abcdefgh", [0, 0, 1, 2, 3, 4, 5, 6], 8),
    ],
)
def test_with_a_next_wave_drafts_follow_until_they_agree(answers: str, waves: list[int], sent: int) -> None:
    lm = says(*answers)
    prediction = ask(SelfConsistency(QA, n=8, agree=0.8, first_wave=2, next_wave=1, **SMALL), lm)
    assert (prediction.answer, lm.served.calls) == ("a", sent)
    made = [call for call in prediction.ledger.calls if call.finish != "cancelled"]
    assert [call.wave for call in made] == waves
    taken = {wave: max(call.tokens for call in made if call.wave == wave) for wave in waves}
    assert prediction.ledger.sequential == sum(taken.values())


def test_waves_are_counted_for_the_bound_on_the_path() -> None:
    schedule = Schedule(widths=(8,), final="vote", agree=0.8, first_wave=2, next_wave=4, **SMALL)
    assert [schedule.wave_of(place) for place in range(8)] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert (schedule.waves(8), schedule.waves(2), schedule.replace(next_wave=None).waves(8)) == (3, 1, 2)
    assert "first_wave=2 next_wave=4" in str(schedule)
    assert Schedule(**schedule.model_dump()) == schedule


@pytest.mark.parametrize("given", [{"next_wave": 1}, {"first_wave": 2, "next_wave": 0}])
def test_a_next_wave_without_a_first_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"next_wave=\d.*follows a `first_wave`"):
        Schedule(widths=(8,), final="vote", agree=0.8, **given)


def test_every_round_has_its_waves_and_a_narrow_one_has_one() -> None:
    lm = says("a", "b", "c", "d")
    program = PDR(
        QA, widths=(4, 1), distiller="checked", k=1, check=Marks({}), keep=True, stop_at=1.0, first_wave=2, **SMALL
    )
    prediction = ask(program, lm)
    assert prediction.stop is Stop.DONE
    assert [(call.round, call.wave) for call in prediction.ledger.calls] == [(1, 0), (1, 0), (1, 1), (1, 1), (2, 0)]


@pytest.mark.parametrize("passes", ["a", "c"])
def test_a_replay_sends_nothing_and_costs_the_same(tmp_path: Path, passes: str) -> None:
    program = BestOfN(QA, n=4, check=Marks({passes: 1.0}), stop_at=1.0, first_wave=2, **SMALL)
    runs = []
    for _ in range(2):
        lm = says("a", "b", "c", "d", delays={3: math.inf})
        with Rollouts(tmp_path) as store, calls.session(store=store):
            runs.append((ask(program, lm), lm.served.calls))
    (first, _), (again, resent) = runs
    assert resent == 0
    assert again.answer == first.answer == passes

    def seen(ledger: Any) -> list[Any]:
        return [(call.fate, call.wave, call.usage) for call in ledger.calls]

    assert seen(again.ledger) == seen(first.ledger)
    assert again.ledger.sequential == first.ledger.sequential


def test_drafts_in_the_store_count_as_if_they_were_asked_now(tmp_path: Path) -> None:
    """A wide round fills the store; what its second wave holds costs nothing where the first wave passes."""
    marks = Marks({"a": 1.0})
    with Rollouts(tmp_path) as store, calls.session(store=store):
        ask(SelfConsistency(QA, n=4, **SMALL), says("a", "b", "c", "d"))
        program = BestOfN(QA, n=4, check=marks, stop_at=1.0, first_wave=2, **SMALL)
        prediction = ask(program, says("a", "b", "c", "d"))
    assert [call.tokens > 0 for call in prediction.ledger.calls[2:]] == [False, False]


def test_the_worst_case_is_both_waves_one_after_the_other() -> None:
    marks = Marks({"d": 1.0})
    plain = BestOfN(QA, n=4, check=marks, stop_at=1.0, **SMALL)
    waves = BestOfN(QA, n=4, check=marks, stop_at=1.0, first_wave=2, **SMALL)
    least = ask(plain, says("a", "b", "c", "d")).ledger.sequential
    bound = next(
        limit
        for limit in range(least, 100_000, 10)
        if _fits(plain, limit)  # the first that one wave fits into
    )
    assert not _fits(waves, bound)
    assert _fits(waves, 2 * bound)
    assert waves.schedule.output_bound().sequential == 2 * plain.schedule.output_bound().sequential
    assert waves.schedule.output_bound().total == plain.schedule.output_bound().total


def _fits(program: Any, sequential: int) -> bool:
    try:
        ask(program, says("a", "b", "c", "d"), budget=Budget(sequential=sequential))
    except BudgetTooSmall:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4,), "final": "vote", "first_wave": 2}, "stop_at"),
        ({"widths": (4,), "final": "vote", "first_wave": 4, "agree": 0.95}, "below the widest"),
        ({"widths": (4,), "final": "vote", "first_wave": 0, "agree": 0.95}, "at least 1"),
        ({"widths": (4,), "final": "vote", "first_wave": 2, "agree": 0.95, "quorum": 0.5}, "quorum"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**settings)


def test_data_of_older_schedules_stays_as_it_was() -> None:
    assert "first_wave" not in Schedule().model_dump()
    kept = Schedule(widths=(4,), final="vote", agree=0.95, first_wave=2)
    assert Schedule.model_validate_json(kept.model_dump_json()) == kept
    assert "first_wave=2" in str(kept)


# --------------------------------------------------------------------------------------------------- what was not sent


WAVES = {
    "the first wave passes": ({"b": 1.0}, {"first_wave": 2}, 2),
    "single drafts until one passes": ({"c": 1.0}, {"first_wave": 1, "next_wave": 1}, 3),
    "none passes": ({}, {"first_wave": 2}, 6),
}


@pytest.mark.parametrize(("table", "waves", "sent"), WAVES.values(), ids=WAVES)
def test_counts_of_calls_are_those_of_calls_sent(
    table: dict[str, float], waves: dict[str, int], sent: int, tmp_path: Path
) -> None:
    def program() -> Any:
        return BestOfN(QA, n=6, check=Marks(table), stop_at=1.0, **waves, **SMALL)

    told: list[Any] = []
    lm = says(*"abcdef")
    with calls.session(on_call=told.append):
        ledger = ask(program(), lm).ledger
    assert len(ledger) == len(told) == lm.served.calls == sent
    assert repr(ledger).startswith(f"<Ledger: {sent} calls, ")
    assert [call.sent for call in ledger.calls] == [True] * sent + [False] * (6 - sent)
    assert (ledger.cancelled, ledger.tries, figures(ledger.calls)["pdr.calls"]) == (0, sent, sent)
    assert spent(ledger, ledger.sequential)["calls"] == sent

    examples = [dspy.Example(question="q", answer="a", id="one").with_inputs("question")]
    for reused in (0.0, 1.0):
        with dspy.context(lm=says(*"abcdef")), Rollouts(tmp_path / "store") as store:
            report = evaluate(program(), examples, ExactVerifier(), store=store)
        (row,) = report.rows
        assert (report.calls, row.sent, report.reused) == (sent, sent, reused)
        assert f"calls={sent}" in repr(row)
        assert f" {sent:.1f} calls, " in str(report)
        assert program_row(report).cancelled == 0.0
        assert profile_of([row])["draft"].calls == sent
