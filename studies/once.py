"""A verifier and a check that run each answer once, for studies whose programs share most of their drafts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import dspy

from pdr_dspy.verifiers import CodeVerifier
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import CodeCheck
from pdr_dspy.verifiers.code import completion_of


class Once:
    """Hidden tests as the verifier and docstring examples as the check, each run once for a problem and a program.

    Sixty schedules with the same eight drafts would otherwise run them sixty times. The verdicts are those of the
    verifier and the check that it is made of.
    """

    grades_drafts = True
    time_limit = None  # the limits of the sandbox hold

    def __init__(self, verifier: CodeVerifier, check: CodeCheck) -> None:
        self.verifier = verifier
        self._check = check
        self._verdicts: dict[tuple[str, str, str], asyncio.Future[Score]] = {}

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """As the verifier."""
        return self.verifier(example, prediction, trace)

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        """As the verifier."""
        answer = completion_of(prediction.get(self.verifier.field))
        place = ("tests", str(example[self.verifier.prompt]), str(answer))
        return await self._once(place, lambda: self.verifier.averify(example, prediction))

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """As the check."""
        answer = completion_of(outputs.get(self._check.field))
        place = ("check", str(inputs[self._check.prompt]), str(answer))
        return await self._once(place, lambda: self._check.acheck(inputs, outputs))

    def __deepcopy__(self, memo: Any) -> Once:
        return self  # the programs of all schedules are copies of one

    def check_gold(self, example: dspy.Example) -> None:
        """As the verifier."""
        self.verifier.check_gold(example)

    def describe(self) -> dict[str, Any]:
        """As the verifier."""
        return self.verifier.describe()

    async def _once(self, place: tuple[str, str, str], run: Callable[[], Awaitable[Score]]) -> Score:
        if place not in self._verdicts:
            self._verdicts[place] = asyncio.ensure_future(run())
        return await asyncio.shield(self._verdicts[place])  # one program that is cancelled leaves it to the others
