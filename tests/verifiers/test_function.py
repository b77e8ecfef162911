"""A plain function as a verifier: whatever it takes and returns, and what is said of one that cannot work."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from pdr_dspy import as_verifier as exported
from pdr_dspy.artifact import save
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.search.proposing.feedback import feedback
from pdr_dspy.testing import ScriptedLM, scripted_lm
from pdr_dspy.verifiers import ExactVerifier, Score, Verifier, as_verifier, load_verifier

EXAMPLE = dspy.Example(question="2 + 2?", answer="4").with_inputs("question")
RIGHT, WRONG = dspy.Prediction(answer="4"), dspy.Prediction(answer="5")


def plain(example: Any, prediction: Any) -> bool:
    return example.answer == prediction.answer


def traced(example: Any, prediction: Any, trace: Any = None) -> float:
    assert trace is None
    return 1.0 if example.answer == prediction.answer else 0.25


def needs_trace(example: Any, prediction: Any, trace: Any) -> int:
    assert trace is None
    return int(example.answer == prediction.answer)


def for_gepa(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> dspy.Prediction:
    assert (trace, pred_name, pred_trace) == (None, None, None)
    return dspy.Prediction(score=float(gold.answer == pred.answer), feedback="look again")


def with_option(example: Any, prediction: Any, trace: Any = None, frac: float = 1.0) -> bool:
    assert frac == 1.0
    return example.answer == prediction.answer


def anything(*arguments: Any, **_: Any) -> bool:
    example, prediction = arguments
    return example.answer == prediction.answer


def scored(example: Any, prediction: Any) -> Score:
    return Score(float(example.answer == prediction.answer), "mine")


def record(example: Any, prediction: Any) -> dict[str, Any]:
    return {"score": example.answer == prediction.answer, "feedback": None}


async def waits(example: Any, prediction: Any, trace: Any = None) -> bool:
    await asyncio.sleep(0)
    return example.answer == prediction.answer


def bound(least: int, example: Any, prediction: Any) -> bool:
    return least == 3 and example.answer == prediction.answer


class Grader:
    def __init__(self, least: float = 0.5) -> None:
        self.least = least

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return example.answer == prediction.answer

    def method(self, example: Any, prediction: Any) -> bool:
        return example.answer == prediction.answer


class AsyncGrader:
    async def __call__(self, example: Any, prediction: Any) -> bool:
        return example.answer == prediction.answer


class Module(dspy.Module):
    def forward(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return example.answer == prediction.answer


METRICS: dict[str, Any] = {
    "bool": plain,
    "float": traced,
    "three needed": needs_trace,
    "five needed": for_gepa,
    "an option of its own": with_option,
    "star": anything,
    "Score": scored,
    "mapping": record,
    "lambda": lambda example, prediction: example.answer == prediction.answer,
    "numpy": lambda example, prediction: np.bool_(example.answer == prediction.answer),
    "numpy float": lambda example, prediction: np.float32(example.answer == prediction.answer),
    "partial": functools.partial(bound, 3),
    "partial with a keyword": functools.partial(traced, trace=None),
    "method": Grader().method,
    "object": Grader(),
    "async": waits,
    "async object": AsyncGrader(),
    "async partial": functools.partial(waits, trace=None),
    "lambda of async": lambda example, prediction: waits(example, prediction),
    "module": Module(),
    "DSPy's own": dspy.evaluate.answer_exact_match,
    "verifier": ExactVerifier(),
}
each_metric = pytest.mark.parametrize("name", METRICS)


@each_metric
def test_a_metric_is_a_verifier(name: str) -> None:
    verifier = as_verifier(METRICS[name])
    assert isinstance(verifier, Verifier)
    right, wrong = verifier(EXAMPLE, RIGHT), verifier(EXAMPLE, WRONG)
    assert isinstance(right, Score)
    assert (right, float(wrong) < 0.5) == (1.0, True)
    verifier.check_gold(EXAMPLE)
    assert as_verifier(verifier) is verifier
    description = verifier.describe()
    assert json.loads(json.dumps(description)) == description
    assert as_verifier(METRICS[name]).describe() == description


@pytest.mark.slow
@each_metric
def test_every_road_takes_a_metric(name: str, tmp_path: Path) -> None:
    metric = METRICS[name]
    rows = [dspy.Example(question=f"q{n}", answer="4").with_inputs("question") for n in range(3)]
    with dspy.context(lm=scripted_lm(lambda request: f"Answer: {4 if request.seed % 2 else 5}")):
        program = PDR("question -> answer", widths=(2, 1), distiller="random_k", k=1)
        report = evaluate(program, rows, metric, repeats=2, run_dir=tmp_path / "run")
        again = evaluate(program, rows, metric, repeats=2, run_dir=tmp_path / "run")
    assert report.failed == 0
    assert {row.gold for row in report.rows} == {"4"}
    assert all(row.detail for row in report.rows)
    assert [row.score for row in again.rows] == [row.score for row in report.rows]
    described = json.loads(save(program, tmp_path / "program.json", verifier=metric).read_text())["verifier"]
    assert described == as_verifier(metric).describe()
    judged = feedback(metric)(EXAMPLE, WRONG)
    assert float(judged.score) < 0.5


def test_it_is_exported() -> None:
    assert exported is as_verifier


@pytest.mark.parametrize("metric", [None, "exact", 3, ExactVerifier, Grader])
def test_what_is_no_metric_is_refused(metric: Any) -> None:
    with pytest.raises(ConfigError, match="must be a verifier, such as"):
        as_verifier(metric)


@pytest.mark.parametrize(
    "metric",
    [
        lambda prediction: True,
        lambda: True,
        lambda a, b, c, d, e, f: True,
        lambda example, *, prediction: True,
        functools.partial(lambda example, prediction, extra: True, extra=1, prediction=2),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused_before_anything_is_paid(metric: Any) -> None:
    lm = scripted_lm(lambda _: "Answer: 4")
    with dspy.context(lm=lm), pytest.raises(ConfigError, match="cannot be called with an example and a prediction"):
        evaluate(LongCoT("question -> answer"), [EXAMPLE], metric)
    assert lm.served.calls == 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned None.*no `return`"),
        (87.5, "returned 87.5.*divide a percentage by 100"),
        (-0.5, "returned -0.5"),
        ("yes", "returned 'yes'"),
        (float("nan"), "returned nan"),
        ([1], r"returned \[1\]"),
        (dspy.Prediction(score=7), "returned 7"),
        (dspy.Prediction(feedback="no score"), "must give a bool or a number from 0 to 1"),
    ],
)
def test_a_metric_that_gives_no_score_is_found_out_before_anything_is_paid(returned: Any, message: str) -> None:
    def metric(example: Any, prediction: Any) -> Any:
        return returned

    lm = scripted_lm(lambda _: "Answer: 4")
    with dspy.context(lm=lm), pytest.raises(ConfigError, match=message):
        evaluate(LongCoT("question -> answer"), [EXAMPLE], metric)
    assert lm.served.calls == 0
    with pytest.raises(ValueError, match=message):
        as_verifier(metric)(EXAMPLE, RIGHT)


def test_what_a_metric_reads_beside_the_answer_is_its_own_matter() -> None:
    def metric(example: Any, prediction: Any) -> bool:
        return len(prediction.solution) > 3 and prediction.ledger.total > 0

    with dspy.context(lm=scripted_lm(lambda _: "Answer: 4")):
        assert evaluate(LongCoT("question -> answer"), [EXAMPLE], metric).score == 1


def test_a_metric_that_raises_on_one_example_fails_its_row() -> None:
    def metric(example: Any, prediction: Any) -> bool:
        return example.number > 1

    rows = [dspy.Example(question="a", number=1), dspy.Example(question="b")]
    with dspy.context(lm=scripted_lm(lambda _: "Answer: 4")):
        report = evaluate(LongCoT("question -> answer"), [row.with_inputs("question") for row in rows], metric)
    assert [row.error is None for row in report.rows] == [True, False]
    assert "number" in (report.rows[1].error or "")


def test_rounding_is_no_error() -> None:
    assert as_verifier(lambda example, prediction: 1.0000000001)(EXAMPLE, RIGHT) == 1
    assert as_verifier(lambda example, prediction: -1e-12)(EXAMPLE, RIGHT) == 0


# --- what rows say


class Both(dspy.Signature):
    """Classify it."""

    message: str = dspy.InputField()
    category: str = dspy.OutputField()
    urgent: bool = dspy.OutputField()


def partly(example: Any, prediction: Any) -> float:
    return 0.5 * (example.category == prediction.category) + 0.5 * (example.urgent == prediction.urgent)


def model(reply: str) -> ScriptedLM:
    return scripted_lm(lambda _: reply)


def test_rows_of_an_own_metric_have_gold_and_reason() -> None:
    example = dspy.Example(message="m", category="spam", urgent=True, note="x").with_inputs("message")
    with dspy.context(lm=model("Category: ham\nUrgent: yes")):
        (row,) = evaluate(LongCoT(Both), [example], partly).rows
    assert json.loads(row.gold or "") == {"category": "spam", "urgent": True}
    assert json.loads(row.answer or "") == {"category": "ham", "urgent": True}
    assert row.detail == "partly gives 0.5: category is ham, not spam"
    with dspy.context(lm=model("Category: spam\nUrgent: yes")):
        (row,) = evaluate(LongCoT(Both), [example], partly).rows
    assert (row.score, row.detail) == (1, "partly gives 1")


def test_rows_of_another_program_have_their_labels() -> None:
    class Outer(dspy.Module):
        def forward(self, message: str) -> dspy.Prediction:
            return dspy.Prediction(category="ham")

    example = dspy.Example(message="m", category="spam").with_inputs("message")
    (row,) = evaluate(Outer(), [example], lambda example, prediction: example.category == prediction.category).rows
    assert (row.gold, row.answer, row.detail) == ("spam", "ham", "lambda gives 0: category is ham, not spam")


def test_a_metrics_own_words_are_the_reason() -> None:
    with dspy.context(lm=model("Answer: 5")):
        (row,) = evaluate(LongCoT("question -> answer"), [EXAMPLE], for_gepa).rows
    assert row.detail == "look again"


class Small(dspy.Signature):
    """Do it."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField(le=10)


