from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import BudgetTooSmall, ConfigError, DataError, StoreError
from pdr_dspy.evaluation.evaluator import aevaluate, evaluate, ids_of
from pdr_dspy.evaluation.records import Report, Row, read_rows
from pdr_dspy.evaluation.statistics import score_interval
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.base import Score
from tests.support.solver import engine, solver, wait

ROOT = Path(__file__).parents[2]
QA = "question -> answer"
SMALL: dict[str, Any] = {"widths": (3, 1), "distiller": "random_k", "k": 2, "draft_tokens": 60, "kappa": 60}


def examples(size: int = 6) -> list[dspy.Example]:
    return [dspy.Example(id=f"e{n}", question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(size)]


class Exact:
    """Equal texts score 1."""

    gold = "answer"

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(float(prediction.get("answer") == example.answer), "compared")

    def check_gold(self, example: dspy.Example) -> None:
        if not example.get("answer"):
            raise DataError(f"example {example.get('id')!r} has no readable `answer`")

    def describe(self) -> dict[str, Any]:
        return {"kind": "Exact"}


def run(program: dspy.Module | None = None, lm: Any = None, **options: Any) -> Report:
    with dspy.context(lm=engine() if lm is None else lm):
        return evaluate(
            PDR(QA, **SMALL) if program is None else program,
            options.pop("examples", examples()),
            options.pop("verifier", Exact()),
            **options,
        )


def test_a_row_for_each_example_and_repeat() -> None:
    lm, seen = engine(), []
    report = run(lm=lm, repeats=3, progress=lambda row, done, count: seen.append((row.id, done, count)), name="mine")
    assert len(report.rows) == 18
    assert {(row.id, row.repeat) for row in report.rows} == {(f"e{n}", k) for n in range(6) for k in range(3)}
    assert sorted(done for _, done, _ in seen) == list(range(1, 19))
    assert {count for *_, count in seen} == {18}
    assert sum(row.total for row in report.rows) == lm.served.input + lm.served.output == report.paid
    assert len({row.seed for row in report.rows}) == 3
    assert str(report).startswith("mine: score ")
    for row in report.rows:
        assert row.gold is not None
        assert row.score == float(row.answer == row.gold)
        assert [len(round_.drafts) for round_ in row.rounds] == [3, 1]
        assert all(draft.score == float(draft.answer == row.gold) for r in row.rounds for draft in r.drafts)
        assert len(row.calls) == 4


def test_how_answers_were_found_is_kept_and_counted(tmp_path: Path) -> None:
    forms = {
        "q0": "Answer: 0",
        "q1": "\\boxed{1}",
        "q2": "The answer is 2.",
        "q3": "Answer: 17 or 204",
        "q4": "So.",
        "q5": "1",
    }

    def reply(request: ScriptedRequest) -> str:
        return next(text for question, text in forms.items() if f"Question: {question}\n" in request.user)

    program = LongCoT("question -> answer: int", draft_tokens=60)
    report = run(program, engine(reply), run_dir=tmp_path)
    assert report.how == {"label": 1, "box": 1, "sentence": 1, "alone": 1}
    assert report.unlabelled == 0.75
    assert report.unclear == 1
    rows = read_rows(tmp_path / "rows.jsonl")
    (draft,) = rows["e1", 0].rounds[0].drafts
    assert draft.how == {"answer": "box"}
    (draft,) = rows["e3", 0].rounds[0].drafts
    assert (draft.how, draft.unclear) == ({}, {"answer": "17 or 204"})
    assert Report(rows=()).unlabelled is None


def test_equal_seeds_give_equal_rows_and_other_seeds_do_not() -> None:
    def plain(report: Report) -> list[Any]:
        return [(row.id, row.answer, [call.key for call in row.calls]) for row in report.rows]

    assert plain(run(seed=4)) == plain(run(seed=4, max_in_flight=1))
    assert plain(run(seed=4)) != plain(run(seed=5))


def test_scores_intervals_pass_and_majority_against_brute_force() -> None:
    report = run(repeats=5, examples=examples(9))
    per_question = []
    for n in range(9):
        rows = sorted((row for row in report.rows if row.id == f"e{n}"), key=lambda row: row.repeat)
        assert len(rows) == 5
        per_question.append(sum(row.score for row in rows) / 5)
    assert sorted(report.per_question) == pytest.approx(sorted(per_question))
    assert report.score == pytest.approx(sum(per_question) / 9)
    assert report.interval == score_interval(report.per_question)
    for k in range(1, 6):
        passed, voted = [], []
        for rows in report.by_question.values():
            subsets = list(combinations(rows, k))
            passed.append(sum(any(row.score for row in subset) for subset in subsets) / len(subsets))
            votes = Counter(row.answer for row in rows[:k])
            leaders = [answer for answer, count in votes.items() if count == max(votes.values())]
            voted.append(sum(answer == rows[0].gold for answer in leaders) / len(leaders))
        assert report.pass_at(k) == pytest.approx(sum(passed) / 9)
        assert report.majority_at(k) == pytest.approx(sum(voted) / 9)
    assert math.isnan(report.pass_at(6))
    assert math.isnan(report.majority_at(6))


def test_a_report_without_rows_says_nothing() -> None:
    empty = Report(rows=())
    for value in (empty.score, empty.sequential, empty.total, empty.calls, empty.pass_at(1), empty.majority_at(1)):
        assert math.isnan(value)
    assert (empty.paid, empty.reused, empty.failed, empty.interval) == (0, 0.0, 0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"examples": []}, DataError, "`examples` is empty"),
        ({"examples": examples() + examples(1)}, DataError, "2 examples with the id 'e0'"),
        ({"examples": [dspy.Example(query="q", answer="1").with_inputs("query")]}, DataError, "no field 'question'"),
        ({"examples": [dspy.Example(question="q", answer="").with_inputs("question")]}, DataError, "no readable"),
        ({"repeats": 0}, ConfigError, r"repeats=0"),
        ({"repeats": "2"}, ConfigError, r"repeats='2'"),
        ({"repeats": 2.0}, ConfigError, r"repeats=2\.0"),
        ({"repeats": True}, ConfigError, r"repeats=True"),
        ({"seed": None}, ConfigError, r"seed=None.* must be a whole number"),
        ({"seed": "1"}, ConfigError, r"seed='1'"),
        ({"seed": 1.5}, ConfigError, r"seed=1\.5"),
        ({"program": "gsm8k"}, ConfigError, r"program='gsm8k'"),
        ({"verifier": None}, ConfigError, r"verifier=None"),
        ({"verifier": Exact}, ConfigError, r"verifier=<class .* must be a verifier"),
        ({"budget": 500}, ConfigError, r"budget=500.*in tokens"),
        ({"max_in_flight": 0}, ConfigError, r"max_in_flight=0"),
        ({"max_failures": 0}, ConfigError, r"max_failures=0"),
        ({"budget": Budget(total=5)}, BudgetTooSmall, "first round"),
        (
            {"program": dspy.Predict(QA), "examples": [dspy.Example(question="q", answer="1")]},
            DataError,
            "with_inputs",
        ),
        ({"program": PDR(QA, draft_tokens=500), "lm": engine(context_length=400)}, ConfigError, "context is 400"),
    ],
)
def test_what_cannot_work_is_reported_before_anything_is_sent(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    lm = options.setdefault("lm", engine())
    told: list[Row] = []
    with pytest.raises(error, match=message):
        run(**options, run_dir=tmp_path / "run", progress=lambda row, done, count: told.append(row))
    assert lm.served.calls == 0
    assert not told
    assert not (tmp_path / "run").exists()


def test_examples_whose_inputs_are_not_marked_work_with_an_operator() -> None:
    assert len(run(examples=[dspy.Example(question="q", answer="1")]).rows) == 1


def test_whole_numbers_may_be_of_any_type(tmp_path: Path) -> None:
    numbers = {"repeats": np.int64(2), "seed": np.int32(3), "max_in_flight": np.uint8(4)}
    assert len(run(run_dir=tmp_path, **numbers).rows) == len(run(run_dir=tmp_path, repeats=2, seed=3).rows) == 12


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([None, None], ["0", "1"]),
        ([1, None], ["1", "#1"]),
        ([None, "0", "#0"], ["##0", "0", "#0"]),
        (["", "a", None], ["0", "a", "2"]),
        ([2, 1, None], ["2", "1", "#2"]),
    ],
)
def test_examples_without_ids_stand_beside_those_with_numbers_for_ids(ids: list[Any], names: list[str]) -> None:
    some = [dspy.Example(id=given, question=f"q{n}", answer="1") for n, given in enumerate(ids)]
    assert ids_of(some) == names
    assert {row.id for row in run(examples=some).rows} == set(names)


