"""Axes: the table knows every field of a schedule, and a registered axis is searched like the library's own."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import load
from pdr_dspy.cli.axis_option import with_axes
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import LongCoT, SelfConsistency
from pdr_dspy.reporting import search_tables
from pdr_dspy.search import AXES, Axis, PDROptimizer, Space, axis
from pdr_dspy.search.driver.journal import read_journal
from pdr_dspy.search.settings import SearchSettings
from pdr_dspy.search.space.axes import TABLE
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.canonical import canonical, settings_of
from pdr_dspy.testing import scripted_lm
from pdr_dspy.testing.conformance import check_axis
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner, student
from tests.support.plugin import write_package

CAPS = {"short": 60, "long": 90}


def room(schedule: Schedule, value: str) -> Schedule:
    """Room for a draft. And more."""
    return schedule.replace(draft_tokens=CAPS[value])


@pytest.fixture
def registered() -> Iterator[Axis]:
    yield axis("room", values=(None, "short", "long"))(room)
    AXES.remove("room")


def test_the_table_has_every_field_of_a_schedule_and_the_space_every_axis_with_its_default() -> None:
    names = [one.name for one in TABLE]
    assert set(names) == {"rounds", *Schedule.model_fields}
    assert len(set(names)) == len(names)
    for one in TABLE:
        assert Space.model_fields[one.name].default == one.default


def test_what_came_later_is_left_out_of_the_data_where_it_is_off() -> None:
    later = {"quorum", "agree", "json_fallback", "check", "final", "keep", "stop_at", "first_wave", "next_wave"}
    models = {"draft_model", "refine_model", "distill_model"}
    assert {one.name for one in TABLE if one.later} == later | models
    assert not {one.name for one in TABLE if one.later} & Space().model_dump(mode="json").keys()
    space = Space(check=(None, "tests"), stop_at=(None, 1.0), keep=(False, True), final=("refine", "vote", "best"))
    assert Space(**json.loads(space.model_dump_json())) == space


@pytest.mark.slow
@pytest.mark.parametrize("part", TABLE, ids=lambda part: part.name)
def test_the_librarys_axes_pass_conformance_of_one(part: Axis) -> None:
    check_axis(part)


def test_a_registered_axis_keeps_them_too(registered: Axis) -> None:
    check_axis("room")
    assert registered.description == "Room for a draft"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda schedule, value: schedule.replace(draft_tokens=schedule.draft_tokens + 1),
            "draft_tokens=1025 and then",
        ),
        (lambda schedule, value: schedule, "no value changes any schedule"),
        (lambda schedule, value: "LongCoT", "no value changes any schedule"),
    ],
)
def test_an_axis_that_violates_a_rule_names_the_rule(change: Any, message: str) -> None:
    try:
        with pytest.raises(AssertionError, match=message):
            check_axis(axis("broken", values=("a",))(change))
    finally:
        AXES.remove("broken")


def test_an_axis_that_scales_or_returns_something_else_is_no_axis_of_a_space() -> None:
    def more(schedule: Schedule, value: int) -> Any:
        return schedule.replace(draft_tokens=schedule.draft_tokens * value) if value else str(schedule)

    axis("more", values=(2,))(more)
    try:
        with pytest.raises(ConfigError, match="set fields, do not scale them"):
            Space(more=(2,))
        with pytest.raises(ConfigError, match="returned str for 0, not a `Schedule`"):
            Space(more=(0,))
    finally:
        AXES.remove("more")


def test_a_space_chooses_on_a_registered_axis(registered: Axis) -> None:
    space = SMALL.fix(rounds=1).extend(room=("short", "long"))
    assert space == Space(**{**SMALL.fix(rounds=1).model_dump(), "room": ("short", "long")})
    assert space.on("room") == ("short", "long")
    assert [(c.schedule.draft_tokens, c.axes) for c in space.candidates()] == [
        (60, {"room": "short"}),
        (90, {"room": "long"}),
    ]
    assert space.size == 2
    assert space.params_of(Candidate(Schedule(widths=(1,), draft_tokens=90), {})) == {"room": "long"}
    assert space.params_of(Candidate(Schedule(widths=(1,), draft_tokens=70), {})) is None
    assert space.fix(room="short").size == space.narrow(room=("long",)).size == 1
    assert space.extend(room=(None,)).size == 2  # 60 tokens are its own
    assert "room" in str(space)
    assert space.widest().draft_tokens == 90
    with pytest.raises(ConfigError, match="has 'wide', which is not in"):
        space.narrow(room=("wide",))
    assert Space(**json.loads(space.model_dump_json())) == space


def test_a_combination_that_a_registered_axis_refuses_is_left_out() -> None:
    axis("picks", values=(1, 4))(lambda schedule, value: schedule.replace(k=value))
    try:
        space = Space(rounds=(2,), widths=(2, 8), distiller=("random_k",), k=(1,), picks=(1, 4))
        assert {(s.widths[0], s.k) for s in space.schedules()} == {(2, 1), (8, 1), (8, 4)}
        optimizer = PDROptimizer(Exact(), space=space.extend(rounds=(1,)), trials=30, finalists=1, confirm_repeats=1)
        with dspy.context(lm=scripted_lm(reasoner)):
            optimizer.compile(student(), trainset=questions(4), valset=questions(4, 100))
        assert optimizer.result is not None
        assert {t.schedule.k for t in optimizer.result.trials if t.schedule.widths == (8, 1)} == {1, 4}
    finally:
        AXES.remove("picks")


def test_the_command_line_names_a_registered_axis(registered: Axis) -> None:
    assert with_axes(SMALL, ["room=short,none"]).axes == {"room": ("short", None)}
    assert with_axes(SMALL, ["room"]).axes == {"room": (None, "short", "long")}
    with pytest.raises(ConfigError, match=r"`--axis rom=short`: there is no axis 'rom'; the axes are rounds,.* room"):
        with_axes(SMALL, ["rom=short"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"room": ()}, r"`Space\(room=\(\)\)` is empty"),
        ({"room": ("short", "short")}, "a duplicate candidate"),
        ({"room": "short"}, "must be a list"),
        ({"room": ("wide",)}, r"'wide' is refused by the axis \(KeyError"),
        ({"room": ((1, 2),)}, "must be a text, a number, a boolean or None"),
        ({"axes": {"lost": ("a",)}}, "there is no axis 'lost' here"),
        (
            {"axes": {"lost": ("a",)}, "axes_from": {"lost": "far.away:lost"}},
            "defined as `far.away:lost`: install `far`",
        ),
        ({"axes": ("room",)}, "must map the names of registered axes"),
    ],
)
def test_a_space_that_cannot_be_is_named(registered: Axis, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space(**values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, (1,)) for name in ("kappa", "width_3", "monotone", "draft_demos", "instructions", "a b")),
        *(("room", values) for values in ("short", (), (None, None), ((1,),), 3)),
    ],
)
def test_an_axis_that_cannot_be_registered_is_refused(name: str, values: Any) -> None:
    with pytest.raises(ConfigError):
        axis(name, values=values)(room)
    assert "room" not in AXES


@pytest.mark.slow
def test_a_search_chooses_on_it_and_the_winner_needs_it_no_more(registered: Axis, tmp_path: Path) -> None:
    space = SMALL.narrow(rounds=(1, 2), widths=(2, 4)).extend(room=("short", "long"))
    optimizer = PDROptimizer(Exact(), space=space, trials=12, finalists=2, confirm_repeats=1, run_dir=tmp_path)
    with dspy.context(lm=scripted_lm(reasoner)):
        optimizer.compile(student(), trainset=questions(16), valset=questions(16, 100))
    result = optimizer.result
    assert result is not None
    assert {"short", "long"} <= {trial.axes.get("room") for trial in result.trials}
    for trial in result.trials:
        if "room" in trial.axes:
            assert trial.schedule.draft_tokens == CAPS[trial.axes["room"]]
            assert f"room={trial.axes['room']}" in str(trial)
    assert any(one.name == "room" for one in search_tables.importance(search_tables.read_search(tmp_path).trials))
    AXES.remove("room")
    again: Any = load(tmp_path / "best.json")
    assert again.schedule == result.program.schedule  # type: ignore[attr-defined]
    facts = search_tables.read_search(tmp_path)
    assert [trial.axes for trial in facts.trials] == [trial.axes for trial in result.trials]


SOURCE = '''
from pdr_dspy import axis

@axis("budget", values=("small", "large"))
def budget(schedule, value):
    """Tokens of a draft."""
    return schedule.replace(draft_tokens={"small": 60, "large": 80}[value])
'''


@pytest.mark.slow
def test_an_axis_of_an_installed_package_is_missed_by_name_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {"pdr_dspy.axes": {"budget": "pdr_budget:budget"}}
    site = write_package(tmp_path / "site", "pdr-budget", {"pdr_budget.py": SOURCE}, home)
    settings: dict[str, Any] = {"trials": 2, "finalist_repeats": 1, "confirm_repeats": 1, "run_dir": tmp_path / "run"}
    with monkeypatch.context() as installed:
        installed.syspath_prepend(str(site))
        assert "budget" in AXES
        assert "pdr_budget" not in sys.modules
        space = SMALL.fix(rounds=1).extend(budget=("small", "large"))
        with dspy.context(lm=scripted_lm(reasoner)):
            PDROptimizer(Exact(), space=space, **settings).compile(
                student(), trainset=questions(6), valset=questions(6, 100)
            )
    AXES.remove("budget")
    sys.modules.pop("pdr_budget", None)
    journal = read_journal(tmp_path / "run")
    assert journal is not None
    stored = journal.description["settings"]["space"]
    assert stored["axes_from"] == {"budget": "pdr_budget:budget"}
    with pytest.raises(ConfigError, match=r"no axis 'budget' here.*install `pdr_budget`"):
        SearchSettings(space=stored)


# --- checks and the choice of the answer -----------------------------------------------------------------------------


def test_final_lets_the_last_round_be_wide_and_what_needs_a_check_has_one() -> None:
    narrow = Space(rounds=(1, 2), widths=(1, 3), distiller=("random_k",), k=(1,), check=(None, "c"))
    space = narrow.extend(final=("vote", "best"))
    every = list(space.schedules())
    assert {schedule.widths for schedule in every} == {(1,), (3,), (1, 1), (3, 1), (3, 3)}
    assert {(s.final, s.check) for s in map(canonical, every) if s.widths == (3,)} == {
        ("vote", None),
        ("vote", "c"),
        ("best", "c"),
    }
    assert all(schedule.check for schedule in every if schedule.needs_check)
    assert len(set(map(canonical, every))) == space.size
    for schedule in every:
        assert schedule in space
    assert Schedule(widths=(3,), final="weighted", check="c") not in space


def test_what_goes_by_a_check_is_chosen_where_there_is_one() -> None:
    space = Space(rounds=(2,), widths=(2,), distiller=("random_k",), k=(1,), check=(None, "c"), stop_at=(None, 1.0))
    assert {(s.check, s.stop_at) for s in space.schedules()} == {(None, None), ("c", None), ("c", 1.0)}
    mixed = Space(rounds=(2,), widths=(2,), distiller=("random_k", "checked"), k=(1,), check=(None, "c"))
    assert {(s.distiller, s.check) for s in mixed.schedules()} == {
        ("random_k", None),
        ("random_k", "c"),
        ("checked", "c"),
    }


@pytest.mark.parametrize(
    "values",
    [{"final": ("best",)}, {"keep": (True,)}, {"stop_at": (None, 0.5)}, {"distiller": ("checked",)}],
    ids=lambda values: next(iter(values)),
)
def test_what_goes_by_a_check_without_one_is_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=rf"`Space\({name}=...\)` has .*uses a check"):
        Space(**values)
    if name == "final":
        with pytest.raises(ConfigError, match="take None out of `check`"):
            Space(**values, check=(None, "c"))
    else:
        Space(**values, check=(None, "c"))
    Space(**values, check=("c",))


def test_a_check_that_the_program_lacks_is_refused_before_a_call() -> None:
    lm = scripted_lm(reasoner)
    optimizer = PDROptimizer(Exact(), space=SMALL.extend(check=("units",)))
    with dspy.context(lm=lm), pytest.raises(ConfigError, match="names 'units', which is not a check of the program"):
        optimizer.compile(student(), trainset=questions(4), valset=questions(4, 100))
    assert lm.served.calls == 0


@pytest.mark.slow
def test_a_student_that_votes_is_in_the_space_around_it_and_is_searched() -> None:
    vote = SelfConsistency("question -> answer", n=5, draft_tokens=60, kappa=200)
    space = Space.default_for(vote.schedule)
    assert vote.schedule in space
    assert LongCoT("question -> answer", draft_tokens=60, kappa=200).schedule in space
    optimizer = PDROptimizer(Exact(), trials=6, finalists=1, confirm_repeats=1)
    with dspy.context(lm=scripted_lm(reasoner)):
        optimizer.compile(vote, trainset=questions(8), valset=questions(8, 100))
    assert optimizer.result is not None
    assert optimizer.result.trials[0].schedule == vote.schedule
    finals = {trial.schedule.final for trial in optimizer.result.trials if trial.schedule.widths[-1] > 1}
    assert finals <= {"vote", "medoid"}
    assert "vote" in finals


def test_settings_are_the_values_in_force() -> None:
    wide = Schedule(widths=(4, 2), final="vote", distiller="summary", draft_tokens=100, kappa=64)
    assert settings_of(wide) == {
        **{"rounds": 2, "width_1": 4, "width_last": 2, "distiller": "summary", "check": None, "final": "vote"},
        **{"draft_tokens": 100, "thinking_tokens": 0, "temperature": 1.0, "top_p": 1.0, "kappa": 64},
        **{"refine_tokens": 100, "tally": False, "quorum": 1.0, "agree": 1.0},
        **{"distill_tokens": 64, "distill_temperature": 1.0, "json_fallback": True},
        **dict.fromkeys(("draft_model", "refine_model", "distill_model")),
    }
    assert settings_of(Schedule(widths=(1,))).keys() == {
        *("rounds", "draft_tokens", "thinking_tokens", "temperature", "top_p", "json_fallback", "draft_model")
    }


def test_an_axis_is_a_frozen_value() -> None:
    one: Any = TABLE[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "other"
    with pytest.raises(ConfigError, match="must be a tuple of candidates"):
        dataclasses.replace(one, default=())
