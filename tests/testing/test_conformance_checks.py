"""The laws of a check, held to the library's own and to some that break one each."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, Field

from pdr_dspy import datasets
from pdr_dspy.calls import Call, Phase
from pdr_dspy.testing.conformance import check_check
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import (
    CHECKS,
    CalibratedCheck,
    CodeCheck,
    ConstraintCheck,
    RewardCheck,
    SchemaCheck,
    register_check,
)
from pdr_dspy.verifiers.sandbox import bubblewrap
from tests.evaluation.test_calibration import calibration_of, simulated

ASKED = {"question": "How many letters has a word?"}
RIGHT, WRONG = {"answer": "four"}, {"answer": "four letters"}
WHY = bubblewrap.missing()


def short(args: Mapping[str, Any], pred: Any) -> float:
    words = str(pred.answer or "").split()
    return 1 / len(words) if words else 0.0


class Count(BaseModel):
    answer: int = Field(ge=0)


def test_reward_functions_schemas_and_calibrated_checks() -> None:
    check_check(RewardCheck(short), ASKED, right=RIGHT, wrong=WRONG)
    check_check(SchemaCheck(Count), ASKED, right={"answer": "4"}, wrong={"answer": "four"})
    known = CalibratedCheck(RewardCheck(short), calibration_of(simulated(20, 2)))
    check_check(known, ASKED, right=RIGHT, wrong=WRONG)


def test_a_registered_name() -> None:
    register_check("tests.short", RewardCheck(short))
    try:
        check_check("tests.short", ASKED, right=RIGHT, wrong=WRONG)
    finally:
        CHECKS.remove("tests.short")


@pytest.mark.slow
def test_puzzles() -> None:
    (example,) = datasets.load("rg:jugs", limit=1, seed=3)
    check_check(
        ConstraintCheck(), {"question": example.question}, right={"answer": str(example.answer)}, wrong={"answer": "[]"}
    )


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None and not os.environ.get("CI"), reason=f"cannot isolate: {WHY}")
def test_programs() -> None:
    prompt = 'def f(x):\n    """Doubles.\n\n    >>> f(1)\n    2\n    """\n'
    check_check(
        CodeCheck(), {"prompt": prompt}, right={"code": "def f(x): return 2 * x"}, wrong={"code": "def f(x): return x"}
    )


@dataclass(frozen=True)
class Short:
    """Keeps the laws; its subclasses each break one."""

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        words = str(outputs.get("answer") or "").split()
        return Score(1 / len(words) if words else 0.0, f"{len(words)} words")

    def describe(self) -> dict[str, Any]:
        return {"kind": "Short"}


class Raises(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(1 / len(outputs["answer"].split()))


class Plain(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return float(await super().acheck(inputs, outputs))  # type: ignore[return-value]


class Upside(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(1 - float(await super().acheck(inputs, outputs)))


class Generous(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return await super().acheck(inputs, outputs) if str(outputs.get("answer") or "").strip() else Score(1)


class Moody(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(float(await super().acheck(inputs, outputs)) * (0.6 + 0.4 * random.random()))


class Changes(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        outputs["seen"] = True  # type: ignore[index]
        return await super().acheck(inputs, outputs)


class Talks(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(float(await super().acheck(inputs, outputs)), "", (), "word " * 3000)


class Failed(Short):
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        call = Call(phase=Phase.CHECK, failure="the server is down")
        return Score(float(await super().acheck(inputs, outputs)), "", (call,))


class Nameless(Short):
    def describe(self) -> dict[str, Any]:
        return {"self": object()}


class Fewer(Short):
    async def acheck_all(self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [await self.acheck(inputs, one) for one in outputs[1:]]


class Otherwise(Short):
    async def acheck_all(self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [Score(float(await self.acheck(inputs, one)) / 2) for one in outputs]


class Unequal:
    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return await Short().acheck(inputs, outputs)


@dataclass(frozen=True)
class Counts(Short):
    seen: list[int] = field(default_factory=list)

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        self.seen.append(1)
        return Score(float(await super().acheck(inputs, outputs)) / len(self.seen))


@pytest.mark.parametrize(
    ("check", "law"),
    [
        (Raises(), "raised"),
        (Plain(), "not a `Score`"),
        (Upside(), "right scores 0, wrong 0.5"),
        (Generous(), "is no answer, and scores 1"),
        (Moody(), "differently"),
        (Changes(), "changed its arguments"),
        (Talks(), "too long for a workspace"),
        (Failed(), "a call of a score failed"),
        (Nameless(), "is not JSON"),
        (Fewer(), "gave 1 scores for 2 answers"),
        (Otherwise(), "`acheck` and `acheck_all` score differently"),
        (Unequal(), "a copy of it is not equal"),
        (Counts(), "differently"),
    ],
)
def test_each_law_is_held(check: Any, law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_check(check, ASKED, right=RIGHT, wrong=WRONG)


def test_one_that_keeps_them_passes() -> None:
    check_check(Short(), ASKED, right=RIGHT, wrong=WRONG)
