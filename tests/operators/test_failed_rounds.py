"""A later round whose drafts all fail: the program answers from the rounds before it, and says so everywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls import Budget, session
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.evaluation import evaluate
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.records import read_rows
from pdr_dspy.operators import PDR, SR, Operator, Schedule
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import ExactVerifier
from tests.support.checks import QA, SMALL, Marks, ask
from tests.support.solver import role_of


def dies(request: ScriptedRequest) -> Completion:
    raise dspy.lm15.ServerError("connection refused")


def refuses(request: ScriptedRequest) -> Completion:
    raise dspy.lm15.ContextLengthError("too many tokens", status=400)


FAULTS: dict[str, tuple[Callable[[ScriptedRequest], Completion], str]] = {
    "a dead server": (dies, "connection refused"),
    "a refusal for length": (refuses, "the model's context is too small"),
    "an empty reply": (lambda request: Completion(""), "the completion is empty"),
    "white space": (lambda request: Completion(" \n "), "the completion is empty"),
    "a thought that never ends": (lambda request: Completion("<think>on and on"), "inside its thought"),
    "a truncated thought": (lambda request: Completion("", thought="on", finish="length"), "inside its thought"),
}
UNREADABLE: dict[str, Callable[[ScriptedRequest], Completion]] = {
    "a truncated reply": lambda request: Completion("So first I add the two numb", finish="length"),
    "prose without an answer": lambda request: Completion("I give up."),
    "an answer of another type": lambda request: Completion("Answer: blue"),
}


def model(later: Callable[[ScriptedRequest], Completion], *answers: str) -> ScriptedLM:
    """First drafts with these answers, by index; every refinement is `later`."""
    first: list[int] = []

    def reply(request: ScriptedRequest) -> Completion:
        if role_of(request) != "draft":
            return later(request)
        first[:] = first or [request.seed]
        return Completion(f"Work.\nAnswer: {answers[(request.seed - min(first)) % len(answers)]}")

    return scripted_lm(reply, directly=True)


SHAPES = {
    "PDR": {"widths": (4, 1), "distiller": "random_k"},
    "a middle round": {"widths": (4, 2, 1), "distiller": "random_k"},
    "a wide last round": {"widths": (4, 3), "distiller": "random_k", "final": "vote"},
    "a quorum": {"widths": (4, 3, 1), "distiller": "random_k", "quorum": 0.75},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_answers_from_the_rounds_before_and_records_the_failure(
    fault: str, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    later, said = FAULTS[fault]
    settings: dict[str, Any] = SHAPES[shape]
    with caplog.at_level(logging.WARNING, "pdr_dspy"):
        prediction = ask(PDR(QA, **settings, **SMALL), model(later, "3", "5", "5", "4"))
    assert (prediction.answer, prediction.stop) == ("5", Stop.ROUND_FAILED)
    assert len(prediction.rounds) == 2
    failed = prediction.rounds[1].drafts
    assert all(said in str(draft.failure) for draft in failed)
    assert prediction.ledger.failed == len([call for call in prediction.ledger.calls if call.round == 2]) >= len(failed)
    (record,) = caplog.records
    assert f"all {len(failed)} drafts of round 2 failed" in record.getMessage()
    assert said in record.getMessage()


@pytest.mark.parametrize("fault", FAULTS)
def test_with_keep_the_best_checked_draft_is_the_answer(fault: str) -> None:
    check = Marks({"a": 0.2, "b": 0.9, "c": 0.4})
    program = PDR(QA, widths=(4, 1), distiller="checked", k=2, keep=True, check=check, **SMALL)
    prediction = ask(program, model(FAULTS[fault][0], "a", "b", "a", "c"))
    assert (prediction.answer, prediction.stop) == ("b", Stop.ROUND_FAILED)
    assert prediction.solution == "Work.\nAnswer: b"


@pytest.mark.parametrize("reply", UNREADABLE)
def test_with_keep_an_unreadable_refinement_loses_nothing_either(reply: str) -> None:
    check = Marks({"1": 0.2, "2": 0.9, "3": 0.4})
    task = "question -> answer: int"
    program = PDR(task, widths=(4, 1), distiller="checked", k=2, keep=True, check=_Numbers(check.table), **SMALL)
    prediction = ask(program, model(UNREADABLE[reply], "1", "2", "1", "3"))
    assert (prediction.answer, prediction.stop) == (2, Stop.FELL_BACK)


class _Numbers(Marks):
    async def acheck(self, inputs: Any, outputs: Any) -> Any:
        return await super().acheck(inputs, {"answer": str(outputs["answer"])})


def test_a_chain_answers_with_its_last_whole_draft() -> None:
    made: list[str] = []

    def later(request: ScriptedRequest) -> Completion:
        made.append(role_of(request))
        if len(made) > 1:
            raise dspy.lm15.ServerError("gone")
        return Completion("Answer: second")

    prediction = ask(SR(QA, rounds=4, **SMALL), model(later, "first"))
    assert (prediction.answer, prediction.stop, len(prediction.rounds)) == ("second", Stop.ROUND_FAILED, 3)


def test_the_failed_calls_count_towards_a_budget_and_the_path() -> None:
    program = PDR(QA, widths=(2, 1), distiller="random_k", **SMALL)
    prediction = ask(program, model(lambda request: Completion(""), "a", "b"), budget=Budget(total=5000))
    assert prediction.stop is Stop.ROUND_FAILED
    refined = [call for call in prediction.ledger.calls if call.phase == "refine"]
    assert [call.failure for call in refined] == ["the completion is empty"]
    assert prediction.ledger.sequential > max(call.tokens for call in prediction.ledger.calls if call.round == 1)


def test_a_first_round_that_fails_has_nothing_to_answer_from() -> None:
    with pytest.raises(RoundFailed, match="all 1 drafts of round 1 failed"):
        ask(SR(QA, rounds=3, **SMALL), scripted_lm(dies))


def test_a_session_hears_of_it_instead_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    with session(on_failed_round=heard.append):
        ask(PDR(QA, widths=(2, 1), distiller="random_k", **SMALL), model(dies, "a", "b"))
    (why,) = heard
    assert "all 1 drafts of round 2 failed" in why
    assert not caplog.records


# --------------------------------------------------------------------------------------------------------- evaluations


def examples(count: int = 6) -> list[dspy.Example]:
    return [dspy.Example(question=f"q{n}", answer="a", id=f"e{n}").with_inputs("question") for n in range(count)]


def broken(*questions: str, answer: str = "b") -> ScriptedLM:
    """The refinements of these questions fail; all first drafts say "a", and every other refinement `answer`."""

    def reply(request: ScriptedRequest) -> Completion:
        if role_of(request) == "draft":
            return Completion("Answer: a")
        if any(question in request.user for question in questions):
            raise dspy.lm15.ServerError("connection refused")
        return Completion(f"Answer: {answer}")

    return scripted_lm(reply)


class Nested(dspy.Module):
    """A program of another kind with an operator in it."""

    def __init__(self) -> None:
        super().__init__()
        self.solve: Operator = PDR(QA, widths=(2, 1), distiller="random_k", **SMALL)

    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=(await self.solve.acall(question=question)).answer)


PROGRAMS = {"operator": lambda: PDR(QA, widths=(2, 1), distiller="random_k", **SMALL), "module": Nested}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_rows_count_it_and_are_run_again(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = PROGRAMS[kind]()
    with dspy.context(lm=broken("q1", "q4")), caplog.at_level(logging.WARNING, "pdr_dspy"):
        report = evaluate(program, examples(), ExactVerifier(), run_dir=tmp_path)
    by_id = {row.id: row for row in report.rows}
    assert (report.failed, report.failed_rounds) == (0, 2)
    assert (by_id["e1"].answer, by_id["e1"].score, by_id["e0"].score) == ("a", 1.0, 0.0)
    assert "connection refused" in str(by_id["e1"].failure)
    assert by_id["e0"].failure is None
    assert "2 answered without a round that failed" in str(report)
    (said,) = failures_in_words(report.rows)
    assert said.startswith(
        "2 of 6 rows are answered without a round that failed, from the rounds before it, with all 1"
    )
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "question e1 is answered without a round that failed"
    ]
    lm = broken()
    with dspy.context(lm=lm):
        again = evaluate(program, examples(), ExactVerifier(), run_dir=tmp_path)
    assert (again.failed_rounds, again.score) == (0, 0.0)
    assert lm.served.calls == 2  # the two refinements: the drafts before them are in the store
    assert all(row.failure is None for row in read_rows(tmp_path / "rows.jsonl", failed=True).values())


def test_refinements_that_all_fail_stop_an_evaluation() -> None:
    with dspy.context(lm=broken("q")):
        report = evaluate(PROGRAMS["operator"](), examples(20), ExactVerifier(), max_failures=3, max_in_flight=1)
    assert report.stopped is not None
    assert report.stopped.startswith("3 rows failed in a row, the last with: all 1 drafts of round 2 failed")
    assert len(report.rows) < 20


def test_an_answer_without_its_last_round_is_kept_rather_than_an_error(tmp_path: Path) -> None:
    program = PROGRAMS["operator"]()
    for lm in (scripted_lm(dies), broken("q")):
        with dspy.context(lm=lm):
            evaluate(program, examples(1), ExactVerifier(), run_dir=tmp_path)
    (row,) = read_rows(tmp_path / "rows.jsonl", failed=True).values()
    assert (row.error, row.answer) == (None, "a")
    assert not read_rows(tmp_path / "rows.jsonl")


def test_answers_of_earlier_rounds_are_said_if_they_are_many() -> None:
    def reply(request: ScriptedRequest) -> Completion:
        return Completion("Answer: 1" if role_of(request) == "draft" else "I give up.")

    program = PDR("question -> answer: int", Schedule(widths=(2, 1), distiller="random_k", **SMALL))
    with dspy.context(lm=scripted_lm(reply)):
        report = evaluate(program, examples(3), lambda example, prediction: 1.0)
    assert failures_in_words(report.rows) == [
        "3 of 3 rows are answered from an earlier round, since no answer could be read from the last one"
    ]


@pytest.mark.parametrize(("final", "answer"), [("best", "c"), ("weighted", "a"), ("vote", "a"), ("refine", "a")])
def test_final_decides_where_a_last_round_of_one_draft_gives_no_answer(final: Any, answer: str) -> None:
    check = Marks({"a": 0.4, "b": 0.1, "c": 0.7})
    program = PDR(QA, widths=(4, 1), distiller="random_k", final=final, check=check, **SMALL)
    assert ask(program, model(dies, "a", "b", "a", "c")).answer == answer
    whole = model(lambda request: Completion("Answer: z"), "a", "b", "a", "c")
    assert ask(program, whole).answer == "z"  # nothing to select from
