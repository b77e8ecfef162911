"""DSPy's own optimizers and tools over the operators, unchanged."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.search.proposing.feedback import feedback
from pdr_dspy.search.proposing.instructions import propose
from pdr_dspy.testing import ScriptedRequest
from pdr_dspy.verifiers import ExactVerifier
from pdr_dspy.verifiers.base import Score
from tests.support.solver import engine, role_of, solver, wait

pytestmark = pytest.mark.slow

QA = "question -> answer"
PROGRAMS = {
    "LongCoT": lambda: LongCoT(QA, draft_tokens=200),
    "SR": lambda: SR(QA, rounds=2, draft_tokens=200),
    "PDR": lambda: PDR(QA, widths=(2, 1), distiller="summary", draft_tokens=200),
}
TRAIN = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(6)]


HELD_OUT = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(6, 12)]
BETTER = "Check every sum twice, then compare the two results."
SMALL = Space(
    rounds=(1, 2), widths=(1, 2), k=(1,), kappa=(200,), draft_tokens=(200,), distiller=("random_k", "summary")
)


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


def teachable(request: ScriptedRequest) -> str:
    """Right on half of the questions in one pass, on more after a refinement, on all under `BETTER`."""
    if "new_instruction" in request.system + request.user:  # GEPA's reflection
        return json.dumps({"new_instruction": BETTER})
    if "[[ ## " in request.system:
        return right(request).replace("Check every sum twice.", BETTER)
    if request.system.startswith("You improve the instructions"):  # `propose`
        return BETTER
    if role_of(request) in ("distill", "critique"):
        return "Notes."
    number = int(request.user.split("Question: q")[1].split()[0])
    able = BETTER in request.system or number % 2 == 0 or (role_of(request) == "refine" and number % 3 < 2)
    return f"Count.\nAnswer: {number % 3 if able else 9}"


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
        tuned: Any = optimizer.compile(
            program, trainset=TRAIN, valset=TRAIN, num_trials=2, minibatch=False, program_aware_proposer=False
        )
        assert tuned.schedule == program.schedule
        assert tuned.score == 100.0
        assert tuned(question="q2").answer == "2"


@pytest.mark.filterwarnings("ignore")
def test_gepa(program: Operator) -> None:
    from dspy.teleprompt import GEPA

    lm, writer = engine(teachable), engine(teachable)
    with dspy.context(lm=lm):
        tuned: Any = GEPA(
            metric=feedback(metric),
            max_metric_calls=60,
            reflection_lm=writer,
            num_threads=2,
            add_format_failure_as_feedback=True,
        ).compile(program, trainset=TRAIN, valset=TRAIN)
        assert tuned.schedule == program.schedule
        changed = {name for name, own in tuned.named_predictors() if own.signature.instructions == BETTER}
        assert changed
        assert dspy.Evaluate(devset=TRAIN, metric=metric, num_threads=2, display_progress=False)(tuned).score == 100.0
    first = writer.served.requests[0].user
    assert "Right is: " in first  # a wrong answer came with the words of `feedback`
    assert "This call's role is " in first


@pytest.mark.filterwarnings("ignore")
def test_copro(program: Operator) -> None:
    from dspy.teleprompt import COPRO

    lm = engine(teachable)
    with dspy.context(lm=lm):
        tuned: Any = COPRO(metric=metric, prompt_model=lm, breadth=2, depth=1).compile(
            program, trainset=TRAIN, eval_kwargs={"num_threads": 2, "display_progress": False}
        )
        assert tuned.schedule == program.schedule
        last = tuned.refine if program.schedule.rounds > 1 else tuned.draft
        assert last.signature.instructions == BETTER


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["p -> m -> g", "g -> p", "m -> p", "p -> g -> p"])
def test_better_together_with_our_optimizer(strategy: str) -> None:
    from dspy.teleprompt import GEPA, BetterTogether, MIPROv2

    lm = engine(teachable)
    student: Any = PROGRAMS["LongCoT"]()
    student.set_lm(lm)
    quiet: dict[str, Any] = {"num_candidates": 2, "num_threads": 2, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    with dspy.context(lm=lm):
        optimizers = {
            "p": PDROptimizer(ExactVerifier(), space=SMALL, trials=4, confirm_repeats=2, accept="better"),
            "g": GEPA(metric=feedback(metric), max_metric_calls=40, reflection_lm=lm, num_threads=2),
            "m": MIPROv2(metric=metric, prompt_model=lm, task_model=lm, auto=None, verbose=False, **quiet),
        }
        tuned: Any = BetterTogether(metric=metric, **optimizers).compile(
            student,
            trainset=TRAIN,
            valset=HELD_OUT,
            strategy=strategy,
            optimizer_compile_args={"m": {"num_trials": 2, "minibatch": False, "program_aware_proposer": False}},
        )
        assert not tuned.flag_compilation_error_occurred
        steps = strategy.split(" -> ")
        by_step = {each["strategy"]: each for each in tuned.candidate_programs}
        assert set(by_step) == {"", *(" -> ".join(steps[:n]) for n in range(1, len(steps) + 1))}
        for each in by_step.values():
            program = each["program"]
            roles = {role.value for role in program.role_signatures(program.task, program.schedule)}
            assert {name for name, _ in program.named_predictors()} == roles  # what its schedule calls, no more
            assert all(predictor.lm is not None for predictor in program.predictors())
        assert by_step[""]["score"] == 50.0
        if steps[0] == "p":
            assert by_step["p"]["program"].schedule.rounds == 2
            assert by_step["p"]["score"] > 50.0
        assert tuned.candidate_programs[0]["score"] == 100.0
        assert any(predictor.signature.instructions == BETTER for predictor in tuned.predictors())
    assert student.schedule.rounds == 1
    assert not student.draft.demos


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [{"valset": HELD_OUT, "teacher": True}, {"valset_ratio": 0}, {"valset_ratio": 0.5}])
def test_better_together_passes_teacher_and_valset_as_it_likes(given: dict[str, Any]) -> None:
    from dspy.teleprompt import BetterTogether

    lm, student = engine(teachable), PROGRAMS["SR"]()
    student.set_lm(lm)
    if given.get("teacher"):
        given = {**given, "teacher": student.deepcopy()}
    optimizer = PDROptimizer(ExactVerifier(), space=SMALL, trials=3, confirm_repeats=1)
    with dspy.context(lm=lm):
        tuned: Any = BetterTogether(metric=metric, p=optimizer).compile(student, trainset=TRAIN, strategy="p", **given)
    assert not tuned.flag_compilation_error_occurred
    assert {each["strategy"] for each in tuned.candidate_programs} == {"", "p"}


@pytest.mark.filterwarnings("ignore")
def test_proposed_instructions_and_demonstrations_in_our_own_search() -> None:
    lm = engine(teachable)
    with dspy.context(lm=lm):
        student = PROGRAMS["LongCoT"]()
        proposals = propose(student, TRAIN, lm=lm, count=1)
        space = SMALL.fix(rounds=1).extend(
            instructions=proposals.instructions, demos={"draft": ([{"question": "q9", "answer": "0"}],)}
        )
        optimizer = PDROptimizer(ExactVerifier(), space=space, trials=4, confirm_repeats=2, accept="better")
        tuned: Any = optimizer.compile(student, trainset=TRAIN, valset=HELD_OUT)
    assert optimizer.result is not None
    assert {len(trial.demos.get("draft", ())) for trial in optimizer.result.trials} == {0, 1}
    assert tuned.draft.signature.instructions == BETTER


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
