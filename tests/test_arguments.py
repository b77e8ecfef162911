"""Wrong arguments: every public constructor and function names the argument, its value and the remedy."""

# pyright: reportArgumentType=false, reportCallIssue=false
# The calls are wrong on purpose.

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import dspy
import pytest

import pdr_dspy
from pdr_dspy import PDR, SR, BestOfN, Budget, LongCoT, Operator, PDROptimizer, Schedule, SelfConsistency, Space
from pdr_dspy.arguments import explained, explained_with, meant
from pdr_dspy.errors import ConfigError, DataError, PDRError, WrongCall
from pdr_dspy.evaluation import calibrate
from pdr_dspy.search.settings import Race
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers import ChoiceVerifier, JudgeVerifier, MathVerifier, NumberVerifier
from pdr_dspy.verifiers.checks import CodeCheck, JudgeCheck, RewardCheck, SchemaCheck, as_check, register_check

QA = "question -> answer"
URL = "http://127.0.0.1:9/v1"
EXAMPLES = [dspy.Example(question="q", answer="a").with_inputs("question")]
ANY: Any = None


def f(*args: Any) -> float:
    return 1.0


def refused(call: Callable[..., Any], *args: Any, **keywords: Any) -> str:
    """The message of the error that a call raises."""
    lm = scripted_lm(lambda request: "Answer: a")
    with dspy.context(lm=lm), pytest.raises(PDRError) as error:
        call(*args, **keywords)
    assert lm.served.calls == 0  # before a token is spent
    return str(error.value)


def program() -> Operator:
    return LongCoT(QA, draft_tokens=60)


