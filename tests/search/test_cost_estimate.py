"""The estimate: it sends and writes nothing, and what a search still pays lies between its two ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.search import PDROptimizer, SearchProgress, Space
from pdr_dspy.search.cost_estimate import WRITING, Estimate
from pdr_dspy.search.driver.journal import open_journal, read_journal
from pdr_dspy.testing import ScriptedLM, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, InTurn, questions, reasoner, student

pytestmark = pytest.mark.slow

SPACE = SMALL.extend(temperature=(0.7, 1.0))
ENOUGH: dict[str, Any] = {"space": SPACE, "trials": 5, "finalist_repeats": 2, "confirm_repeats": 1}
DEAR = Schedule(widths=(4, 4, 4, 1), kappa=200, draft_tokens=60)


def sets(count: int = 10) -> dict[str, Any]:
    return {"trainset": questions(count), "valset": questions(6, 100)}


def estimated(lm: ScriptedLM | None = None, program: dspy.Module | None = None, **settings: Any) -> Estimate:
    optimizer = PDROptimizer(Exact(), **{**ENOUGH, **settings})
    with dspy.context(lm=lm or scripted_lm(reasoner)):
        return optimizer.estimate(program or student(), **sets())


def paid(program: dspy.Module | None = None, **settings: Any) -> int:
    """Tokens that the search really costs."""
    lm = scripted_lm(reasoner)
    with dspy.context(lm=lm):
        PDROptimizer(Exact(), **{**ENOUGH, **settings}).compile(program or student(), **sets())
    return lm.served.input + lm.served.output


class Stopped(Exception):
    pass


def stopped(event: str, times: int, **settings: Any) -> None:
    """Search until an event came so many times."""
    seen: list[str] = []

    def stop(progress: SearchProgress) -> None:
        seen.append(progress.event)
        if progress.event == event and seen.count(event) == times:
            raise Stopped

    with pytest.raises(Stopped):
        paid(progress=stop, **settings)


def content(folder: Path) -> dict[str, bytes]:
    """Of every file of a folder that holds anything."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size}


@pytest.mark.parametrize(
    ("program", "settings"),
    [
        (student(), {}),
        (student(), {"space": SPACE.narrow(rounds=(1,)), "trials": 60}),  # fewer candidates than trials
        (student(), {"space": SPACE.narrow(rounds=(2,), widths=(4,)), "trials": 1}),  # cheaper than all of the space
        (PDR("question -> answer", DEAR), {"space": SPACE.narrow(rounds=(1,)), "trials": 2}),  # dearer than all of it
        (student(), {"max_tokens": 1}),
        (student(), {"max_total": 200}),
        (student(), {"time_limit": 1e-9}),
        (InTurn(student(temperature=0.5)), {"trials": 3}),
    ],
    ids=["plain", "few candidates", "cheap student", "dear student", "tokens", "limit", "time", "two operators"],
)
def test_before_the_first_call_what_is_paid_lies_between_the_ends(
    program: dspy.Module, settings: dict[str, Any]
) -> None:
    lm = scripted_lm(reasoner)
    before = estimated(lm, program, **settings)
    assert lm.served.calls == 0
    assert (before.known, before.done) == (False, 0)
    assert 0 < before.low <= paid(program, **settings) <= before.high


@pytest.mark.parametrize(
    ("event", "times"), [("racing", 2), ("row", 30), ("racing", 3), ("rerunning", 1), ("row", 62), ("confirming", 1)]
)
def test_after_a_kill_what_is_left_to_pay_lies_between_the_ends(tmp_path: Path, event: str, times: int) -> None:
    stopped(event, times, run_dir=tmp_path)
    before = content(tmp_path)
    there = estimated(run_dir=tmp_path)
    assert content(tmp_path) == before
    assert there.known
    assert there.done + there.left == 5
    assert there.low <= paid(run_dir=tmp_path) <= there.high


def test_the_further_a_search_is_the_less_is_left(tmp_path: Path) -> None:
    last = estimated().high
    for event in ("finished", "rerunning", "confirming", "done"):
        stopped(event, 1, run_dir=tmp_path)
        now = estimated(run_dir=tmp_path).high
        assert now < last
        last = now
    assert last == 0


