"""The search problem, and what its stored description may differ in; what is refused before a call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.operators.strategies import LongCoT
from pdr_dspy.search import PDROptimizer
from pdr_dspy.search.driver.identity import check, digest
from pdr_dspy.search.problem import Problem, preflight, prepare
from pdr_dspy.search.racing.requests import Stage
from pdr_dspy.search.settings import RunOptions
from pdr_dspy.testing import ScriptedLM, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, mixed, questions, reasoner, student


class Asked:
    """A search that somebody asks for."""

    def __init__(
        self,
        program: dspy.Module | None = None,
        *,
        train: list[dspy.Example] | None = None,
        held_out: list[dspy.Example] | None = None,
        lm: ScriptedLM | None = None,
        verifier: Any = None,
        **keywords: Any,
    ) -> None:
        given: dict[str, Any] = {"space": SMALL, "trials": 8, **keywords}
        optimizer = PDROptimizer(verifier or Exact(), **given)
        train = questions(12) if train is None else train
        held_out = questions(12, 100) if held_out is None else held_out
        self.options: RunOptions = optimizer.options
        with dspy.context(lm=lm or scripted_lm(reasoner)):
            self.problem: Problem = prepare(
                optimizer.settings, optimizer.verifier, program or student(), train, held_out
            )

    @property
    def stored(self) -> dict[str, Any]:
        """The description as the journal gives it back."""
        return json.loads(json.dumps(self.problem.description))

    def check(self, stored: Any, *but: str) -> None:
        check(stored, self.problem, self.options.where, but=but)


def problem(*given: Any, **keywords: Any) -> Problem:
    return Asked(*given, **keywords).problem


class Stricter(Exact):
    """Another verifier."""

    def describe(self) -> dict[str, Any]:
        return {"kind": "Stricter"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trials": 80},
        {"max_tokens": 1},
        {"time_limit": 0.5},
        {"accept": "better"},
        {"max_in_flight": 1},
        {"progress": print},
        {"held_out": questions(5, 200)},
        {"program": LongCoT("question -> answer", draft_tokens=60, kappa=200)},  # another object, the same program
        {"space": SMALL.extend(widths=(4,))},  # which it has
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_how_far_and_how_fast_a_search_runs_may_change(changes: dict[str, Any]) -> None:
    before, other = Asked().stored, Asked(**changes)
    other.check(before)
    assert digest(other.stored) == digest(before)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("program", {"program": student(draft_tokens=61)}),
        ("examples", {"train": questions(13)}),
        ("examples", {"train": questions(12)[::-1]}),
        ("verifier", {"verifier": Stricter()}),
        ("models", {"lm": scripted_lm(reasoner, model="scripted/other")}),
        ("seed", {"seed": 1}),
        ("space", {"space": SMALL.narrow(widths=(1, 2))}),
        ("limits", {"max_total": 10_000}),
        ("limits", {"max_sequential": 10_000}),
        ("objective", {"pareto": True}),
        ("sampler", {"sampler": "random"}),
        ("repeats", {"repeats": 2}),
        ("finalists", {"finalists": 1}),
        ("finalist_repeats", {"finalist_repeats": 1}),
        ("confirm_repeats", {"confirm_repeats": 1}),
        ("cohort", {"cohort": 3}),
        ("prompts", {"prompts": 2}),
        ("prompt_model", {"prompt_model": scripted_lm(reasoner, model="scripted/writer")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_what_a_search_is_of_may_not_change_and_is_named_with_the_remedy(
    tmp_path: Path, key: str, changes: dict[str, Any]
) -> None:
    name = {"program": "student", "examples": "trainset", "models": "lm", "limits": next(iter(changes))}.get(key, key)
    before = Asked(run_dir=tmp_path).stored
    other = Asked(run_dir=tmp_path, **changes)
    with pytest.raises(StoreError, match=rf"`{name}(\.\w+)*` was .* and is now ") as refused:
        other.check(before)
    assert str(tmp_path) in str(refused.value)
    assert "use another `run_dir`, or the same arguments to resume it" in str(refused.value)
    assert digest(other.stored) != digest(before)
    other.check(before, name)  # that, and nothing else, differs


def test_long_values_are_cut_short() -> None:
    before = Asked(space=SMALL.extend(instructions={"draft": ("So. " * 1000,)})).stored
    wide = SMALL.extend(instructions={"draft": ("So. " * 500 + "But. " + "So. " * 500,)})
    with pytest.raises(
        StoreError, match=r"`space\.instructions\.draft` was .*So\. So.* and is now .*But\. So"
    ) as refused:
        Asked(space=wide).check(before)
    assert "characters)" in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("stored", [{"version": 3}, {"version": 3, "settings": 1}])
def test_a_description_that_is_none_is_not_of_this_version(stored: Any) -> None:
    with pytest.raises(StoreError, match=r"holds no search of this version .*; use another `run_dir`"):
        Asked().check(stored)


@pytest.mark.parametrize("stored", [{}, {"version": 2}, {"version": "3"}])
def test_a_search_of_another_version_is_refused_with_both_versions(stored: Any) -> None:
    old = {**Asked().stored, "version": None, **stored}
    shown = re.escape(repr(old["version"]))
    with pytest.raises(StoreError, match=f"its format is {shown}, that of this version is 3; use another `run_dir`"):
        Asked().check(old)


def test_a_search_from_before_there_was_a_setting_has_its_default() -> None:
    old = Asked().stored
    del old["settings"]["instructions"], old["settings"]["race"]["alpha"]
    Asked().check(old)
    with pytest.raises(StoreError, match="`prompts` was 0 and is now 1"):
        Asked(prompts=1).check(old)


def test_the_trials_and_the_finalists_have_one_set_the_confirmation_another() -> None:
    one = problem()
    assert [name for name, _ in one.sets[Stage.RACE]] == [f"q{n}" for n in range(12)]
    assert one.sets[Stage.FINAL] == one.sets[Stage.RACE]
    assert [name for name, _ in one.sets[Stage.CONFIRM]] == [f"q{n}" for n in range(100, 112)]
    assert one.seen == 0
    assert problem(held_out=questions(6, 10)).seen == 2


def test_without_a_valset_a_quarter_is_held_out_by_the_seed_and_of_few_questions_none() -> None:
    def held(count: int, seed: int = 0) -> tuple[list[str], list[str], int]:
        one = problem(train=questions(count), held_out=[], seed=seed)
        return ([e.id for e in one.train], [e.id for e in one.held_out], one.seen)

    train, out, seen = held(16)
    assert (len(train), len(out), seen) == (12, 4, 0)
    assert sorted(train + out) == sorted(e.id for e in questions(16))
    assert held(16) == (train, out, seen)
    assert len({tuple(held(16, seed)[1]) for seed in range(5)}) > 1
    train, out, seen = held(7)
    assert train == out
    assert seen == 7


def test_a_question_is_known_by_its_inputs_and_a_confirmation_by_its_questions() -> None:
    again = [example.copy(id=f"{example.id} again") for example in questions(12)]
    assert problem(held_out=again).seen == 12
    assert problem().confirmed_in == problem(trials=2).confirmed_in
    assert problem().confirmed_in != problem(held_out=questions(11, 100)).confirmed_in


def test_a_student_is_kept_as_it_was_and_its_own_schedules_are_compared() -> None:
    program: Any = student()
    one = problem(program)
    program.draft.signature = program.draft.signature.with_instructions("Guess.")
    assert one.student.draft.signature.instructions != "Guess."  # type: ignore[attr-defined]
    assert not one.mixed
    assert problem(mixed()).mixed
    same = mixed()
    same.second = LongCoT("question -> answer", draft_tokens=60, kappa=200)  # type: ignore[assignment]
    assert not problem(same).mixed


def test_what_cannot_be_searched_is_refused_before_a_call() -> None:
    lm = scripted_lm(reasoner)
    with pytest.raises(ConfigError, match=r"`compile\(student=Predict\(\)\)` holds no LongCoT, SR or PDR"):
        problem(dspy.Predict("question -> answer"), lm=lm)
    with pytest.raises(DataError, match=r"`compile\(trainset=\[\]\)` is empty"):
        problem(train=[], lm=lm)
    without = [dspy.Example(id="q0", question="q0").with_inputs("question")]
    with pytest.raises(DataError, match="no gold answer"):
        problem(lm=lm, train=without)
    with pytest.raises(DataError, match="no gold answer"):
        problem(lm=lm, held_out=without)
    with pytest.raises(ConfigError, match="a demonstration for 'draft' has no 'question'"):
        problem(lm=lm, space=SMALL.extend(demos={"draft": ([{"answer": "a1"}],)}))
    with pytest.raises(ConfigError, match="fixes the instructions of every role"):
        problem(lm=lm, prompts=1, space=SMALL.fix(rounds=1, instructions={"draft": "So."}))
    assert lm.served.calls == 0


def check_limits(lm: ScriptedLM, program: Any = None, **settings: Any) -> None:
    with dspy.context(lm=lm):
        preflight(problem(program, lm=lm, **settings))
    assert lm.served.calls == 0


def test_the_least_limit_that_is_not_refused_is_the_one_that_is_named() -> None:
    lm = scripted_lm(reasoner)
    with pytest.raises(ConfigError, match=r"`max_sequential=5`, `max_total=None`: .* the minimum is \d+$") as refused:
        check_limits(lm, max_sequential=5)
    least = int(str(refused.value).split()[-1])
    for name in ("max_sequential", "max_total"):
        check_limits(lm, **{name: least})
        with pytest.raises(ConfigError, match=f"the minimum is {least}"):
            check_limits(lm, **{name: least - 1})
    check_limits(lm)
    check_limits(lm, mixed(), max_total=1)  # what a program around operators sends is not known


def test_a_student_that_the_model_has_no_room_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model's context is 80"):
        check_limits(scripted_lm(reasoner, context_length=80))
    check_limits(scripted_lm(reasoner, context_length=800))