NAMES: list[tuple[Callable[[], Any], str]] = [
    # DSPy's spelling, and that of other libraries
    (lambda: BestOfN(QA, N=4, reward_fn=f), "`n=`? And there is no `reward_fn`; did you mean `check=`?"),
    (lambda: BestOfN(module=QA, n=4, check=f), "did you mean `signature=`?"),
    (lambda: BestOfN(QA, n=4, check=f, threshold=1.0), "there is no `threshold`; did you mean `stop_at=`?"),
    (lambda: SelfConsistency(QA, N=4), "`SelfConsistency(N=4)`: there is no `N`; did you mean `n=`?"),
    (lambda: SelfConsistency(QA, num_samples=4), "did you mean `n=`?"),
    (lambda: SR(QA, N=3), "did you mean `rounds=`?"),
    (lambda: SR(QA, iterations=3), "did you mean `rounds=`?"),
    (lambda: SR(QA, reward_fn=f), "did you mean `check=`?"),
    (lambda: LongCoT(QA, max_tokens=100), "did you mean `draft_tokens=`?"),
    (lambda: LongCoT(QA, n=4), "did you mean `widths=`?"),
    (lambda: PDR(QA, width=(8, 1)), "`PDR(width=(8, 1))`: there is no `width`; did you mean `widths=`?"),
    (lambda: PDR(QA, kapa=8), "did you mean `kappa=`?"),
    (lambda: PDR(QA, preset="fast"), "did you mean `schedule=`?"),
    (lambda: Schedule(kapa=3), "`Schedule(kapa=3)`: there is no `kapa`; did you mean `kappa=`?"),
    (lambda: Budget(tokens=10), "did you mean `total=`?"),
    (lambda: Operator(QA, Schedule(), checks=f), "did you mean `check=`?"),
    (lambda: pdr_dspy.preset("fast", width=3), "did you mean `widths=`?"),
    (lambda: PDROptimizer(metric=f), "`PDROptimizer(metric=<function f at"),
    (lambda: PDROptimizer(metric=f), "there is no `metric`; did you mean `verifier=`?"),
    (lambda: PDROptimizer(f, num_trials=4), "did you mean `trials=`?"),
    (lambda: PDROptimizer(f, num_threads=4), "did you mean `max_in_flight=`?"),
    (lambda: PDROptimizer(f, auto="light"), "there is no `auto`; the names are verifier, settings"),
    (lambda: PDROptimizer(f).compile(program(), train=EXAMPLES), "did you mean `trainset=`?"),
    (lambda: pdr_dspy.evaluate(program(), devset=EXAMPLES, metric=f), "did you mean `examples=`? And there is no "
                                                                      "`metric`; did you mean `verifier=`?"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES, f, num_threads=3), "did you mean `max_in_flight=`?"),
    (lambda: asyncio.run(pdr_dspy.aevaluate(program(), EXAMPLES, metric=f)), "did you mean `verifier=`?"),
    (lambda: calibrate(f, program(), EXAMPLES, metric=f), "did you mean `verifier=`?"),
    (lambda: RewardCheck(reward_fn=f), "did you mean `function=`?"),
    (lambda: RewardCheck(f, timeout=3), "did you mean `time_limit=`?"),
    (lambda: JudgeCheck(model="m"), "did you mean `lm=`?"),
    (lambda: CodeCheck(timeout=3), "there is no `timeout`; the names are prompt, field"),
    (lambda: NumberVerifier(tol=0.1), "there is no `tol`; the names are gold, field, tolerance"),
    (lambda: pdr_dspy.connect(model="m", base_url=URL), "did you mean `api_base=`?"),
    (lambda: pdr_dspy.connect("m", URL, timeouts=4), "did you mean `timeout=`?"),
    (lambda: pdr_dspy.dataset("sums", sise=3), "did you mean `size=`?"),
    (lambda: pdr_dspy.datasets.load("rg:lcm", n=3), "did you mean `size=`?"),
    (lambda: pdr_dspy.load("best.json", trust=True), "did you mean `trusted=`?"),
    (lambda: pdr_dspy.save(program(), "best.json", point=3), "did you mean `points=`?"),
    (lambda: pdr_dspy.session(seeds=3).__enter__(), "`session(seeds=3)`: there is no `seeds`; did you mean `seed=`?"),
    (lambda: pdr_dspy.distiller("x", need_gold=True), "did you mean `needs_gold=`?"),
    (lambda: program().with_schedule(Schedule(), instruction={}), "did you mean `instructions=`?"),
    # too few, too many
    (lambda: BestOfN(QA, n=4), "`BestOfN(...)` needs `check=`; it is called as `BestOfN(signature, *, n=8, check"),
    (lambda: BestOfN(), "needs `signature=` and `check=`"),
    (lambda: BestOfN(QA, 4, f), "by position, and was given 3 values; name the others: n=..., check=..."),
    (lambda: SelfConsistency(QA, 4), "name the others: n=..., final=..., models=..."),
    (lambda: PDR(), "`PDR(...)` needs `signature=`"),
    (lambda: Schedule((4, 1)), "`Schedule((4, 1))` takes its values by name, such as `Schedule(widths=...)`"),
    (lambda: Budget(10), "`Budget(10)` takes its values by name"),
    (lambda: Operator(QA), "`Operator(...)` needs `schedule=`"),
    (lambda: PDROptimizer(), "`PDROptimizer(...)` needs `verifier=`"),
    (lambda: PDROptimizer(f).compile(program()), "`PDROptimizer.compile(...)` needs `trainset=`"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES), "`evaluate(...)` needs `verifier=`"),
    (lambda: pdr_dspy.connect("m"), "`connect(...)` needs `api_base=`"),
    (lambda: SchemaCheck(), "`SchemaCheck(...)` needs `schema=`"),
    (lambda: JudgeVerifier(), "`JudgeVerifier(...)` needs `lm=`"),
    (lambda: register_check("x"), "`register_check(...)` needs `check=`"),
    (lambda: pdr_dspy.Adapter("a", "b"), "`Adapter(...)` takes name by position, and was given 2 values"),
    (lambda: pdr_dspy.Priced(ANY, 3), "`Priced(...)` needs `output=`"),
    (lambda: PDR(QA, "fast", schedule="fast"), "`PDR(schedule='fast')` is given twice"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), NAMES, ids=[said[:60] for _, said in NAMES])