def test_a_run_folder_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(run_dir="~/run")
    assert len(read_rows(tmp_path / "run" / "rows.jsonl")) == 6
    with Rollouts("~/run/rollouts") as store:
        assert len(store) == 24


def test_a_run_resumes_where_it_was(tmp_path: Path) -> None:
    first, second = engine(), engine()
    before = run(lm=first, run_dir=tmp_path, repeats=2)
    after = run(lm=second, run_dir=tmp_path, repeats=2)
    assert second.served.calls == 0
    assert after.rows == before.rows
    more = run(lm=second, run_dir=tmp_path, repeats=3)
    assert len(more.rows) == 18
    assert second.served.calls == 6 * 4
    fewer = run(lm=second, run_dir=tmp_path, repeats=1)
    assert {row.repeat for row in fewer.rows} == {0}


def test_a_replay_from_the_store_gives_the_same_rows_and_pays_nothing(tmp_path: Path) -> None:
    def plain(report: Report) -> list[Any]:
        return [(row.id, row.answer, row.score, row.total, row.sequential, row.rounds) for row in report.rows]

    with Rollouts(tmp_path) as store:
        before = run(store=store)
    with Rollouts(tmp_path) as store:
        lm = engine()
        after = run(lm=lm, store=store)
    assert lm.served.calls == 0
    assert plain(after) == plain(before)
    assert (after.paid, after.reused, before.reused) == (0, 1.0, 0.0)


