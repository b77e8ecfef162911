from __future__ import annotations

import asyncio
import json
import math

import dspy
import pytest
from dspy.lm15 import Message, Response, TokenLogprob, TopLogprob, Usage

from pdr_dspy.calls.failures import CallError
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.verifiers import (
    ChoiceVerifier,
    ExactVerifier,
    JudgeVerifier,
    MathVerifier,
    NumberVerifier,
    ProceduralVerifier,
    Score,
    Verifier,
    load_verifier,
)


def grade(verifier: Verifier, gold: object, answer: object, **fields: object) -> Score:
    return verifier(dspy.Example(answer=gold, **fields), dspy.Prediction(answer=answer))


def test_a_score_is_a_number_in_the_unit_interval() -> None:
    assert bool(Score(1)) is True
    assert sum([Score(1), Score(0.5)]) == 1.5
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        Score(math.nan)


@pytest.mark.parametrize("kind", [ExactVerifier, NumberVerifier, ChoiceVerifier, MathVerifier])
@pytest.mark.parametrize("trace", [None, []])
def test_verifiers_are_metrics_over_named_fields(kind: type, trace: object) -> None:
    verifier = kind(gold="target", field="result")
    example = dspy.Example(question="?", target="7").with_inputs("question")
    assert verifier(example, dspy.Prediction(result="7"), trace) == 1
    assert verifier(example, dspy.Prediction(result="8"), trace) == 0
    assert verifier(example, dspy.Prediction(result=None)) == 0
    assert verifier(example, dspy.Prediction(other="7")).detail == "no answer"
    with pytest.raises(DataError, match="'target'"):
        verifier.check_gold(dspy.Example(id="q1", answer="7"))


@pytest.mark.parametrize(
    "verifier",
    [
        ExactVerifier(ignore_case=True),
        NumberVerifier(tolerance=0.5, field="x"),
        ChoiceVerifier(options=("yes", "no")),
        MathVerifier(timeout=1.0),
        ProceduralVerifier(threshold=None),
    ],
)
def test_a_verifier_is_rebuilt_from_its_description(verifier: Verifier) -> None:
    description = json.loads(json.dumps(verifier.describe()))
    assert load_verifier(description) == verifier
    assert hash(load_verifier(description)) == hash(verifier)


@pytest.mark.parametrize(
    "description", [{}, {"kind": "Foo"}, {"kind": "NumberVerifier", "tol": 1}, {"kind": "JudgeVerifier"}]
)
def test_a_bad_description_is_refused(description: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="load_verifier"):
        load_verifier(description)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NumberVerifier(tolerance=-1),
        lambda: NumberVerifier(relative=math.inf),
        lambda: MathVerifier(timeout=0),
        lambda: ChoiceVerifier(options=("only",)),
        lambda: ProceduralVerifier(threshold=2),
        lambda: ExactVerifier(field=""),
        lambda: JudgeVerifier(lm="gpt"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="Verifier"):
        make()  # type: ignore[operator]


def test_exact() -> None:
    assert grade(ExactVerifier(), "New  York", "**New York**.") == 1
    assert grade(ExactVerifier(), "New York", "new york") == 0
    assert grade(ExactVerifier(ignore_case=True), "New York", "new york") == 1
    assert grade(ExactVerifier(ignore_space=False), "a  b", "a b") == 0
    assert grade(ExactVerifier(), "Paris", "It is a capital.\nAnswer: Paris") == 1


def test_number_reads_values_and_tolerates_what_it_is_reported() -> None:
    assert grade(NumberVerifier(), 204, 204.0) == 1
    assert grade(NumberVerifier(), "204", 204) == 1
    assert grade(NumberVerifier(), "0.1", 0.1) == 1
    assert grade(NumberVerifier(), "3.14", "3.141") == 0
    assert grade(NumberVerifier(tolerance=0.1), "1", "1.1") == 1
    assert grade(NumberVerifier(tolerance=0.1), "1", "1.11") == 0
    assert grade(NumberVerifier(relative=0.01), "-200", "-198") == 1
    assert grade(NumberVerifier(), "1", float("nan")) == 0
    assert grade(NumberVerifier(), "1", 10**100_000) == 0
    with pytest.raises(DataError, match=r"'q7'.*'even'.*MathVerifier"):
        NumberVerifier().check_gold(dspy.Example(id="q7", answer="even"))


def test_choice() -> None:
    assert grade(ChoiceVerifier(), "B", "(B) because") == 1
    assert grade(ChoiceVerifier(), "B", "A or B") == 0
    assert grade(ChoiceVerifier(), "Paris", "paris.") == 1
    assert grade(ChoiceVerifier(), "Paris", "Paris or London or Rome") == 0
    assert grade(ChoiceVerifier(options=("yes", "no")), "yes", "Yes, it is") == 1
    assert grade(ChoiceVerifier(options="choices"), "B) London", "B", choices=["A) Paris", "B) London"]) == 1
    with pytest.raises(DataError, match="not one of"):
        ChoiceVerifier(options=("yes", "no")).check_gold(dspy.Example(answer="maybe"))
    with pytest.raises(DataError, match="'choices'"):
        ChoiceVerifier(options="choices").check_gold(dspy.Example(answer="A"))


# -------------------------------------------------------------------------------------------------------- procedural


def entry(task: str, question: str, answer: str, **metadata: object) -> dspy.Example:
    made = {"question": question, "answer": answer, "metadata": metadata}
    return dspy.Example(question=question, answer=answer, rg_dataset=task, rg_entry=made).with_inputs("question")


