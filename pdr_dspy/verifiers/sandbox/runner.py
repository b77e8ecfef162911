"""The choice of a sandbox: monty if it supports the program, else bubblewrap; without either, no program runs."""

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
    """Run a program with its tests in a sandbox, and return the result of each test.

    monty's outcome is final if all cases pass. Since monty is a subset of Python, any other outcome is repeated with
    CPython in bubblewrap, if that is available. Cancelling the call kills the program.

    Args:
        job: the program and its tests.
        limits: its limits; None for `Limits()`.
        isolation: "auto", or the sandbox to use.

    Raises:
        NoSandbox: no sandbox is available; the program was not run.
        TestsBroken: the tests are not Python.
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
    """Each sandbox with the reason why it is unavailable on this machine; None if it is available."""
    return {"monty": monty.missing(), "bubblewrap": bubblewrap.missing()}


__all__ = ["Case", "Isolation", "isolations", "run"]