def test_a_torn_last_line_is_run_again_from_the_store(tmp_path: Path) -> None:
    before = run(run_dir=tmp_path)
    path = tmp_path / "rows.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    lm, ran = engine(), []
    after = run(lm=lm, run_dir=tmp_path, progress=lambda row, *_: ran.append(row.id))
    assert len(ran) == 1
    assert lm.served.calls == 0
    assert [(row.id, row.answer) for row in after.rows] == [(row.id, row.answer) for row in before.rows]
    assert (before.damaged, after.damaged) == (0, 1)
    assert path.read_bytes().startswith(whole[:-30] + b"\n")  # nothing is taken away
    assert len(read_rows(path)) == 6


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 9}, "seed"),
        ({"examples": examples(5)}, "examples"),
        ({"program": LongCoT(QA)}, "program"),
        ({"program": PDR("question -> answer: int", **SMALL)}, "program"),
        ({"budget": Budget(total=10**6)}, "budget"),
        ({"lm": engine(model="scripted/other")}, "models"),
    ],
)
def test_the_folder_of_another_evaluation_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    run(run_dir=tmp_path)
    lm = changes.setdefault("lm", engine())
    (tmp_path / "rows.lock").unlink()
    with pytest.raises(StoreError, match=rf"another evaluation: `{key}\b.*` was"):
        run(run_dir=tmp_path, **changes)
    assert lm.served.calls == 0
    assert not (tmp_path / "rows.lock").exists()  # nothing is left in a folder of somebody else


@pytest.mark.parametrize("text", ["[]", "{", "5"])
def test_a_foreign_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StoreError, match=r"config\.json"):
        run(run_dir=tmp_path)


