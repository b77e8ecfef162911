from __future__ import annotations

import copy
import random
from typing import Any, Literal, cast

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.operators.final import plurality
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest
from tests.support.solver import engine, role_of, solver

QA = "question -> answer"


def ask(program: dspy.Module, lm: ScriptedLM, **inputs: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(**({"question": "q"} | inputs))


def roles(program: Operator) -> list[str]:
    return [name for name, _ in program.named_predictors()]


def test_an_operator_holds_exactly_the_predictors_that_it_calls() -> None:
    assert roles(LongCoT(QA)) == ["draft"]
    assert roles(SR(QA)) == ["draft", "refine"]
    assert roles(SR(QA, rounds=1)) == ["draft"]
    assert roles(SR(QA, critique=True)) == ["draft", "refine", "critique"]
    assert roles(PDR(QA, distiller="summary")) == ["draft", "refine", "distill"]
    assert roles(PDR(QA, "quality")) == ["draft", "refine", "select"]
    assert roles(PDR(QA, "fast")) == ["draft", "refine"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SR(QA, rounds=0), r"SR\(rounds=0\)"),
        (lambda: SR(QA, rounds=True), r"SR\(rounds=True\)"),
        (lambda: SR(QA, widths=(1, 1)), "`widths` is fixed"),
        (lambda: LongCoT(QA, widths=(2, 1)), "`widths` is fixed"),
        (lambda: PDR(QA, schedule=cast(Any, (8, 1))), "must be a Schedule or the name of a preset"),
        (lambda: PDR(QA, "grand"), "unknown; choose one of"),
        (lambda: PDR(QA, depth=3), r"depth=3.*there is no `depth`; check its spelling"),
        (lambda: PDR("answer"), "not a DSPy signature"),
        (lambda: PDR("question -> workspace"), "'workspace'"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"question": "q", "hint": "h"}, "'hint' is not one of them"),
        ({"query": "q"}, "'question' is missing and 'query' is not one of them"),
        ({"question": "q", "budget": 500}, r"budget=500.*in tokens"),
    ],
)
def test_inputs_are_checked_before_anything_is_sent(inputs: dict[str, Any], message: str) -> None:
    lm = engine()
    with dspy.context(lm=lm), pytest.raises(ConfigError, match=message):
        LongCoT(QA)(**inputs)
    assert lm.served.calls == 0


@pytest.mark.parametrize(
    "program", [LongCoT(QA), SR(QA, critique=True), PDR(QA, "quality")], ids=lambda p: str(p.schedule)
)
def test_running_writes_nothing_to_the_program(program: Operator) -> None:
    def state() -> Any:
        own = {name: id(value) for name, value in vars(program).items() if name != "history"}
        return own, [(name, copy.deepcopy(p.dump_state())) for name, p in program.named_parameters()]

    before = state()
    ask(program, engine())
    assert state() == before


def test_the_users_outputs_come_first_on_the_prediction() -> None:
    prediction = ask(PDR("question -> answer: int", "fast"), engine())
    assert list(prediction.keys()) == ["answer", "solution", "ledger", "rounds", "stop"]
    assert isinstance(prediction.answer, int)
    assert prediction.stop is Stop.DONE
    assert prediction.solution.endswith(f"Answer: {prediction.answer}")


class Place(BaseModel):
    city: str
    year: int


class Rich(dspy.Signature):
    """Say where and when."""

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    sure: Literal["yes", "maybe"] = dspy.OutputField()
    places: list[int] = dspy.OutputField()
    place: Place = dspy.OutputField()


def test_tasks_with_several_typed_fields_run_through_every_role() -> None:
    def reply(request: ScriptedRequest) -> str:
        if "Selected: <" in request.user:
            return "Selected: [1]"
        if "Sure: <" not in request.user:
            return "notes"
        return 'It is so.\nSure: maybe\nPlaces: [1, 2]\nPlace: {"city": "Rome", "year": 1960}'

    for program in (PDR(Rich, distiller="topk", k=1), PDR(Rich), SR(Rich, critique=True), LongCoT(Rich)):
        prediction = ask(program, engine(reply), context="c")
        assert (prediction.sure, prediction.places) == ("maybe", [1, 2])
        assert prediction.place == Place(city="Rome", year=1960)
        assert prediction.stop is Stop.DONE


