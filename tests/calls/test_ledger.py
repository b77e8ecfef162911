from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Call, Ledger, Phase, Usage
from pdr_dspy.errors import ConfigError


def call(phase: Phase, round_: int, tokens: int, **more: object) -> Call:
    return Call(phase=phase, round=round_, usage=Usage(input=1, output=tokens - 1), **more)  # type: ignore[arg-type]


def test_sequential_takes_the_dearest_sibling_of_each_stage() -> None:
    ledger = Ledger(
        calls=(
            call(Phase.DRAFT, 1, 10),
            call(Phase.DRAFT, 1, 30),
            call(Phase.DISTILL, 1, 7),
            call(Phase.REFINE, 2, 5),
            call(Phase.JUDGE, 2, 100),
            call(Phase.PROPOSE, 1, 900),
        )
    )
    assert ledger.total == 1052
    assert ledger.sequential == 30 + 7 + 5
    assert ledger.output == 1052 - 6
    assert ledger.sequential_output == 29 + 6 + 4


def test_drafts_that_start_afresh_beside_refinements_are_one_stage() -> None:
    ledger = Ledger(calls=(call(Phase.DRAFT, 2, 10), call(Phase.REFINE, 2, 30)))
    assert ledger.sequential == 30


def test_unknown_usage_is_unknown_not_zero() -> None:
    assert Usage(input=3).tokens is None
    assert (Usage(input=3, output=1) + Usage(input=2)).output is None
    assert not Ledger(calls=(Call(phase=Phase.DRAFT),)).exact
    assert not Ledger(calls=(call(Phase.DRAFT, 1, 5, estimated=True),)).exact
    assert Ledger(calls=(call(Phase.DRAFT, 1, 5),)).exact


def test_counts_of_failed_truncated_reused_and_paid() -> None:
    ledger = Ledger() + Ledger(
        calls=(
            call(Phase.DRAFT, 1, 5, failure="empty"),
            call(Phase.DRAFT, 1, 6, finish="length"),
            call(Phase.DRAFT, 1, 7, reused=True),
        )
    )
    assert (ledger.failed, ledger.truncated, ledger.reused, ledger.paid, len(ledger)) == (1, 1, 1, 11, 3)


def test_siblings_pay_for_their_prompt_once_however_they_were_asked_for() -> None:
    def sibling(index: int, read: int, wrote: int, prompt: str = "p") -> Call:
        usage = Usage(input=read, output=wrote)
        return Call(phase=Phase.DRAFT, index=index, usage=usage, prompt=prompt)

    together = Ledger(calls=(sibling(0, 50, 10), sibling(1, 0, 90), sibling(2, 0, 30)))
    apart = Ledger(calls=(sibling(0, 50, 10), sibling(1, 50, 90), sibling(2, 0, 30)))
    assert together.sequential == apart.sequential == 50 + 90
    assert (together.total, apart.total) == (180, 230)
    assert together.as_one_run(prompt_once=True) == apart.as_one_run(prompt_once=True) == 180
    assert apart.as_one_run(prompt_once=False) == 230
    two = Ledger(calls=(sibling(0, 50, 10), sibling(1, 60, 90, prompt="q")))
    assert two.as_one_run(prompt_once=True) == two.total == 210


def test_what_a_round_left_counts_in_total_alone_and_drafts_that_can_be_left_pay_for_their_prompts() -> None:
    def draft(index: int, wrote: int, fate: str, **more: object) -> Call:
        usage = Usage(input=50, output=wrote)
        return Call(phase=Phase.DRAFT, index=index, usage=usage, prompt="p", fate=fate, **more)  # type: ignore[arg-type]

    cut = draft(2, 70, "left", finish="cancelled", estimated=True, seconds=9.0)
    ledger = Ledger(calls=(draft(0, 10, "taken", seconds=4.0), draft(1, 90, "left", seconds=3.0), cut))
    assert (ledger.sequential, ledger.sequential_output, ledger.seconds) == (60, 10, 4.0)
    assert ledger.total == ledger.as_one_run(prompt_once=True) == 150 + 170
    assert (ledger.cancelled, ledger.failed, ledger.exact) == (1, 0, False)
    assert cut.cancelled
    assert not draft(1, 90, "left").cancelled


calls_ = st.builds(
    call,
    st.sampled_from([p for p in Phase if p not in (Phase.JUDGE, Phase.PROPOSE)]),
    st.integers(1, 4),
    st.integers(1, 1000),
)


@pytest.mark.slow
@given(st.lists(calls_))
def test_sequential_never_exceeds_total_and_a_ledger_survives_json(calls: list[Call]) -> None:
    ledger = Ledger(calls=tuple(calls))
    assert ledger.sequential <= ledger.total == sum(c.tokens for c in calls)
    assert Ledger.model_validate_json(ledger.model_dump_json()) == ledger


@pytest.mark.slow
@given(st.lists(calls_), st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 2000), st.integers(0, 2000))
def test_what_a_budget_allows_a_larger_one_allows(
    calls: list[Call], limit: int, more: int, sequential: int, extra: int
) -> None:
    spent = Ledger(calls=tuple(calls))
    for small, large in (
        (Budget(sequential=limit), Budget(sequential=limit + more)),
        (Budget(total=limit), Budget(total=limit + more)),
    ):
        if small.allows(spent, sequential=sequential, total=sequential + extra):
            assert large.allows(spent, sequential=sequential, total=sequential + extra)


@pytest.mark.parametrize("settings", [{"sequential": 0}, {"total": -5}, {"tokens": 5}, {"total": "many"}])
def test_a_budget_that_means_nothing_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Budget(**settings)
