"""The model behind the pages of docs/: it plays every role, and is right in about every other draft.

Its questions have two numbers in them, and one of a few operations. Its tokens are words, so that what a page prints
is the same in every run.
"""

from __future__ import annotations

import math
import operator
import random
import re
from collections.abc import Callable

from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.support.solver import role_of

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "common multiple": math.lcm,
    "common divisor": math.gcd,
    "*": operator.mul,
    "+": operator.add,
    "-": operator.sub,
}


def reply(request: ScriptedRequest) -> str:
    """A draft's answer by its seed; notes for a summary, the second candidate for a choice."""
    role = role_of(request)
    if role == "select":
        return "The second holds up.\nSelected: [2, 1]"
    if role in ("distill", "critique"):
        return "The attempts disagree. One has not finished its sum; work it out again."
    asked = request.user.split("Workspace:")[0].lower()
    name = next((name for name in OPERATIONS if name in asked), "+")
    first, second = ([int(number) for number in re.findall(r"\d+", asked)] + [0, 0])[:2]
    right = OPERATIONS[name](first, second)
    luck = random.Random(f"{first} {name} {second}, seed {request.seed}")
    steps = f"Work with {first} and {second}.\n" * luck.randint(1, 3)
    return f"{steps}Answer: {right + luck.randint(0, 1)}"


def textbook() -> ScriptedLM:
    """A fresh one."""
    return scripted_lm(reply)
