"""The controller: a search continues where it was, has one driver, and ends where it was last asked to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import pytest

from pdr_dspy.errors import StoreError
from pdr_dspy.search import PDROptimizer, SearchProgress, SearchResult
from pdr_dspy.search.driver.controller import drive
from pdr_dspy.search.driver.journal import read_journal
from pdr_dspy.testing import ScriptedLM, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner, student

pytestmark = pytest.mark.slow

ENOUGH: dict[str, Any] = {"space": SMALL, "trials": 4, "finalist_repeats": 1, "confirm_repeats": 1}


class Ran(NamedTuple):
    """A search that was run."""

    result: SearchResult
    made: int
    """Runs that were made."""


def run(lm: ScriptedLM, held_out: int = 6, *, progress: Any = None, **settings: Any) -> Ran:
    made: list[SearchProgress] = []

    def count(step: SearchProgress) -> None:
        if step.event == "row":
            made.append(step)
        if progress is not None:
            progress(step)

    optimizer = PDROptimizer(Exact(), **{**ENOUGH, **settings}, progress=count)
    with dspy.context(lm=lm):
        optimizer.compile(student(), trainset=questions(10), valset=questions(held_out, 100))
    assert optimizer.result is not None
    return Ran(optimizer.result, len(made))


def entries(folder: Path) -> dict[str, str | None]:
    journal = read_journal(folder)
    assert journal is not None
    return {name: journal.get(name) for name in journal.names()}


def test_each_request_of_a_plan_gets_its_answer_and_the_last_value_is_returned() -> None:
    def steps() -> Any:
        first = yield "one"
        second = yield first * "x"
        return (first, second)

    assert drive(steps(), lambda text: len(str(text))) == (3, 3)  # type: ignore[arg-type]


def test_a_search_that_is_done_is_read_and_a_longer_one_pays_what_is_new(tmp_path: Path) -> None:
    first, again, longer, whole = (scripted_lm(reasoner) for _ in range(4))
    run(first, run_dir=tmp_path)
    before = entries(tmp_path)
    assert run(again, run_dir=tmp_path).made == again.served.calls == 0
    assert entries(tmp_path) == before
    one = run(longer, run_dir=tmp_path, trials=6, cohort=8)
    assert longer.served.calls > 0
    assert len(one.result.trials) == 6
    run(whole, trials=6)
    assert longer.served.calls < whole.served.calls


def test_how_far_a_search_goes_may_change_each_time(tmp_path: Path) -> None:
    lm = scripted_lm(reasoner)
    for trials, held_out in ((2, 6), (4, 3), (3, 3)):
        result = run(lm, held_out, run_dir=tmp_path, trials=trials).result
        assert len(result.trials) == trials
        assert len({row.id for row in result.confirmation.student.rows}) == held_out


def test_a_second_driver_of_a_search_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    refused: list[str] = []
    other = scripted_lm(reasoner)

    def intrude(progress: SearchProgress) -> None:
        if progress.event == "rerunning" and not refused:
            with pytest.raises(StoreError) as error:
                run(other, run_dir=tmp_path / "shared")
            refused.append(str(error.value))

    shared, alone = scripted_lm(reasoner), scripted_lm(reasoner)
    result = run(shared, run_dir=tmp_path / "shared", progress=intrude).result
    assert f"driven by process {os.getpid()}" in refused[0]
    assert "--ray" in refused[0]
    assert other.served.calls == 0
    assert result.paid == run(alone, run_dir=tmp_path / "alone").result.paid
    assert shared.served.calls == alone.served.calls
    assert entries(tmp_path / "shared").keys() == entries(tmp_path / "alone").keys()
    assert run(other, run_dir=tmp_path / "shared").result.paid == result.paid  # once the first has ended
    assert other.served.calls == 0


def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    whole = scripted_lm(reasoner)
    expected = run(whole)
    for event in ("row", "finished", "rerunning", "confirming", "confirmed"):

        def end(progress: SearchProgress, event: str = event) -> None:
            if progress.event == event:
                raise Enough

        first, last = scripted_lm(reasoner), scripted_lm(reasoner)
        with pytest.raises(Enough):
            run(first, run_dir=tmp_path / event, progress=end)
        assert not (tmp_path / event / "search.json").exists()
        done = run(last, run_dir=tmp_path / event)
        assert done.result.confirmation.verdict == expected.result.confirmation.verdict
        assert done.result.paid == expected.result.paid
        assert first.served.calls + last.served.calls == whole.served.calls
        assert (tmp_path / event / "search.json").exists()


@pytest.mark.parametrize("kind", ["folder", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))])
def test_searches_that_share_a_store_pay_equal_calls_once_and_keep_studies_of_their_own(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Any = request.getfixturevalue("postgres").database() if kind == "postgres" else tmp_path / "store"
    first, second, third = (scripted_lm(reasoner) for _ in range(3))
    one = run(first, run_dir=tmp_path / "one", storage=place)
    two = run(second, run_dir=tmp_path / "two", storage=place, study="two")
    assert first.served.calls > 0
    assert second.served.calls == 0
    assert two.result.paid == one.result.paid  # what it would have cost alone
    with pytest.raises(StoreError, match=r"the study 'two' in .* is of another search; use another `study`"):
        run(third, run_dir=tmp_path / "three", storage=place, study="two", seed=1)
    assert third.served.calls == 0
    assert not (tmp_path / "one" / "rollouts").exists()
    run(third, storage=place)  # without a run folder nothing is kept but calls
    assert third.served.calls == 0
