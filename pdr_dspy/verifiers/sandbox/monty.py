"""Programs in monty, an interpreter of a subset of Python that knows no files, no network and no processes.

Two sessions in processes of monty's own, as in `inside.py`: one holds the program, the other its tests, and between
them goes what monty hands out as plain data. A session starts in a fraction of a millisecond; its memory, its time and
its depth are bounded inside, and its process is killed where it does not stop by itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pdr_dspy.verifiers.sandbox.values import SIDE_BY_SIDE, Case, Job, Limits, Outcome, Result, failed

NAME = "monty"
BEYOND = "monty does not know this Python"
_QUICK = 1.0
"""Seconds; what takes longer than this is bubblewrap's, where it is much faster."""
_CALLS = 100_000
_lock = threading.Lock()

_TESTER = """
def candidate(*args, **kwargs):
    said = __ask__(args, kwargs)
    after = said[1]
    for place in range(len(args)):
        argument = args[place]
        if isinstance(argument, list):
            if argument != after[place]:
                argument[:] = after[place]
        elif isinstance(argument, dict):
            if argument != after[place]:
                argument.clear()
                argument.update(after[place])
        elif isinstance(argument, set):
            if argument != after[place]:
                argument.clear()
                argument.update(after[place])
    return said[0]
"""
_PLAIN = (bool, int, float, str, bytes, type(None))


def missing() -> str | None:
    """Why monty cannot be used; None where it can."""
    if importlib.util.find_spec("pydantic_monty") is None:
        return "the package `pydantic-monty` is not installed"
    try:
        _pool()
    except Exception as error:
        return f"monty does not start: {error}"
    return None


def suits(job: Job) -> bool:
    """Whether monty may be tried: calls of one function of the program, compared with data."""
    whole = bool(job.cases) and all(isinstance(case, Case) and case.want is None for case in job.cases)
    return whole and job.entry is not None and job.entry.isidentifier() and missing() is None


async def run(job: Job, limits: Limits) -> Outcome:
    """Run a job; the outcome's `failure` begins with BEYOND where the program is none of monty's."""
    work = asyncio.get_running_loop().run_in_executor(_threads(), partial(_run, job, limits))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.cancel()  # one that has begun ends within its seconds, and nobody waits for it
        raise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="pdr-dspy-monty")


@cache
def _pool() -> Any:
    """Workers of monty, two for each job; they end with this process."""
    import pydantic_monty

    return pydantic_monty.Monty(
        max_processes=2 * SIDE_BY_SIDE, request_timeout=30.0, max_checkouts_per_worker=500
    ).__enter__()


def _run(job: Job, limits: Limits) -> Outcome:
    import pydantic_monty

    started = time.perf_counter()
    seconds = min(_QUICK, limits.seconds)
    bounds: Any = {
        "max_feed_duration_secs": seconds,
        "max_memory": limits.memory * 2**20,
        "max_suspensions": _CALLS,
        "max_total_sleep_secs": seconds,
    }
    results: list[Result] = []
    failure = ""
    with _lock:
        pool = _pool()
    quiet = partial(pydantic_monty.CollectString, limits.output * 1024)
    try:
        with pool.checkout(limits=bounds) as solver, pool.checkout(limits=bounds) as tester:
            solver.feed_run(job.programs[0], print_callback=quiet())

            def ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if time.perf_counter() - started > seconds:
                    raise TimeoutError(f"timed out after {seconds:g} s")
                call = f"(lambda *args, **kwargs: ({job.entry}(*args, **kwargs), args))(*__args__, **__kwargs__)"
                try:
                    given = {"__args__": list(args), "__kwargs__": dict(kwargs)}
                    said = solver.feed_run(call, inputs=given, print_callback=quiet())
                except pydantic_monty.MontyError as error:
                    inner = error.exception()
                    raise RuntimeError(f"{type(inner).__name__}: {inner}") from None
                return _data(said)

            for text in job.given:
                tester.feed_run(text, print_callback=quiet())
            tester.feed_run(
                f"{_TESTER}\n{job.entry} = candidate\n", print_callback=quiet(), external_lookup={"__ask__": ask}
            )
            for text in job.setup:
                tester.feed_run(text, print_callback=quiet())
            for case in job.cases:
                assert isinstance(case, Case)
                source = case.source
                if "def check(" in source:
                    source = f"{source}\ncheck({job.entry})\n"
                tester.feed_run(source, print_callback=quiet(), external_lookup={"__ask__": ask})
                results.append(Result(True))
    except pydantic_monty.MontyError as error:
        inner = error.exception() if hasattr(error, "exception") else error
        failure = f"{type(inner).__name__}: {inner}"
        if not isinstance(inner, AssertionError):
            failure = f"{BEYOND}, or it fails: {failure}"
    except (TypeError, ValueError, RecursionError, RuntimeError) as error:  # what cannot be handed over
        failure = f"{BEYOND}: {type(error).__name__}: {error}"
    if failure and not failure.startswith(BEYOND):
        results.append(Result(False, error=failure))
    return replace(failed(job, failure, NAME, results), seconds=time.perf_counter() - started)


def _data(value: Any, depth: int = 0) -> Any:
    """The value, where it is made of nothing but data. Raises TypeError for an object of the program's own."""
    if depth > 100:
        raise TypeError("nested too deeply")
    if type(value) in _PLAIN:
        if type(value) is float and math.isnan(value):
            return value
        return value
    if type(value) in (list, tuple, set, frozenset):
        for item in value:
            _data(item, depth + 1)
        return value
    if type(value) is dict:
        for key, item in value.items():
            _data(key, depth + 1)
            _data(item, depth + 1)
        return value
    raise TypeError(f"a {type(value).__name__} is no data")