@pytest.mark.slow
def test_procedural_uses_the_scorer_of_the_task() -> None:
    pytest.importorskip("reasoning_gym")
    countdown = entry("countdown", "Make 10 of 2, 3, 5", "2+3+5", numbers=[2, 3, 5], target=10)
    verifier = ProceduralVerifier()
    verifier.check_gold(countdown)
    assert verifier(countdown, dspy.Prediction(answer="5 + 2 + 3")) == 1
    assert verifier(countdown, dspy.Prediction(answer="2+3+4")) == 0
    sums = entry("chain_sum", "1000 + 1 =", "1001")
    assert verifier(sums, dspy.Prediction(answer="Adding them.\nAnswer: 1,001")) == 1
    assert verifier(sums, dspy.Prediction(answer="1002")) == 0
    assert 0 < ProceduralVerifier(threshold=None)(countdown, dspy.Prediction(answer="2+3+4")) < 1


def test_procedural_never_runs_an_answer() -> None:
    spiral = entry("spiral_matrix", "spiral", "1 2 3 4", solution=[1, 2, 3, 4])
    score = ProceduralVerifier()(spiral, dspy.Prediction(answer="[__import__('os').getpid()]"))
    assert score == 0
    assert "code" in score.detail


def test_procedural_needs_an_example_of_a_procedural_set() -> None:
    with pytest.raises(DataError, match="rg_entry"):
        ProceduralVerifier().check_gold(dspy.Example(question="1+1", answer="2"))


# ------------------------------------------------------------------------------------------------------------- judge


class _Bench:
    """An engine for both roads of `dspy.LM` that answers with a fixed response."""

    def __init__(
        self, text: str, logprobs: tuple[TokenLogprob, ...] | None = None, error: Exception | None = None
    ) -> None:
        self.text, self.logprobs, self.error = text, logprobs, error
        self.asked: list[str] = []

    def complete(self, request: object) -> Response:
        if self.error is not None:
            raise self.error
        self.asked.append("".join(part.text for part in request.messages[-1].parts))  # type: ignore[attr-defined]
        return Response(
            id=None,
            model="judge",
            message=Message.assistant(self.text),
            finish_reason="stop",
            usage=Usage(input_tokens=50, output_tokens=1),
            logprobs=self.logprobs,
        )

    def close(self) -> None: ...


class _AsyncBench:
    def __init__(self, bench: _Bench) -> None:
        self.bench = bench

    async def complete(self, request: object) -> Response:
        return self.bench.complete(request)

    async def aclose(self) -> None: ...


def judge(bench: _Bench, **settings: object) -> JudgeVerifier:
    lm = dspy.LM("scripted/judge", engine=bench, async_engine=_AsyncBench(bench), cache=False, num_retries=0)
    return JudgeVerifier(lm=lm, **settings)  # type: ignore[arg-type]


EXAMPLE = dspy.Example(question="Capital of France?", answer="Paris").with_inputs("question")
LEAN = (TokenLogprob(" Yes", math.log(0.3), top=(TopLogprob(" Yes", math.log(0.3)), TopLogprob(" no", math.log(0.1)))),)


def test_judge_reads_log_probabilities_and_records_its_call() -> None:
    bench = _Bench("Yes", LEAN)
    score = judge(bench, threshold=None)(EXAMPLE, dspy.Prediction(answer="It is Paris"))
    assert score == pytest.approx(0.75)
    assert judge(bench)(EXAMPLE, dspy.Prediction(answer="It is Paris")) == 1
    assert judge(bench, threshold=0.8)(EXAMPLE, dspy.Prediction(answer="It is Paris")) == 0
    (call,) = score.calls
    assert (call.phase, call.usage.input, call.usage.output) == (Phase.JUDGE, 50, 1)
    assert "Capital of France?" in bench.asked[0]
    assert "Reference answer: Paris" in bench.asked[0]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes.", 1),
        ("**no**", 0),
        ("<think>no, or yes?</think>yes", 1),
        ("<think>yes", 0),
        ("<thinking>yes", 0),
        ("I cannot know", 0),
    ],
)
def test_judge_reads_the_text_where_there_are_no_log_probabilities(text: str, verdict: int) -> None:
    verifier = judge(_Bench(text))
    assert verifier(EXAMPLE, dspy.Prediction(answer="Paris")) == verdict
    assert asyncio.run(verifier.averify(EXAMPLE, dspy.Prediction(answer="Paris"))) == verdict


@pytest.mark.slow
def test_judge_asks_nothing_about_no_answer_and_fails_loudly() -> None:
    bench = _Bench("yes")
    assert judge(bench)(EXAMPLE, dspy.Prediction(answer=" ")) == 0
    assert bench.asked == []
    with pytest.raises(CallError, match=r"scripted/judge.*did not answer"):
        judge(_Bench("", error=ConnectionError("refused")))(EXAMPLE, dspy.Prediction(answer="Paris"))
    with pytest.raises(DataError, match="with_inputs"):
        judge(bench).check_gold(dspy.Example(question="?", answer="Paris"))


@pytest.mark.slow
def test_judge_is_rebuilt_with_its_model() -> None:
    verifier = judge(_Bench("yes"), criteria="It is polite.", reference=False)
    again = load_verifier(json.loads(json.dumps(verifier.describe())), lm=verifier.lm)
    assert again.describe() == verifier.describe()
