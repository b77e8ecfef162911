from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import PRESETS, Schedule, preset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "is empty"),
        ({"widths": (4,)}, r"must end in 1.*\(4, 1\)"),
        ({"widths": (0, 1)}, "below 1"),
        ({"widths": (-2, 1)}, "below 1"),
        ({"widths": (257, 1)}, "above 256"),
        ({"widths": 4}, "widths=4"),
        ({"widths": (2.5, 1)}, r"widths=\(2\.5, 1\)"),
        ({"widths": (2, 1), "distiller": "topk", "k": 3}, r"k=3.*above a width"),
        ({"widths": (8, 2, 1), "distiller": "random_k", "k": 4}, r"k=4.*above a width"),
        ({"kappa": 0}, "kappa=0"),
        ({"kappa": 23}, "kappa=23.*at least 24"),
        ({"kappa": 60, "distiller": "random_k", "k": 3}, "kappa=60.*at least 72"),
        ({"k": 0}, "k=0"),
        ({"draft_tokens": 0}, "draft_tokens=0"),
        ({"refine_tokens": -1}, "refine_tokens=-1"),
        ({"distill_tokens": 0}, "distill_tokens=0"),
        ({"thinking_tokens": -1}, "thinking_tokens=-1"),
        ({"temperature": 2.1}, r"temperature=2\.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"distill_temperature": -0.1}, r"distill_temperature=-0\.1"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"distiller": "last", "widths": (2, 1)}, "keeps one solution"),
        ({"critique": True}, 'needs `distiller="last"`'),
        ({"distiller": "best"}, "distiller='best'"),
        ({"width": (4, 1)}, "width="),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_in_a_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**settings)


def test_a_schedule_is_frozen_and_hashable_and_survives_json() -> None:
    schedule = Schedule(widths=(8, 4, 1), distiller="topk", k=3, thinking_tokens=7)
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
    assert hash(Schedule(**schedule.model_dump(mode="json"))) == hash(schedule)
    with pytest.raises(ValueError, match="frozen"):
        schedule.kappa = 3  # type: ignore[misc]


def test_json_is_checked_like_arguments() -> None:
    with pytest.raises(ValueError, match="must end in 1"):
        Schedule.model_validate_json('{"widths": [4, 2]}')


def test_replace_checks_again() -> None:
    assert Schedule().replace(kappa=100).kappa == 100
    with pytest.raises(ConfigError, match="kappa=3"):
        Schedule().replace(kappa=3)


def test_nominal_figures_of_the_paper() -> None:
    wide = Schedule(widths=(16, 8, 4, 1), distiller="topk_per_sample", k=2)
    assert wide.nominal(24_576) == (172_032, 1_400_832)
    assert wide.replace(distiller="summary").nominal(24_576) == (172_032, 1_400_832)
    assert wide.replace(distiller="random_k").nominal(24_576) == (98_304, 712_704)
    refined = Schedule(widths=(1,) * 18, distiller="last")
    assert refined.nominal(24_576) == (442_368, 442_368)
    assert Schedule(widths=(1,)).nominal(24_576) == (24_576, 24_576)


def test_presets_are_schedules_and_can_be_changed() -> None:
    for name in PRESETS:
        assert preset(name).widths[-1] == 1
    assert preset("paper", kappa=512).kappa == 512
    with pytest.raises(ConfigError, match="unknown; choose one of fast"):
        preset("huge")


def test_names_that_people_read() -> None:
    assert str(Schedule(widths=(1,))) == "LongCoT"
    assert str(Schedule(widths=(1, 1, 1), distiller="last", critique=True)) == "SR x3 +critique"
    assert "8-4-1" in str(Schedule(widths=(8, 4, 1)))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    widths = (*draw(st.lists(st.integers(1, 6), max_size=4)), 1)
    distiller = draw(st.sampled_from(DISTILLERS.names()))
    if distiller == "last":
        widths = (1,) * len(widths)
    return Schedule(
        widths=widths,
        distiller=distiller,  # type: ignore[arg-type]
        k=1,
        critique=distiller == "last" and draw(st.booleans()),
        draft_tokens=draw(st.integers(1, 500)),
        refine_tokens=draw(st.none() | st.integers(1, 500)),
        distill_tokens=draw(st.none() | st.integers(1, 500)),
        thinking_tokens=draw(st.integers(0, 100)),
    )


@pytest.mark.slow
@given(schedules())
def test_bounds_of_every_schedule_agree_with_each_other(schedule: Schedule) -> None:
    bound = schedule.output_bound()
    assert 0 < bound.sequential <= bound.total
    assert schedule.rounds <= schedule.sequential_calls <= schedule.calls
    assert schedule.nominal(1).sequential == schedule.sequential_calls
    if set(schedule.widths) == {1}:
        assert bound.sequential == bound.total
        assert schedule.sequential_calls == schedule.calls


@pytest.mark.parametrize(
    "values", [{"quorum": 0.0}, {"quorum": 1.01}, {"agree": 0.5}, {"agree": 1.0}, {"agree": "yes"}]
)
def test_rules_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"Schedule\({next(iter(values))}="):
        Schedule(**values)


def test_rules_that_are_off_leave_the_data_of_a_schedule_as_it_was() -> None:
    plain = Schedule(widths=(4, 1))
    assert not {"quorum", "agree"} & plain.model_dump(mode="json").keys()
    assert "quorum" not in plain.model_dump_json()
    early = plain.replace(quorum=0.75, agree=0.95)
    assert Schedule(**early.model_dump(mode="json")) == early
    assert early.replace(quorum=1.0, agree=None) == plain
    assert str(early) == "PDR 4-1 summary quorum=0.75 agree=0.95 κ=2048"
    assert early.model_dump(exclude={"agree"}) == plain.model_dump() | {"quorum": 0.75}


@pytest.mark.parametrize(
    ("values", "early"),
    [
        ({"widths": (1,), "quorum": 0.5, "agree": 0.9}, False),
        ({"widths": (4, 1), "quorum": 0.75}, True),
        ({"widths": (4, 1), "quorum": 0.8}, False),  # 3.2 drafts are 4
        ({"widths": (4, 1), "agree": 0.95}, False),  # it takes four that agree
        ({"widths": (5, 1), "agree": 0.95}, True),
    ],
)
def test_which_schedules_can_end_a_round_early(values: dict[str, Any], early: bool) -> None:
    assert Schedule(**values).may_end_early is early


def test_drafts_that_go_to_the_next_round_are_within_the_bound() -> None:
    schedule = Schedule(widths=(8, 4, 1), distiller="topk_per_sample", draft_tokens=10, distill_tokens=1)
    assert schedule.output_bound().total == 13 * 10 + 5
    assert schedule.replace(agree=0.95).output_bound().total == (8 + 8 + 1) * 10 + 8 + 1  # 4 of 8 may agree
    assert schedule.replace(agree=0.95).output_bound().sequential == schedule.output_bound().sequential
