"""The controller: a search continues where it was, shares its work, and ends where it was last asked to."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import pytest

from pdr_dspy.errors import StoreError
from pdr_dspy.search import PDROptimizer, SearchProgress, SearchResult
from pdr_dspy.search.controller import drive
from pdr_dspy.search.workers.coordination import FolderBoard
from pdr_dspy.testing import ScriptedLM, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner, student

ENOUGH: dict[str, Any] = {"space": SMALL, "trials": 4, "finalist_repeats": 1, "confirm_repeats": 1}


class Ran(NamedTuple):
    """A search that was run."""

    result: SearchResult
    made: int
    """Runs that this process made."""


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


def helped(lm: ScriptedLM, folder: Path, **own: Any) -> int:
    """Runs that a worker made which joined the search of a folder."""
    helper = PDROptimizer.join(Exact(), folder, **own)
    with dspy.context(lm=lm):
        return helper.work(student(), trainset=questions(10), valset=questions(6, 100))


def documents(folder: Path) -> dict[str, str]:
    with FolderBoard(folder / "board") as board:
        return board.read("")


def test_each_request_of_a_plan_gets_its_answer_and_the_last_value_is_returned() -> None:
    def steps() -> Any:
        first = yield "one"
        second = yield first * "x"
        return (first, second)

    assert drive(steps(), lambda text: len(str(text))) == (3, 3)  # type: ignore[arg-type]


def test_a_search_that_is_done_is_read_and_a_longer_one_pays_what_is_new(tmp_path: Path) -> None:
    first, again, longer, whole = (scripted_lm(reasoner) for _ in range(4))
    run(first, run_dir=tmp_path)
    before = documents(tmp_path)
    assert run(again, run_dir=tmp_path).made == again.served.calls == 0
    assert documents(tmp_path) == before
    one = run(longer, run_dir=tmp_path, trials=6, cohort=8)
    assert longer.served.calls > 0
    assert len(one.result.trials) == 6
    run(whole, trials=6)
    assert longer.served.calls < whole.served.calls


def test_ends_are_put_down_when_they_change_and_only_then(tmp_path: Path) -> None:
    lm = scripted_lm(reasoner)

    def ends() -> list[Any]:
        return [json.loads(text) for name, text in documents(tmp_path).items() if name.startswith("ends/")]

    for settings, count in (
        ({"trials": 1}, 0),
        ({"trials": 1}, 0),
        ({"trials": 2}, 1),
        ({"trials": 2, "max_in_flight": 1}, 1),
        ({"trials": 2, "max_tokens": 10}, 2),
        ({"trials": 2}, 3),
    ):
        run(lm, run_dir=tmp_path, **settings)
        assert len(ends()) == count
    run(lm, held_out=3, run_dir=tmp_path, trials=2)
    assert ends()[-1] == {"trials": 2, "max_tokens": None, "train": 10, "held_out": 3}


def test_a_worker_joins_the_search_as_it_was_last_started(tmp_path: Path) -> None:
    lm = scripted_lm(reasoner)
    for trials, held_out in ((2, 6), (4, 3), (3, 3)):
        run(lm, held_out, run_dir=tmp_path, trials=trials)
        helper = PDROptimizer.join(Exact(), tmp_path)
        assert helper.options.trials == trials
        assert helper.questions() == (10, held_out)


def test_a_worker_needs_a_search_and_has_nothing_to_do_for_one_that_is_done(tmp_path: Path) -> None:
    lm = scripted_lm(reasoner)
    helper = PDROptimizer(Exact(), **ENOUGH, run_dir=tmp_path / "new")
    sets: dict[str, Any] = {"trainset": questions(10), "valset": questions(6, 100)}
    with dspy.context(lm=lm):
        with pytest.raises(StoreError, match=r"there is no search 'pdr' in .*; start it with `pdr optimize`"):
            helper.work(student(), **sets)
        with pytest.raises(StoreError, match="there is no search"):
            PDROptimizer.join(Exact(), tmp_path / "nowhere")
    run(lm, run_dir=tmp_path / "new")
    assert helped(other := scripted_lm(reasoner), tmp_path / "new") == 0
    assert other.served.calls == 0


def test_a_worker_with_other_questions_or_another_program_is_refused(tmp_path: Path) -> None:
    run(scripted_lm(reasoner), run_dir=tmp_path, trials=1)
    helper = PDROptimizer.join(Exact(), tmp_path)
    with dspy.context(lm=scripted_lm(reasoner)):
        with pytest.raises(StoreError, match="`trainset` was"):
            helper.work(student(), trainset=questions(9), valset=questions(6, 100))
        with pytest.raises(StoreError, match="`student` was"):
            helper.work(student(temperature=0.3), trainset=questions(10), valset=questions(6, 100))


def test_a_search_and_its_helper_share_the_runs_and_make_each_once(tmp_path: Path) -> None:
    lm = scripted_lm(reasoner)
    alone = run(lm, run_dir=tmp_path / "alone")
    shared, own = scripted_lm(reasoner), tmp_path / "shared"
    made: list[int] = []
    helper = threading.Thread(target=lambda: made.append(helped(shared, own, max_in_flight=4)))

    def joined(progress: SearchProgress) -> None:
        if progress.event == "racing" and helper.ident is None:
            helper.start()  # the search is there now, and has not measured anything

    leader = run(shared, run_dir=own, progress=joined, max_in_flight=4)
    helper.join(120)
    assert leader.made + made[0] == alone.made
    assert shared.served.calls == lm.served.calls
    assert documents(own).keys() == documents(tmp_path / "alone").keys()
    assert documents(own)["config"] == documents(tmp_path / "alone")["config"]


def test_a_helper_finishes_what_was_left_and_leaves_the_conclusion_to_the_search(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def end(progress: SearchProgress) -> None:
        if progress.event == "finished":
            raise Enough

    lm = scripted_lm(reasoner)
    with pytest.raises(Enough):
        run(lm, run_dir=tmp_path, progress=end)
    assert helped(lm, tmp_path) > 0
    assert not (tmp_path / "search.json").exists()
    last = scripted_lm(reasoner)
    assert run(last, run_dir=tmp_path).made == last.served.calls == 0
    assert (tmp_path / "search.json").exists()
