from __future__ import annotations

import copy
from typing import Any, Literal, cast

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.testing import ScriptedLM, ScriptedRequest
from tests.support.solver import engine, role_of

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
        (lambda: PDR(QA, depth=3), r"depth=3.*there is no `depth`; the names are signature, schedule, check"),
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


def test_inputs_are_given_by_keyword() -> None:
    with pytest.raises(ConfigError, match=r"by keyword, `program\(question=...\)`; got \('Why\?',\)"):
        LongCoT(QA)("Why?")


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