def test_a_call_with_other_arguments_says_what_was_meant(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(WrongCall) as error:
        call()
    assert isinstance(error.value, TypeError)  # as Python's own
    assert said in str(error.value)


NUMBERS = [True, False, "1", "384", b"1", [1], math.nan, math.inf, -math.inf, -1]
FIELDS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "kappa": ([*NUMBERS, 0, 8.5, None], {}),
    "k": ([*NUMBERS, 0, 1.5, None], {}),
    "draft_tokens": ([*NUMBERS, 0, None], {}),
    "refine_tokens": ([*NUMBERS, 0], {}),
    "distill_tokens": ([*NUMBERS, 0], {}),
    "thinking_tokens": ([*NUMBERS, None], {}),
    "temperature": ([*NUMBERS, 2.5, None], {}),
    "distill_temperature": ([*NUMBERS, 2.5], {}),
    "top_p": ([*NUMBERS, 0, 1.1, None], {}),
    "quorum": ([*NUMBERS, 0, 1.1, None], {}),
    "agree": ([*NUMBERS, 0.5, 1], {}),
    "stop_at": ([*NUMBERS, 0, 1.1], {"check": "c"}),
    "first_wave": ([*NUMBERS, 0, 4], {"agree": 0.9}),
    "next_wave": ([*NUMBERS, 0], {"agree": 0.9, "first_wave": 2}),
    "keep": (["yes", "no", "true", 1, 0, 1.0, None], {"check": "c"}),
    "tally": (["yes", 1, 0, None], {}),
    "critique": (["yes", 1, 0, None], {"widths": (1, 1), "distiller": "last"}),
    "json_fallback": (["yes", 1, 0, None], {}),
    "widths": (["8,1", "81", b"81", 8, None, (), (0, 1), (-1, 1), ("8", 1), (True, 1), (8, True), (8.5, 1),
                (math.nan, 1), (8, 2), (300, 1)], {}),
    "final": (["votes", None, True, 3], {}),
    "distiller": (["toppk", None, 3, True], {}),
    "check": ([3, "", True, f], {}),
    "draft_model": ([3, "", True], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_schedule_names_the_field_its_value_and_the_remedy(name: str) -> None:
    values, others = FIELDS[name]
    for value in values:
        with pytest.raises(ConfigError) as error:
            Schedule(**{"widths": (4, 1), "distiller": "random_k", **others, name: value})
        said = str(error.value)
        assert said.startswith("`Schedule("), said
        assert f"{name}=" in said
        assert "input should" not in said.lower()


def test_numbers_of_other_types_are_numbers() -> None:
    import numpy as np

    schedule = Schedule(widths=[np.int64(4), 1], kappa=np.int32(300), stop_at=1, check="c", temperature=np.float64(1))
    assert (schedule.widths, schedule.kappa, schedule.stop_at) == ((4, 1), 300, 1.0)
    assert Budget(total=1e6).total == 1_000_000


VALUES: list[tuple[Callable[[], Any], str]] = [
    (lambda: BestOfN(QA, n=True, check=f), "`BestOfN(n=True)` must be a whole number"),
    (lambda: BestOfN(QA, n="4", check=f), "`BestOfN(n='4')` must be a whole number"),
    (lambda: BestOfN(QA, n=4, check=3), "`3` is no check: give one of"),
    (lambda: BestOfN(QA, n=4, check="nope"), "there is no check 'nope' here. Known: none"),
    (lambda: LongCoT(QA, check=f), "this operator scores no draft, so it takes no check; `BestOfN`, `SR` and `PDR` do"),
    (lambda: SR(QA, critique="yes"), "`SR(critique='yes')` must be True or False"),
    (lambda: Operator(QA, "fast"), "`Operator(schedule='fast')` must be a `Schedule(...)`"),
    (lambda: program().with_schedule("fast"), "`with_schedule(schedule='fast')` must be a `Schedule(...)`"),
    (lambda: program()(question="q", seed="x"), "`LongCoT(...)(seed='x')` must be a whole number"),
    (lambda: program()(question="q", seed=True), "`LongCoT(...)(seed=True)` must be a whole number"),
    (lambda: Budget(total="100"), "`Budget(total='100')` must be a whole number"),
    (lambda: Budget(total=True), "`Budget(total=True)` must be a whole number"),
    (lambda: Budget(total=math.nan), "`Budget(total=nan)`"),
    (lambda: PDROptimizer(f, trials="4"), "`PDROptimizer(trials='4')` must be a whole number of at least 1"),
    (lambda: PDROptimizer(f, executor=3), "`PDROptimizer(executor=3)` must be an executor"),
    (lambda: PDROptimizer(f).compile(3, trainset=EXAMPLES), "`compile(student=3)` must be an operator"),
    (lambda: PDROptimizer(f).compile(program(), trainset=3), "`compile(trainset=3)` must be a list of `dspy.Example`"),
    (lambda: PDROptimizer(f).compile(program(), trainset=EXAMPLES, valset="x"), "`compile(valset='x')` must be a list"),
    (lambda: Race(alpha="0.05"), "`Race(alpha='0.05')` must be a number"),
    (lambda: Race(free=True), "`Race(free=True)` must be a whole number"),
    (lambda: Race(repeats="2"), "`Race(repeats='2')` must be a whole number of at least 1"),
    (lambda: Space(k=[True]), "`Space(k=[True])` must be a sequence of whole numbers"),
    (lambda: Space(kappa="384"), "`Space(kappa='384')` must be a sequence of whole numbers"),
    (lambda: pdr_dspy.evaluate(program(), 3, f), "`evaluate(examples=3)` must be a list of `dspy.Example`"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES[0], f), "put the example into a list"),
    (lambda: pdr_dspy.evaluate(program(), ["q"], f), "has 'q' at position 0, which is no dspy.Example"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES, f, store="x"), "`evaluate(store='x')` must be `Rollouts(folder)`"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES, f, run_dir=3), "`evaluate(run_dir=3)` must be a path"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES, f, executor=3), "`evaluate(executor=3)` must be an executor"),
    (lambda: pdr_dspy.evaluate(program(), EXAMPLES, f, name=3), "`evaluate(name=3)` must be a text"),
    (lambda: calibrate(f, program(), EXAMPLES, f, precision="0.9"), "`calibrate(precision='0.9')` must be in (0, 1]"),
    (lambda: calibrate(f, program(), EXAMPLES, f, folds=True), "`calibrate(folds=True)` must be a whole number"),
    (lambda: RewardCheck(f, low="0"), "`RewardCheck(low='0')` must be a number"),
    (lambda: RewardCheck(f, high=math.nan), "`RewardCheck(high=nan)` must be a number"),
    (lambda: CodeCheck(feedback_tokens="x"), "`CodeCheck(feedback_tokens='x')` must be a whole number"),
    (lambda: NumberVerifier(tolerance="x"), "`NumberVerifier(tolerance='x')` must be a finite number"),
    (lambda: NumberVerifier(relative=True), "`NumberVerifier(relative=True)` must be a finite number"),
    (lambda: MathVerifier(timeout="x"), "`MathVerifier(timeout='x')` must be above 0"),
    (lambda: ChoiceVerifier(options=3), "`ChoiceVerifier(options=3)` must be the options"),
    (lambda: pdr_dspy.connect("m", 3), "`connect(api_base=3)` must be a URL"),
    (lambda: pdr_dspy.connect("m", URL, timeout="x"), "(timeout='x')` must be a number"),
    (lambda: pdr_dspy.connect("m", URL, siblings="yes"), "(siblings='yes')` must be True or False, or None"),
    (lambda: pdr_dspy.load(3), "`load(path=3)` must be a path"),
    (lambda: pdr_dspy.save(program(), 3), "`save(path=3)` must be a path"),
    (lambda: pdr_dspy.save("best.json", program()), "takes the program first: `save(program, 'best.json')`"),
    (lambda: pdr_dspy.Rollouts(3), "`Rollouts(storage=3)` must be a path"),
    (lambda: pdr_dspy.session(seed="x").__enter__(), "`session(seed='x')` must be a whole number"),
    (lambda: pdr_dspy.session(store="x").__enter__(), "`session(store='x')` must be `Rollouts(folder)`, or None"),
    (lambda: pdr_dspy.load("best.json", trusted="no"), "`load(trusted='no')` must be True or False"),
    (lambda: pdr_dspy.session(deadline="x").__enter__(), "`session(deadline='x')` must be a time"),
    (lambda: as_check(3), "`3` is no check"),
]


