"""Which sandbox runs a program: monty where that can, bubblewrap for the rest, and nothing at all without either."""

from __future__ import annotations

import asyncio
import weakref
from typing import Literal

from pdr_dspy.errors import NoSandbox
from pdr_dspy.verifiers.sandbox import bubblewrap, monty
from pdr_dspy.verifiers.sandbox.values import SIDE_BY_SIDE, Case, Job, Limits, Outcome

Isolation = Literal["auto", "monty", "bubblewrap"]
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


async def run(job: Job, limits: Limits | None = None, isolation: Isolation = "auto") -> Outcome:
    """Run a program with its tests where it can harm nothing, and say which tests it passes.

    A verdict of monty's counts where all cases pass. monty is a subset of Python, so whatever else it says is asked
    again of CPython inside bubblewrap, where there is one; cancelling the call kills what runs.

    Args:
        job: the program and its tests.
        limits: what it may use; None: `Limits()`.
        isolation: "auto", or the one to use.

    Raises:
        NoSandbox: nothing here can isolate it. Nothing was run.
        TestsBroken: the tests are no Python.
    """
    limits = limits or Limits()
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(SIDE_BY_SIDE))
    async with turn:
        light = isolation != "bubblewrap" and monty.suits(job)
        heavy = isolation != "monty" and bubblewrap.missing() is None
        if not light and not heavy:
            raise NoSandbox(_why(isolation, monty.missing() or "its tests are beyond monty's subset of Python"))
        if light:
            outcome = await monty.run(job, limits)
            if outcome.ok or (not heavy and not outcome.failure.startswith(monty.BEYOND)):
                return outcome
            if not heavy:
                raise NoSandbox(_why(isolation, outcome.failure))
        return await bubblewrap.run(job, limits)


def _why(isolation: Isolation, light: str) -> str:
    reasons = [] if isolation == "bubblewrap" else [light]
    reasons.append(bubblewrap.missing() or 'bubblewrap is ruled out by `isolation="monty"`')
    return (
        f"Programs cannot be run safely here, so none was: {'; '.join(reasons)}. Install the sandboxes "
        '(pip install "pdr-dspy[code]"), and allow unprivileged user namespaces (in a container: run it with them)'
    )


def isolations() -> dict[str, str | None]:
    """Each sandbox, and why it cannot be used here; None where it can."""
    return {"monty": monty.missing(), "bubblewrap": bubblewrap.missing()}


__all__ = ["Case", "Isolation", "isolations", "run"]