def answers(by_role: dict[str, Any]) -> ScriptedLM:
    """A model whose text for each role is given; a function is called with the seed."""

    def reply(request: ScriptedRequest) -> str | Completion:
        text: Any = by_role[role_of(request)]
        return cast("str", text(request.seed)) if callable(text) else text

    return engine(reply)


def test_an_unreadable_last_draft_falls_back_to_the_plurality_before_it() -> None:
    votes = ["3", "5", "5", "4"]
    lm = answers({"draft": lambda seed: f"Answer: {votes[seed % 256]}", "refine": "I give up."})
    prediction = ask(PDR(QA, widths=(4, 1), distiller="random_k"), lm)
    assert (prediction.answer, prediction.stop) == ("5", Stop.FELL_BACK)
    assert prediction.solution == "Answer: 5"


def test_without_any_answer_the_outputs_are_none_and_it_is_reported() -> None:
    lm = answers({"draft": "hm.", "refine": "hm."})
    prediction = ask(PDR("question -> answer: int, unit", widths=(3, 1), distiller="random_k"), lm)
    assert (prediction.answer, prediction.unit, prediction.stop) == (None, None, Stop.NO_ANSWER)


def test_a_truncated_last_draft_is_never_passed_off_as_an_answer() -> None:
    lm = answers({"draft": "Answer: 7", "refine": "So it is one thousand and then Answer: 12345"})
    prediction = ask(PDR("question -> answer: int", widths=(1, 1), distiller="random_k", k=1, refine_tokens=9), lm)
    assert prediction.rounds[1].drafts[0].truncated
    assert (prediction.answer, prediction.stop) == (7, Stop.FELL_BACK)


def test_the_plurality_takes_the_first_of_equals_and_ignores_case() -> None:
    made = [
        Draft(round=1, index=n, outputs={"answer": answer}) for n, answer in enumerate(["b", "Paris", "a", "PARIS"])
    ]
    assert plurality(made, ["answer"]).index == 1
    assert plurality(made[::2], ["answer"]).index == 0


def test_a_round_in_which_all_drafts_fail_raises_with_what_was_spent() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "refine":
            raise dspy.lm15.ServerError("gone")
        return solver(request)

    with pytest.raises(RoundFailed, match=r"all 1 drafts of round 2 failed.*gone") as failed:
        ask(PDR(QA, widths=(3, 1), distiller="random_k"), engine(reply))
    assert len(failed.value.ledger) == 4
    assert failed.value.ledger.failed == 1
    assert failed.value.ledger.total > 0


def test_a_thought_that_fills_the_cap_is_reported_with_the_remedy() -> None:
    lm = engine(lambda request: "<think>on and on")
    with pytest.raises(RoundFailed, match=r"inside its thought; raise `thinking_tokens=7`"):
        ask(LongCoT("question -> answer", thinking_tokens=7), lm)


def test_a_failed_distiller_does_not_end_the_program() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) in ("distill", "select", "critique"):
            raise dspy.lm15.ServerError("gone")
        return solver(request)

    for program in (PDR(QA, distiller="summary"), PDR(QA, "quality"), SR(QA, critique=True)):
        prediction = ask(program, engine(reply))
        assert prediction.stop is Stop.DONE
        assert prediction.ledger.failed >= 1


def test_drafts_whose_workspace_is_empty_start_afresh_beside_the_others() -> None:
    lm = engine()
    program = PDR(QA, widths=(3, 2, 1), distiller="oracle_correct", k=1, draft_tokens=100)
    with calls.session(oracle=lambda outputs: 0.0):
        prediction = ask(program, lm)
    assert {call.phase for call in prediction.ledger.calls} == {Phase.DRAFT}
    assert not any(role_of(request) == "refine" for request in lm.served.requests)
    seeds = [request.seed for request in lm.served.requests]
    assert len(set(seeds)) == 6


def test_critique_is_read_by_the_refiner() -> None:
    lm = answers({"draft": "Answer: 1", "critique": "the carry is missing", "refine": "Answer: 2"})
    prediction = ask(SR(QA, rounds=2, critique=True), lm)
    (refined,) = [request for request in lm.served.requests if "Flaws found" in request.user]
    assert "the carry is missing" in refined.user
    assert [call.phase for call in prediction.ledger.calls] == [Phase.DRAFT, Phase.CRITIQUE, Phase.REFINE]