@pytest.mark.parametrize(("call", "said"), VALUES, ids=[said[:60] for _, said in VALUES])
def test_a_value_of_another_kind_is_named_before_a_token_is_spent(call: Callable[[], Any], said: str) -> None:
    assert said in refused(call)


@pytest.mark.parametrize("value", [2, math.nan, "x", None])
def test_a_score_is_a_number_from_0_to_1(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`Score\(value=.*\)` must be .*in \[0, 1\]"):
        pdr_dspy.Score(value)


def test_a_set_of_examples_may_be_any_sequence() -> None:
    class Loaded:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> dspy.Example:
            return EXAMPLES[place]

    with dspy.context(lm=scripted_lm(lambda request: "Answer: a")):
        assert pdr_dspy.evaluate(program(), Loaded(), f).score == 1.0
    with pytest.raises(DataError):
        pdr_dspy.evaluate(program(), {"question": "q"}, f)


def test_what_is_explained_stays_what_it_was() -> None:
    import inspect

    assert inspect.iscoroutinefunction(pdr_dspy.aevaluate)
    assert list(inspect.signature(pdr_dspy.evaluate).parameters)[:3] == ["program", "examples", "verifier"]
    assert list(inspect.signature(NumberVerifier).parameters)[:2] == ["gold", "field"]
    assert BestOfN.__doc__ is not None

    @explained
    def own(first: int, /, second: int = 2, *, third: int) -> tuple[int, int, int]:
        return first, second, third

    @explained_with(["fourth"])
    def more(**keywords: Any) -> dict[str, Any]:
        return keywords

    @explained
    def unbounded(*values: int, **keywords: int) -> int:
        return len(values) + len(keywords)

    assert own(1, third=3) == (1, 2, 3)
    assert more(fourth=4) == {"fourth": 4}
    assert unbounded(1, 2, any_name=3) == 3
    with pytest.raises(WrongCall, match=r"there is no `first`; the names are second"):
        own(first=1, third=3)  # type: ignore[call-arg]
    with pytest.raises(WrongCall, match=r"there is no `forth`; did you mean `fourth=`\?"):
        more(forth=4)


def test_nothing_is_meant_that_a_call_does_not_take() -> None:
    assert meant("reward_fn", ["check", "n"]) == "did you mean `check=`?"
    assert meant("reward_fn", ["n"]) == "the names are n"
    assert meant("anything", []) == "it takes none"