class Perhaps(dspy.Signature):
    """Do it."""

    question: str = dspy.InputField()
    answer: int | None = dspy.OutputField()


def test_an_answer_that_breaks_a_limit_is_reported_in_its_row() -> None:
    with dspy.context(lm=model("Answer: 50")):
        (row,) = evaluate(LongCoT(Small), [EXAMPLE], ExactVerifier()).rows
    assert row.answer is None
    assert "less than or equal to 10" in row.detail


def test_none_is_an_answer_where_it_is_a_value() -> None:
    example = dspy.Example(question="?", answer=None).with_inputs("question")
    with dspy.context(lm=model("Answer: none")):
        (row,) = evaluate(LongCoT(Perhaps), [example], plain).rows
    assert (row.answer, row.gold, row.score) == ("None", "None", 1)


# --- what tells metrics apart


def factory(least: float) -> Any:
    def metric(example: Any, prediction: Any) -> bool:
        return prediction.score > least

    return metric


def test_metrics_that_differ_are_described_differently() -> None:
    same_name = [
        *(factory(0.5), factory(0.7)),
        *(Grader(0.5), Grader(0.7)),
        *(functools.partial(bound, 3), functools.partial(bound, 4)),
        *(lambda example, prediction: True, lambda example, prediction: False),
        *(Grader(0.5).method, Grader(0.7).method),
    ]
    described = [json.dumps(as_verifier(metric).describe(), sort_keys=True) for metric in same_name]
    assert len(set(described)) == len(described)


