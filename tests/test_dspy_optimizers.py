"""DSPy's own optimizers and tools over the operators, unchanged."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from conftest import engine, solver, wait
from dspy.utils.callback import BaseCallback

from pdr_dspy.operators import PDR, SR, LongCoT, Operator
from pdr_dspy.testing import ScriptedRequest
from pdr_dspy.verifiers._base import Score

QA = "question -> answer"
PROGRAMS = {
    "LongCoT": lambda: LongCoT(QA, draft_tokens=200),
    "SR": lambda: SR(QA, rounds=2, draft_tokens=200),
    "PDR": lambda: PDR(QA, widths=(2, 1), distiller="summary", draft_tokens=200),
}
TRAIN = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(6)]


def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
    return Score(float(prediction.answer == example.answer))


def right(request: ScriptedRequest) -> str:
    """Right on every question; writes instructions when an optimizer asks for them."""
    if "[[ ## " in request.system:
        fields = [
            line.split("[[ ## ")[1].split(" ## ]]")[0] for line in request.system.splitlines() if "[[ ## " in line
        ]
        return "\n".join(f"[[ ## {name} ## ]]\nCheck every sum twice.\n" for name in dict.fromkeys(fields))
    text = request.user
    number = next((n for n in range(6) if f"q{n}" in text), 0)
    return solver(request) if "Answer: <" not in request.user else f"Count.\nAnswer: {number % 3}"


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Operator:
    return PROGRAMS[request.param]()


def test_bootstrap_few_shot(program: Operator) -> None:
    from dspy.teleprompt import BootstrapFewShot

    with dspy.context(lm=engine(right)):
        tuned = BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=1).compile(
            program, trainset=TRAIN
        )
        assert tuned.schedule == program.schedule
        for name, predictor in tuned.named_predictors():
            assert any(demo.get("augmented") for demo in predictor.demos), name
        assert all(not predictor.demos for _, predictor in program.named_predictors())
        lm = engine(right)
        with dspy.context(lm=lm):
            tuned(question="q1")
        assert len(lm.served.requests[0].request.messages) > 1


@pytest.mark.filterwarnings("ignore")  # of DSPy's and Optuna's own
def test_miprov2(program: Operator) -> None:
    from dspy.teleprompt import MIPROv2

    lm = engine(right)
    with dspy.context(lm=lm):
        optimizer = MIPROv2(
            metric=metric, prompt_model=lm, task_model=lm, auto=None, num_candidates=2, num_threads=2, verbose=False,
            max_bootstrapped_demos=1, max_labeled_demos=1,
        )  # fmt: skip
        tuned = optimizer.compile(
            program, trainset=TRAIN, valset=TRAIN, num_trials=2, minibatch=False, program_aware_proposer=False
        )
        assert tuned.schedule == program.schedule
        assert tuned.score == 100.0
        assert tuned(question="q2").answer == "2"


@pytest.mark.filterwarnings("ignore")
def test_better_together() -> None:
    from dspy.teleprompt import BetterTogether, BootstrapFewShot

    program = PROGRAMS["PDR"]()
    with dspy.context(lm=engine(right)):
        for predictor in program.predictors():
            predictor.lm = dspy.settings.lm
        tuned = BetterTogether(metric=metric, p=BootstrapFewShot(metric=metric, max_bootstrapped_demos=1)).compile(
            program, trainset=TRAIN, valset=TRAIN, strategy="p"
        )
        assert tuned.schedule == program.schedule
        assert tuned(question="q1").answer == "1"


def test_evaluate_of_dspy_takes_a_verifier_as_its_metric(program: Operator) -> None:
    with dspy.context(lm=engine(right)):
        result = dspy.Evaluate(devset=TRAIN, metric=metric, num_threads=3, display_progress=False)(program)
    assert result.score == 100.0
    assert all(prediction.ledger.total > 0 for _, prediction, _ in result.results)


def test_threads(program: Operator) -> None:
    lm = engine(right)
    with dspy.context(lm=lm):
        results = dspy.Parallel(num_threads=4, disable_progress_bar=True)([(program, example) for example in TRAIN])
    assert [result.answer for result in results] == [example.answer for example in TRAIN]
    assert sum(result.ledger.paid for result in results) == lm.served.input + lm.served.output


def test_asynchronous_calls_side_by_side(program: Operator) -> None:
    async def go() -> list[dspy.Prediction]:
        with dspy.context(lm=engine(right)):
            return await asyncio.gather(*(program.acall(**example.inputs()) for example in TRAIN))

    assert [prediction.answer for prediction in wait(go())] == [example.answer for example in TRAIN]


def test_history_usage_and_callbacks_see_every_call(program: Operator) -> None:
    class Watch(BaseCallback):
        def __init__(self) -> None:
            self.modules: list[str] = []
            self.lms = 0

        def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.modules.append(type(instance).__name__)

        def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
            self.lms += 1

    lm, watch = engine(right), Watch()
    with dspy.context(lm=lm, callbacks=[watch], track_usage=True):
        prediction = program(question="q1")
    usage = (prediction.get_lm_usage() or {})[lm.model]
    assert usage["prompt_tokens"] == lm.served.input
    assert usage["completion_tokens"] == lm.served.output
    assert watch.lms == len(lm.history) == lm.served.calls == len(prediction.ledger)
    assert watch.modules == [type(program).__name__]


def test_a_rollout_id_gives_another_sample(program: Operator) -> None:
    def seeds(rollout_id: int | None) -> set[int]:
        lm = engine()
        with dspy.context(lm=lm if rollout_id is None else lm.copy(rollout_id=rollout_id)):
            program(question="q")
        return {request.seed for request in lm.served.requests}

    assert seeds(1) == seeds(1)
    assert not seeds(1) & seeds(2)
    assert not seeds(1) & seeds(None)


def test_set_lm_and_parents() -> None:
    class Parent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = PROGRAMS["PDR"]()
            self.second = PROGRAMS["SR"]()

        def forward(self, question: str) -> dspy.Prediction:
            return self.second(question=self.first(question=question).answer + question)

    lm, parent = engine(right), Parent()
    parent.set_lm(lm)
    assert parent(question="q2").answer == "2"
    assert lm.served.calls == 4 + 2
    assert {name for name, _ in parent.named_predictors()} == {
        "first.draft", "first.refine", "first.distill", "second.draft", "second.refine",
    }  # fmt: skip