def test_budget_stops_are_reported_and_answered_from_what_there_is() -> None:
    program = PDR(QA, widths=(4, 4, 1), distiller="random_k", draft_tokens=60)
    full = ask(program, engine())
    first = sum(call.tokens for call in full.ledger.calls[:4])
    prediction = ask(program, engine(), budget=Budget(total=first + 4 * (60 + 120)))
    assert prediction.stop is Stop.BUDGET
    assert len(prediction.rounds) == 1
    votes = [draft.outputs["answer"] for draft in prediction.rounds[0].drafts]
    assert votes.count(prediction.answer) == max(votes.count(vote) for vote in votes)
    with pytest.raises(BudgetTooSmall, match=r"Budget\(.*total=10.*first round"):
        ask(program, engine(), budget=Budget(total=10))


@pytest.mark.slow
@pytest.mark.parametrize("distiller", ["summary", "topk", "topk_per_sample", "random_k"])
def test_no_limit_is_ever_exceeded(distiller: str) -> None:
    dice = random.Random(3)
    program = PDR(QA, widths=(3, 2, 1), distiller=distiller, k=2, draft_tokens=40, kappa=60)
    stops = set()
    for _ in range(25):
        limits = {name: dice.randrange(150, 2500) for name in ("sequential", "total") if dice.random() < 0.7}
        try:
            prediction = ask(program, engine(), budget=Budget(**limits))
        except BudgetTooSmall:
            continue
        stops.add(prediction.stop)
        for name, limit in limits.items():
            assert getattr(prediction.ledger, name) <= limit
    assert stops == {Stop.DONE, Stop.BUDGET}


@pytest.mark.slow
def test_caps_beyond_the_context_are_refused_before_anything_is_sent() -> None:
    lm = engine(context_length=300)
    with pytest.raises(ConfigError, match=r"`kappa`.*context is 300; lower"):
        ask(PDR(QA, draft_tokens=100, kappa=200), lm)
    with pytest.raises(ConfigError, match="thinking included"):
        ask(LongCoT(QA, draft_tokens=100, thinking_tokens=300), lm)
    assert lm.served.calls == 0
    ask(PDR(QA, draft_tokens=50, kappa=60), lm)


REFUSALS = [
    ("This model's maximum context length is 400 tokens. However, you requested 650 tokens.", "400"),
    ("request (650 tokens) exceeds the available context size (1,024 tokens), try increasing it", "1024"),
    ("the request exceeds the available context size", None),
]


@pytest.mark.parametrize(("said", "limit"), REFUSALS)
@pytest.mark.parametrize("early", [{}, {"quorum": 0.5}])
def test_a_refusal_for_length_names_what_decides_it(said: str, limit: str | None, early: dict[str, Any]) -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "refine":
            raise dspy.lm15.ContextLengthError(said, status=400)
        return solver(request)

    program = PDR(QA, widths=(3, 3, 1), distiller="random_k", kappa=300, refine_tokens=77, **early)
    with pytest.raises(RoundFailed) as failed:
        ask(program, engine(reply))
    message = str(failed.value)
    assert "all 3 drafts of round 2 failed" in message
    assert (f"the model's context of {limit} tokens is too small" in message) == (limit is not None)
    assert "up to `kappa=300`" in message
    assert "77 for the answer; lower `kappa` or the caps, or serve the model with a longer context" in message
    assert said in message
    refused = [call for call in failed.value.ledger.calls if call.round == 2]
    assert all(call.failure and call.failure.startswith("the model's context") for call in refused)
    size = failed.value.args[0].split("refine prompt of about ")[1].split()[0]
    assert 100 < int(size) < 400


def test_a_first_draft_beyond_the_context_does_not_blame_the_workspace() -> None:
    def reply(request: ScriptedRequest) -> str:
        raise dspy.lm15.ContextLengthError("too many tokens", status=400)

    with pytest.raises(RoundFailed, match=r"draft prompt of about \d+ tokens, and 1024 for the answer; lower the caps"):
        ask(LongCoT(QA), engine(reply))


def test_a_distiller_beyond_the_context_is_a_failed_call_that_says_so() -> None:
    def reply(request: ScriptedRequest) -> str:
        if role_of(request) == "distill":
            raise dspy.lm15.ContextLengthError("too many tokens", status=400)
        return solver(request)

    prediction = ask(PDR(QA, distiller="summary"), engine(reply))
    (call,) = [call for call in prediction.ledger.calls if call.phase is Phase.DISTILL]
    assert call.failure is not None
    assert "the solutions of the round in it" in call.failure
    assert "lower the caps or the widths" in call.failure
    assert prediction.stop is Stop.DONE