def test_a_foreign_row_and_an_unusable_folder_are_refused(tmp_path: Path) -> None:
    run(run_dir=tmp_path / "a")
    (tmp_path / "a" / "rows.jsonl").write_text('{"score": "x"}\n')
    with pytest.raises(StoreError, match=r"line 1, is not a row"):
        run(run_dir=tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        run(run_dir=tmp_path / "file" / "below")


class FullDisk:
    """Rows are written to a disk that has room for so many, and for some bytes of the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int, more: int = 0) -> None:
        self.rows, self.more = rows, more
        self.opened = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *rest, **named: self.open(path, *rest, **named))

    def open(self, path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = self.opened(path, mode, *rest, **named)
        if path.name == "rows.jsonl" and mode == "ab":
            self.file = file
            return self
        return file

    def write(self, data: Any) -> int:
        if self.rows == 0:
            part, self.more = bytes(data)[: self.more], 0
            if part:
                return self.file.write(part)
            raise OSError(28, "No space left on device")
        self.rows -= 1
        return self.file.write(data)

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("more", [0, 100])
def test_a_disk_that_fills_up_ends_it_plainly_and_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    with monkeypatch.context() as patched:
        FullDisk(patched, 2, more)
        with pytest.raises(StoreError, match=r"No space left.*goes on"):
            run(run_dir=tmp_path, max_in_flight=1)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2
    before = (tmp_path / "rows.jsonl").read_bytes()
    ran: list[str] = []
    report = run(run_dir=tmp_path, progress=lambda row, *_: ran.append(row.id))
    assert (len(report.rows), len(ran), report.damaged) == (6, 4, int(more > 0))
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(before)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 6


def test_a_failed_append_takes_away_no_row_of_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(run_dir=tmp_path / "other", examples=examples(3))
    line = (tmp_path / "other" / "rows.jsonl").read_bytes().splitlines(keepends=True)[0]
    mine = tmp_path / "mine"

    class Late(FullDisk):
        """Another process, whose lock the file system did not pass on, writes in the same moment."""

        def write(self, data: Any) -> int:
            if self.rows == 0 and self.more == 0:
                with self.opened(mine / "rows.jsonl", "ab") as file:
                    file.write(line)
            return super().write(data)

    with monkeypatch.context() as patched:
        Late(patched, 2)
        with pytest.raises(StoreError, match="No space left"):
            run(run_dir=mine, examples=examples(3), max_in_flight=1)
    assert (mine / "rows.jsonl").read_bytes().endswith(line)


def test_a_dead_server_stops_it_and_a_living_one_continues(tmp_path: Path) -> None:
    def dies(request: ScriptedRequest) -> str:
        if any(f"q{n}" in request.user for n in range(4, 30)):
            raise dspy.lm15.ServerError("connection refused")
        return solver(request)

    report = run(lm=engine(dies), run_dir=tmp_path, examples=examples(30), max_failures=3, max_in_flight=1)
    assert report.stopped is not None
    assert "3 rows failed in a row" in report.stopped
    assert "connection refused" in report.stopped
    assert (len(report.rows), report.failed) == (7, 3)
    assert all("RoundFailed" in (row.error or "") and row.score == 0 for row in report.rows if row.error)
    lm = engine()
    again = run(lm=lm, run_dir=tmp_path, examples=examples(30))
    assert (again.stopped, again.failed, len(again.rows)) == (None, 0, 30)
    assert lm.served.calls == 26 * 4


def test_one_poisonous_example_fails_its_row_only() -> None:
    class Picky(dspy.Module):
        async def aforward(self, question: str) -> dspy.Prediction:
            if question == "q2":
                raise KeyError("odd")
            return dspy.Prediction(answer="1")

    report = run(Picky())
    assert {row.id: row.error for row in report.rows if row.error} == {"e2": "KeyError: 'odd'"}

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return 1 / (example.id != "e4")

    report = run(verifier=metric)
    assert [row.id for row in report.rows if row.error] == ["e4"]
    assert next(row for row in report.rows if row.error).total > 0


def test_a_prompt_too_long_for_the_budget_fails_its_row_only() -> None:
    long = dspy.Example(id="long", question="word " * 900, answer="1").with_inputs("question")
    report = run(examples=[*examples(3), long], budget=Budget(total=900))
    assert [row.id for row in report.rows if row.error] == ["long"]


def test_questions_that_do_not_fit_do_not_end_the_evaluation_of_those_that_do() -> None:
    long = [
        dspy.Example(id=f"long{n}", question=f"{n} " + "word " * 900, answer="1").with_inputs("question")
        for n in range(12)
    ]
    report = run(examples=[*long, *examples(3)], lm=engine(context_length=900), max_in_flight=1)
    assert report.stopped is None
    assert (len(report.rows), report.failed) == (15, 12)


def test_texts_that_cannot_be_encoded_fail_nothing(tmp_path: Path) -> None:
    odd = dspy.Example(id="odd", question="a \ud800 b \x00", answer="x \ud800").with_inputs("question")
    report = run(examples=[odd], run_dir=tmp_path)
    assert report.failed == 0
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1


# --- programs that are not operators


class Parent(dspy.Module):
    """A synchronous program around an operator, with a predictor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PDR(QA, **SMALL)
        self.polish = dspy.Predict("draft_answer -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        found = self.inner(question=question)
        self.polish(draft_answer=found.answer)
        return dspy.Prediction(answer=found.answer)


def chatty(request: ScriptedRequest) -> str:
    if "draft_answer" in request.user:
        return "[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]"
    return solver(request)


def test_synchronous_programs_in_numbers_do_not_wait_for_each_other_for_ever() -> None:
    lm = engine(chatty)
    report = run(Parent(), lm, examples=examples(40))
    assert (len(report.rows), report.failed) == (40, 0)
    assert sum(row.total for row in report.rows) == lm.served.input + lm.served.output


def test_nor_on_the_loop_of_a_notebook() -> None:
    async def notebook() -> Report:
        with dspy.context(lm=engine(chatty)):
            return await aevaluate(Parent(), examples(20), Exact(), max_in_flight=3)

    assert len(wait(notebook()).rows) == 20


def test_a_metric_that_asks_a_model_itself_does_not_stop_the_rows() -> None:
    judge = LongCoT("claim -> verdict")

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return float(judge(claim=str(prediction.answer)).verdict is not None)

    def reply(request: ScriptedRequest) -> str:
        return "Verdict: fine" if "Claim:" in request.user else solver(request)

    report = run(LongCoT(QA), engine(reply), examples=examples(30), verifier=metric)
    assert (report.score, report.failed) == (1.0, 0)


def test_plain_dspy_programs_are_counted_by_dspys_tracker() -> None:
    lm = engine(lambda _: "[[ ## answer ## ]]\n1\n\n[[ ## completed ## ]]")
    report = run(dspy.Predict(QA), lm)
    assert sum(row.total for row in report.rows) == lm.served.input + lm.served.output
    assert report.score == pytest.approx(2 / 6)


def test_a_judges_calls_are_on_the_row_but_not_on_the_path() -> None:
    class Judge(Exact):
        async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
            call = Call(phase=Phase.JUDGE, usage=Usage(input=100, output=1))
            return Score(1.0, "judged", calls=(call,))

    plain, judged = run(), run(verifier=Judge())
    for before, after in zip(plain.rows, judged.rows, strict=True):
        assert after.total == before.total + 101
        assert after.sequential == before.sequential
        assert all(draft.score is None for round_ in after.rounds for draft in round_.drafts)


def test_equal_answers_of_a_row_are_graded_once() -> None:
    graded: Counter[tuple[str, str]] = Counter()

    class Counting(Exact):
        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
            graded[example.id, prediction.answer] += 1
            return super().__call__(example, prediction)

    for program in (LongCoT(QA, draft_tokens=60), PDR(QA, **SMALL)):
        graded.clear()
        rows = run(program, verifier=Counting()).rows
        said = {(row.id, draft.answer) for row in rows for round_ in row.rounds for draft in round_.drafts}
        assert graded == Counter({one: 1 for one in said if one[1] is not None})
        assert all(
            draft.score == float(draft.answer == row.gold)
            for row in rows
            for round_ in row.rounds
            for draft in round_.drafts
        )


def test_a_module_around_an_operator_is_graded_apart_from_its_drafts() -> None:
    class Louder(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = LongCoT(QA, draft_tokens=60)

        async def aforward(self, question: str) -> dspy.Prediction:
            inner = await self.inner.acall(question=question)
            return dspy.Prediction(answer=inner.answer, sure=True, rounds=inner.rounds)

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return float(prediction.get("sure", False))

    for row in run(Louder(), verifier=metric).rows:
        assert (row.score, [draft.score for draft in row.rounds[0].drafts]) == (1.0, [0.0])


def test_the_oracles_look_through_evaluate() -> None:
    program = PDR(QA, widths=(6, 1), distiller="oracle_correct", k=2, draft_tokens=60)
    for row in run(program).rows:
        (sources,) = row.rounds[0].sources
        assert all(row.rounds[0].drafts[source].score == 1.0 for source in sources)


def test_most_requests_in_flight_bounds_rows_too() -> None:
    now, most = 0, 0

    class Slow(dspy.Module):
        async def aforward(self, question: str) -> dspy.Prediction:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            return dspy.Prediction(answer=question)

    run(Slow(), max_in_flight=2)
    assert most == 2


# --- killed in the middle


VICTIM = """
import os, signal, sys
sys.path[:0] = ["tests"]
import dspy
from tests.support.solver import engine, solver
from tests.evaluation.test_evaluator import Exact, PDR, QA, SMALL, evaluate, examples

def kill(row, done, count):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)

with dspy.context(lm=engine()):
    evaluate(PDR(QA, **SMALL), examples(20), Exact(), run_dir=sys.argv[1], max_in_flight=3, progress=kill)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_after_a_kill_no_finished_row_is_run_again(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    victim = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, timeout=200
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr.decode()
    finished = read_rows(tmp_path / "rows.jsonl")
    assert len(finished) == 7
    lm, ran = engine(), []
    report = run(lm=lm, examples=examples(20), run_dir=tmp_path, progress=lambda row, *_: ran.append(row.id))
    assert len(ran) == 13
    assert not {row.id for row in finished.values()} & set(ran)
    whole = run(examples=examples(20))
    assert [(row.id, row.answer, row.total) for row in report.rows] == [
        (row.id, row.answer, row.total) for row in whole.rows
    ]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 20


def test_rows_survive_json() -> None:
    for row in run(repeats=1).rows:
        assert Row.model_validate_json(row.model_dump_json(exclude_defaults=True)) == row


class Waits:
    """A verifier that is awaited."""

    def __init__(self) -> None:
        self.graded: list[str] = []

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        raise AssertionError("awaited in its place")

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        self.graded.append(prediction.answer)
        return Score(float(prediction.answer == example.answer))

    def check_gold(self, example: dspy.Example) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"kind": "Waits"}


class WaitsForNothingDear(Waits):
    grades_drafts = True


@pytest.mark.parametrize(("verifier", "graded"), [(Waits(), False), (WaitsForNothingDear(), True)])
def test_an_awaited_verifier_grades_drafts_where_it_says_that_it_costs_nothing(verifier: Waits, graded: bool) -> None:
    lm = scripted_lm(lambda request: f"Answer: {request.seed % 2}", directly=True)
    with dspy.context(lm=lm):
        program = PDR(QA, widths=(4, 1), distiller="random_k", k=2, draft_tokens=60, kappa=60)
        report = evaluate(program, [dspy.Example(question="q", answer="1").with_inputs("question")], verifier)
    drafts = [draft for round_ in report.rows[0].rounds for draft in round_.drafts]
    assert len(drafts) == 5
    assert [draft.score for draft in drafts] == [float(draft.answer == "1") if graded else None for draft in drafts]
    assert len(verifier.graded) == (2 if graded else 1)  # equal answers are graded once
