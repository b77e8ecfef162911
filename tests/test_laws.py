"""The laws that the rest of the library leans on, each on a scripted model."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import Role
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, count_words
from tests.support.solver import engine, role_of, solver

QA = "question -> answer"
WIDE: dict[str, Any] = {"widths": (5, 3, 1), "k": 2, "draft_tokens": 200, "kappa": 120}
EVERY = ["summary", "topk", "topk_per_sample", "random_k"]


def ask(program: dspy.Module, lm: ScriptedLM, question: str = "What is 1 + 1?", **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(question=question, **options)


def sent(lm: ScriptedLM) -> list[tuple[str, str, int, int | None, float | None]]:
    return sorted((r.system, r.user, r.seed, r.cap, r.temperature) for r in lm.served.requests)


def test_pdr_of_one_round_makes_the_calls_of_long_cot() -> None:
    one, other = engine(), engine()
    ask(PDR(QA, widths=(1,), draft_tokens=99), one)
    ask(LongCoT(QA, draft_tokens=99), other)
    assert sent(one) == sent(other)
    assert one.served.calls == 1


@pytest.mark.parametrize("critique", [False, True])
def test_sequential_refinement_has_nothing_beside_its_path(critique: bool) -> None:
    ledger = ask(SR(QA, rounds=4, critique=critique), engine()).ledger
    assert ledger.total == ledger.sequential > 0
    assert len(ledger) == (7 if critique else 4)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from([*EVERY, "last"]),
    st.integers(0, 10_000),
)
def test_the_ledger_holds_what_the_server_served(widths: list[int], distiller: str, seed: int) -> None:
    if distiller == "last":
        widths = [1] * len(widths)
    lm = engine()
    program = PDR(QA, widths=(*widths, 1), distiller=distiller, k=1, kappa=60, draft_tokens=60)
    prediction = ask(program, lm, seed=seed)
    ledger = prediction.ledger
    assert ledger.total == sum(call.tokens for call in ledger.calls) == lm.served.input + lm.served.output
    assert len(ledger) == lm.served.calls == program.schedule.calls
    assert ledger.exact
    assert ledger.sequential <= ledger.total
    if set(widths) <= {1}:
        assert ledger.sequential == ledger.total
    assert ledger.output <= program.schedule.output_bound().total
    assert ledger.sequential_output <= program.schedule.output_bound().sequential


@pytest.mark.slow
@pytest.mark.parametrize("distiller", EVERY)
@pytest.mark.parametrize("kappa", [48, 61, 200])
def test_no_workspace_exceeds_kappa_whatever_the_solutions_are(distiller: str, kappa: int) -> None:
    pieces = [
        "word " * 300,
        "x" * 3000,
        "1\n" * 400,
        "Candidate 9:\n" * 50,
        "。" * 500,
        "a. b! c? " * 200,
        "\\boxed{" * 90,
    ]

    def reply(request: ScriptedRequest) -> str:
        chaos = random.Random(request.seed)
        text = "".join(chaos.choice(pieces) for _ in range(3))
        return text + ("\nSelected: [1]" if role_of(request) == "select" else f"\nAnswer: {request.seed}")

    lm = engine(reply)
    program = PDR(QA, distiller=distiller, **{**WIDE, "kappa": kappa, "draft_tokens": 4000})
    for question in "abc":
        prediction = ask(program, lm, question)
        workspaces = [w for round_ in prediction.rounds for w in round_.workspaces]
        assert workspaces
        for workspace in workspaces:
            assert workspace.tokens == count_words(workspace.text) <= kappa
            assert workspace.sources


def flaky(request: ScriptedRequest) -> str:
    if role_of(request) == "draft" and request.seed % 5 in (1, 3):
        raise dspy.lm15.ServerError("overloaded")
    if role_of(request) == "draft" and request.seed % 5 == 2:
        return "   "
    return solver(request)


def test_failed_drafts_are_counted_and_marked_and_enter_no_workspace() -> None:
    lm = engine(flaky)
    prediction = ask(PDR(QA, distiller="random_k", **WIDE), lm)
    failed = [draft for draft in prediction.rounds[0].drafts if not draft.ok]
    assert len(failed) == 3
    assert prediction.ledger.failed == 3
    assert len(prediction.ledger) == 9
    assert not prediction.ledger.exact
    assert all(draft.failure and not draft.solution and not draft.outputs for draft in failed)
    used = {source for workspace in prediction.rounds[0].workspaces for source in workspace.sources}
    assert used.isdisjoint(draft.index for draft in failed)
    assert prediction.ledger.total == lm.served.input + lm.served.output


@pytest.mark.parametrize("distiller", EVERY)
def test_the_order_in_which_drafts_finish_does_not_matter(distiller: str) -> None:
    def late(order: int):
        def reply(request: ScriptedRequest) -> Completion:
            return Completion(solver(request), delay=random.Random(request.seed * order).random())

        return reply

    program = PDR(QA, distiller=distiller, **WIDE)
    outcomes = []
    for order in (0, 1, 2, 3):
        prediction = ask(program, engine(late(order)))
        plain = [call.model_copy(update={"seconds": 0.0}) for call in prediction.ledger.calls]
        outcomes.append((prediction.rounds, plain, prediction.answer))
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.slow
def test_a_larger_budget_never_stops_earlier() -> None:
    program = PDR(QA, distiller="topk", **WIDE)
    full = ask(program, engine())
    for limit in ("sequential", "total"):
        reached = 0
        for tokens in range(200, 5000, 150):
            try:
                prediction = ask(program, engine(), budget=Budget(**{limit: tokens}))
            except ValueError:
                assert reached == 0
                continue
            assert getattr(prediction.ledger, limit) <= tokens
            assert len(prediction.ledger) >= reached
            assert (prediction.stop == Stop.DONE) == (len(prediction.ledger) == len(full.ledger))
            reached = len(prediction.ledger)
        assert reached == len(full.ledger)


def test_a_budget_below_the_first_round_sends_nothing() -> None:
    lm = engine()
    for budget in (Budget(total=1), Budget(sequential=1)):
        with pytest.raises(ValueError, match="worst case of the first round"):
            ask(PDR(QA, **WIDE), lm, budget=budget)
    assert lm.served.calls == 0


class Parent(dspy.Module):
    def __init__(self, inner: Operator) -> None:
        super().__init__()
        self.steps = [inner]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self.steps[0](**inputs)


@pytest.mark.parametrize("nested", [False, True])
def test_a_saved_program_loaded_makes_the_same_calls(nested: bool, tmp_path: Path) -> None:
    tuned = PDR(QA, distiller="topk", **WIDE).with_schedule(
        PDR(QA, distiller="topk", **{**WIDE, "widths": (3, 2, 1), "temperature": 0.4}).schedule,
        instructions={"draft": "Be brief.", "select": "Pick well."},
    )
    tuned.predictor(Role.DRAFT).demos = [dspy.Example(question="2 + 2?", solution="Add them.", answer="4")]
    fresh = PDR(QA, distiller="topk", widths=(2, 1))
    program, loaded = (Parent(tuned), Parent(fresh)) if nested else (tuned, fresh)
    program.save(str(tmp_path / "program.json"))
    loaded.load(str(tmp_path / "program.json"))
    one, other = engine(), engine()
    assert ask(program, one).answer == ask(loaded, other).answer
    assert sent(one) == sent(other)
    assert one.served.calls == 8


def test_a_saved_program_loads_into_one_of_another_shape(tmp_path: Path) -> None:
    wide = PDR(QA, distiller="summary", **WIDE)
    wide.save(str(tmp_path / "program.json"))
    for fresh in (PDR(QA, widths=(1,)), PDR(QA, distiller="topk", **WIDE), PDR(QA, "paper")):
        fresh.load(str(tmp_path / "program.json"))
        one, other = engine(), engine()
        ask(wide, one)
        ask(fresh, other)
        assert sent(one) == sent(other)
        assert [name for name, _ in fresh.named_predictors()] == [name for name, _ in wide.named_predictors()]


@pytest.mark.parametrize("distiller", EVERY)
def test_a_replay_sends_nothing_and_gives_the_same(distiller: str) -> None:
    program, store = PDR(QA, distiller=distiller, **WIDE), Rollouts()
    first, second = engine(), engine()
    with calls.session(store=store):
        before = ask(program, first)
        after = ask(program, second)
    assert second.served.calls == 0
    assert after.rounds == before.rounds
    assert after.answer == before.answer
    assert (after.ledger.total, after.ledger.sequential) == (before.ledger.total, before.ledger.sequential)
    assert after.ledger.paid == 0
    assert before.ledger.reused == 0
    assert after.ledger.reused == len(after.ledger)


def straggling(request: ScriptedRequest) -> Completion:
    """As `solver`; of the first drafts every fourth never ends, the others end in an order of their own."""
    number = request.seed % 256
    late = role_of(request) == "draft" and number % 4 == 3
    return Completion(solver(request), delay=math.inf if late else random.Random(request.seed).random())


@pytest.mark.parametrize("distiller", EVERY)
@pytest.mark.parametrize("rule", [{"quorum": 0.6}, {"agree": 0.6}, {"quorum": 0.6, "agree": 0.6}])
def test_rounds_that_end_early_pass_conformance(rule: dict[str, Any], distiller: str) -> None:
    program, store = PDR(QA, distiller=distiller, **{**WIDE, "widths": (7, 3, 1)}, **rule), Rollouts()
    lm = engine(straggling if "quorum" in rule else solver, directly=True)
    with calls.session(store=store):
        before = ask(program, lm)
        ledger = before.ledger
        cut = [call for call in ledger.calls if call.cancelled]
        assert ledger.cancelled == len(cut) == lm.served.cancelled
        assert all(call.fate == "left" and call.failure is None for call in cut)
        assert ledger.total == lm.served.input + lm.served.output + sum(call.tokens for call in cut)
        assert len(ledger) == lm.served.calls + len(cut)
        assert ledger.sequential <= ledger.total
        assert ledger.output <= program.schedule.output_bound().total
        assert ledger.sequential_output <= program.schedule.output_bound().sequential
        for round_ in before.rounds:
            indices = {draft.index for draft in round_.drafts}
            assert all(indices.issuperset(workspace.sources) for workspace in round_.workspaces)
        other = engine()
        after = ask(program, other)
    assert (other.served.calls, after.ledger.paid) == (0, 0)
    assert (after.rounds, after.answer) == (before.rounds, before.answer)
    assert (after.ledger.total, after.ledger.sequential) == (ledger.total, ledger.sequential)


def test_what_agreement_continues_with_does_not_depend_on_the_order_of_finishing() -> None:
    program = PDR(QA, distiller="random_k", **{**WIDE, "widths": (7, 3, 1)}, agree=0.6)

    def late(order: int):
        return lambda request: Completion(solver(request), delay=3 * random.Random(request.seed * order).random())

    outcomes = []
    for order in range(5):
        prediction = ask(program, engine(late(order), directly=True))
        taken = [(call.round, call.index) for call in prediction.ledger.calls if call.fate != "left"]
        outcomes.append((prediction.rounds, taken, prediction.ledger.sequential, prediction.answer))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(outcomes[0][0][0].drafts) < 7


def test_a_wider_schedule_pays_only_for_the_drafts_that_are_new() -> None:
    store, lm = Rollouts(), engine()
    with calls.session(store=store):
        narrow = ask(PDR(QA, distiller="random_k", **{**WIDE, "widths": (3, 1)}), lm)
        wide = ask(PDR(QA, distiller="random_k", **{**WIDE, "widths": (7, 1)}), lm)
    assert wide.rounds[0].drafts[:3] == narrow.rounds[0].drafts
    assert [call.reused for call in wide.ledger.calls[:7]] == [True] * 3 + [False] * 4


def test_random_k_gives_the_next_drafts_subsets_of_their_own() -> None:
    prediction = ask(PDR(QA, distiller="random_k", widths=(12, 8, 1), k=3, draft_tokens=100), engine())
    subsets = [workspace.sources for workspace in prediction.rounds[0].workspaces]
    assert len(set(subsets)) > 4
    assert all(len(set(subset)) == 3 for subset in subsets)


@pytest.mark.parametrize("distiller", ["random_k", "summary", "topk"])
def test_a_workspace_is_made_of_the_round_before_it_and_nothing_older(distiller: str) -> None:
    def reply(request: ScriptedRequest) -> str:
        role = role_of(request)
        if role == "select":
            return "Selected: [1, 2]"
        if role == "distill":
            return "seen: " + " ".join(word for word in request.user.split() if word.startswith("made"))
        return f"made{request.seed} here.\nAnswer: 1"

    lm = engine(reply)
    prediction = ask(PDR(QA, distiller=distiller, widths=(4, 3, 2, 1), k=2, draft_tokens=100, kappa=300), lm)
    for older, newer in zip(prediction.rounds, prediction.rounds[1:], strict=False):
        for workspace in newer.workspaces:
            assert all(draft.solution.split()[0] not in workspace.text for draft in older.drafts)
            assert any(draft.solution.split()[0] in workspace.text for draft in newer.drafts)


@pytest.mark.parametrize("distiller", [*EVERY, "last"])
def test_thinking_never_enters_a_prompt(distiller: str) -> None:
    lm = engine(lambda request: Completion(solver(request), thought=f"secret musings {request.seed}"))
    widths = (1, 1, 1) if distiller == "last" else WIDE["widths"]
    prediction = ask(PDR(QA, distiller=distiller, **{**WIDE, "widths": widths}, thinking_tokens=20), lm)
    assert not any("musings" in request.user or "think>" in request.user for request in lm.served.requests)
    assert not any("musings" in draft.solution for round_ in prediction.rounds for draft in round_.drafts)
    assert prediction.ledger.total == lm.served.input + lm.served.output


def test_candidates_are_shuffled_and_the_seed_alone_decides_how() -> None:
    def order(seed: int) -> tuple[int, ...]:
        prediction = ask(PDR(QA, distiller="summary", widths=(8, 1), draft_tokens=100), engine(), seed=seed)
        return prediction.rounds[0].workspaces[0].sources

    orders = [order(seed) for seed in range(6)]
    assert len(set(orders)) >= 5
    assert tuple(range(8)) not in orders
    assert all(sorted(sources) == list(range(8)) for sources in orders)
    assert order(3) == orders[3]


def test_seeds_depend_on_question_place_and_run_but_not_on_the_schedule() -> None:
    lm = engine()
    ask(PDR(QA, widths=(4, 1)), lm)
    ask(PDR(QA, distiller="random_k", widths=(2, 2, 1), k=1), lm)
    drafts = [request.seed for request in lm.served.requests if role_of(request) == "draft"]
    assert drafts[4:] == drafts[:2]
    assert len(set(drafts)) == 4
    other = engine()
    ask(PDR(QA, widths=(4, 1)), other, seed=1)
    ask(PDR(QA, widths=(4, 1)), other, question="another?")
    assert not {request.seed for request in other.served.requests} & set(drafts)


def test_every_call_is_marked_with_its_phase_and_place() -> None:
    ledger = ask(PDR(QA, distiller="topk_per_sample", **WIDE), engine()).ledger
    places = [(call.phase, call.round, call.index) for call in ledger.calls]
    assert len(set(places)) == len(places)
    assert [place for place in places if place[0] is Phase.SELECT] == [
        (Phase.SELECT, 1, 0),
        (Phase.SELECT, 1, 1),
        (Phase.SELECT, 1, 2),
        (Phase.SELECT, 2, 0),
    ]