def test_the_widest_round_is_256_drafts_with_seeds_of_their_own() -> None:
    lm = engine()
    prediction = ask(PDR(QA, widths=(256, 1), distiller="random_k", draft_tokens=50), lm)
    assert len({request.seed for request in lm.served.requests}) == 257
    assert len(prediction.rounds[0].drafts) == 256


def test_the_smallest_schedule_runs() -> None:
    prediction = ask(PDR(QA, widths=(2, 1), kappa=48, distiller="random_k", draft_tokens=1), engine())
    assert prediction.stop is Stop.NO_ANSWER
    assert prediction.ledger.truncated == 3


def test_caps_and_temperatures_of_each_role() -> None:
    lm = engine()
    schedule = Schedule(
        draft_tokens=100,
        refine_tokens=70,
        distill_tokens=30,
        thinking_tokens=5,
        temperature=0.9,
        distill_temperature=0.2,
    )
    ask(PDR(QA, schedule), lm)
    settings = {(role_of(r), r.cap, r.temperature) for r in lm.served.requests}
    assert settings == {("draft", 105, 0.9), ("distill", 35, 0.2), ("refine", 75, 0.9)}


# --- other schedules


def test_with_schedule_keeps_what_was_tuned_and_leaves_the_original() -> None:
    program = PDR(QA, distiller="topk", k=2)
    program = program.with_schedule(program.schedule, instructions={"draft": "Tuned draft.", "refine": "Tuned refine."})
    before = program.dump_state()
    wide = program.with_schedule(Schedule(widths=(8, 4, 1), distiller="summary"))
    assert program.dump_state() == before
    assert roles(wide) == ["draft", "refine", "distill"]
    lm = engine()
    ask(wide, lm)
    assert lm.served.calls == 8 + 1 + 4 + 1 + 1
    systems = {role_of(r): r.system for r in lm.served.requests}
    assert systems["draft"].startswith("Tuned draft.")
    assert systems["refine"].startswith("Tuned refine.")
    with pytest.raises(ConfigError, match="'judge'; the roles are"):
        program.with_schedule(program.schedule, instructions={"judge": "x"})


def test_default_instructions_follow_the_schedule() -> None:
    program = PDR(QA, distiller="topk", k=2, widths=(4, 1))
    more = program.with_schedule(program.schedule.replace(k=3))
    assert "pick the 3" in signature_of(more.predictor(Role.SELECT)).instructions
    state = more.with_schedule(Schedule(widths=(1, 1), distiller="last"))
    assert "previous solution" in signature_of(state.predictor(Role.REFINE)).instructions


def test_copies_keep_the_schedule() -> None:
    program = PDR(QA, "quality", kappa=777)
    for twin in (program.deepcopy(), program.reset_copy(), copy.deepcopy(program)):
        assert twin.schedule == program.schedule
        assert roles(twin) == roles(program)


def test_an_lm_of_its_own_for_one_role_is_used() -> None:
    main, other = engine(), engine()
    program = PDR(QA, distiller="summary")
    program.predictor(Role.DISTILL).lm = other
    ask(program, main)
    assert (main.served.calls, other.served.calls) == (5, 1)
    assert role_of(other.served.requests[0]) == "distill"


def test_equal_sibling_prompts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[str]] = []
    count = ScriptedLM.count_tokens

    async def counting(lm: ScriptedLM, texts: Any) -> Any:
        counted.append([text for text in texts if "twice two" in text])
        return await count(lm, texts)

    monkeypatch.setattr(ScriptedLM, "count_tokens", counting)
    program = PDR("question -> answer: int", widths=(8, 4, 1), distiller="topk_per_sample", k=2)
    with dspy.context(lm=engine()):
        prediction = program(question="twice two", budget=Budget(total=10**6))
    assert prediction.stop is Stop.DONE
    prompts = [stage for stage in counted if stage]
    assert len(prompts) >= 5  # the first round, and two stages of each later one
    assert all(len(stage) == len(set(stage)) <= 4 for stage in prompts)
    assert [len(stage) for stage in prompts][:2] == [1, 1]  # 8 drafts, then 4 selections