def test_nothing_is_written_where_there_is_no_search(tmp_path: Path) -> None:
    estimated(run_dir=tmp_path / "run", storage=tmp_path / "storage")
    estimated(run_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    assert estimated(run_dir=tmp_path / "empty") == estimated(storage=tmp_path / "empty") == estimated()
    assert not content(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        estimated(run_dir=tmp_path / "file")
    with pytest.raises(StoreError, match="file"):
        estimated(storage=tmp_path / "file")
    for storage in ("sqlite:///search.db", "mysql://u:s3cret@h/db", 5):
        with pytest.raises(ConfigError, match=r"storage=.* must be a folder or \"postgresql://") as refused:
            estimated(storage=storage)
        assert "s3cret" not in str(refused.value)


def test_what_is_done_costs_nothing_again_and_a_longer_search_its_new_trials(tmp_path: Path) -> None:
    paid(run_dir=tmp_path)
    assert estimated(run_dir=tmp_path) == Estimate(True, 5, 0, 0, 0)
    other = scripted_lm(reasoner, model="scripted/not started")  # as an embedded model is while costs are asked
    assert estimated(other, run_dir=tmp_path) == Estimate(True, 5, 0, 0, 0)
    longer = estimated(run_dir=tmp_path, trials=8)
    assert longer[:3] == (True, 5, 3)
    assert 0 < longer.low <= paid(run_dir=tmp_path, trials=8) <= longer.high


def test_a_space_that_is_used_up_leaves_no_trials_however_many_are_asked_for(tmp_path: Path) -> None:
    few: dict[str, Any] = {"space": SPACE.narrow(rounds=(1,)), "run_dir": tmp_path}
    paid(**few, trials=2)
    for trials in (2, 50):
        assert estimated(**few, trials=trials) == Estimate(True, 2, 0, 0, 0)
    assert paid(**few, trials=50) == 0


def test_the_most_tokens_of_a_search_bound_its_upper_end() -> None:
    assert estimated(trials=60, max_tokens=1).high < estimated(trials=60, max_tokens=10_000).high
    assert estimated(trials=60, max_tokens=10_000).high < estimated(trials=60).high


def test_dearer_is_never_estimated_cheaper() -> None:
    """In everything that makes a search longer, both ends grow or stay; the lower is never above the upper."""
    for name, values in {
        "trials": (1, 2, 7, 60),
        "repeats": (1, 2, 5),
        "finalists": (1, 3),
        "finalist_repeats": (1, 4),
        "confirm_repeats": (1, 3),
        "max_total": (150, 400, 100_000),
    }.items():
        found = [estimated(**{name: value}) for value in values]
        assert all(one.low <= one.high for one in found)
        assert [one.low for one in found] == sorted(one.low for one in found)
        assert [one.high for one in found] == sorted(one.high for one in found)


def test_large_spaces_are_sampled_as_a_whole() -> None:
    """Those that come first are the cheap ones; the whole has dearer ones."""
    grid = {"temperature": tuple(t / 50 for t in range(50)), "top_p": tuple(p / 100 for p in range(1, 100))}
    small, large = Space(rounds=(1, 2), widths=(1, 16), **grid), Space(rounds=(1,), widths=(1,), **grid)
    assert estimated(space=small).high > 3 * estimated(space=large).high


def test_the_writer_is_in_both_ends() -> None:
    space = SMALL.fix(rounds=1).extend(final=("vote",))  # its one role is the draft
    without, written = estimated(space=space, trials=3), estimated(space=space, trials=3, prompts=3)
    assert (written.low - without.low, written.high - without.high) == (3 * WRITING[0], 3 * WRITING[1])
    more = estimated(space=space, trials=3, prompts=3, prompt_rounds=2)
    assert (more.low, more.high - without.high) == (written.low, 6 * WRITING[1])
    assert estimated(space=space, trials=1, prompts=3) == estimated(space=space, trials=1)  # no cohort to write for


def test_the_folder_of_another_search_and_a_damaged_entry_are_named(tmp_path: Path) -> None:
    stopped("racing", 3, run_dir=tmp_path)
    with pytest.raises(StoreError, match="`seed` was 0 and is now 1"):
        estimated(run_dir=tmp_path, seed=1)
    journal = read_journal(tmp_path)
    assert journal is not None
    with open_journal(tmp_path, journal.description) as opened:
        opened.put("final/000-0-1/00000-000", '{"rows": 1}')
        estimated_while_driven = "the journal's entry 'final/000-0-1/00000-000' is not of this search"
        with pytest.raises(StoreError, match=estimated_while_driven):
            estimated(run_dir=tmp_path)
    with pytest.raises(StoreError, match="entry 'final/000-0-1/00000-000' is not of this search"):
        estimated(run_dir=tmp_path)