@pytest.mark.slow
def test_comments_and_layout_make_no_other_metric(tmp_path: Path) -> None:
    bodies = [
        "def metric(example, prediction):\n    return example.answer == prediction.answer\n",
        "def metric(example, prediction):\n    # so\n    return (example.answer ==\n        prediction.answer)\n",
        "def metric(example, prediction):\n    return example.answer != prediction.answer\n",
    ]
    described = []
    for number, body in enumerate(bodies):
        (tmp_path / f"metric_{number}.py").write_text(body)
        code = (
            f"import sys, json; sys.path.insert(0, {str(tmp_path)!r})\n"
            f"from metric_{number} import metric\n"
            "from pdr_dspy.verifiers import as_verifier\n"
            "print(json.dumps(as_verifier(metric).describe()))"
        )
        made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        described.append(json.loads(made.stdout)["code"])
    assert described[0] == described[1] != described[2]


@pytest.mark.slow
def test_a_description_is_the_same_in_every_process() -> None:
    code = (
        "import json\nfrom pdr_dspy.verifiers import as_verifier\n"
        "print(json.dumps(as_verifier(lambda e, p: p.answer in {'a', 'b', 'c', 'd'}).describe()))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(said) == 1


def test_a_function_cannot_be_rebuilt_from_its_description() -> None:
    with pytest.raises(ConfigError, match="`plain` is a user's function"):
        load_verifier(as_verifier(plain).describe())


def test_a_verifier_that_no_folder_could_hold_is_refused() -> None:
    class Odd(ExactVerifier):
        def describe(self) -> dict[str, Any]:
            return {"kind": "Odd", "model": object()}

    with pytest.raises(ConfigError, match="`describe\\(\\)` must be JSON data"):
        as_verifier(Odd())


def test_an_object_with_a_description_of_its_own_keeps_it() -> None:
    class Described(Grader):
        gold = "label"

        def describe(self) -> dict[str, Any]:
            return {"kind": "Described", "least": self.least}

    verifier = as_verifier(Described())
    assert verifier.describe() == {"kind": "Described", "least": 0.5}
    assert verifier.gold == "label"  # type: ignore[attr-defined]


def test_the_docstring_tells_the_truth() -> None:
    assert "<verifier lambda>" in (inspect.getdoc(as_verifier) or "")
    assert repr(as_verifier(lambda example, prediction: True)) == "<verifier lambda>"
    assert repr(as_verifier(functools.partial(bound, 3))) == "<verifier bound>"
