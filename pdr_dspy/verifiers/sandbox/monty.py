"""The monty sandbox: an interpreter of a subset of Python without files, network and processes.

A job runs in two sessions in monty's own processes, as in `inside.py`: one has the program, the other its tests, and
they exchange plain data only. A session starts in a fraction of a millisecond; monty limits its memory, time and depth,
and kills its process if it does not stop.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pdr_dspy.text.python_source import parsed
from pdr_dspy.verifiers.sandbox.values import SIDE_BY_SIDE, Case, Job, Limits, Outcome, Result, failed

NAME = "monty"
BEYOND = "monty does not know this Python"
_QUICK = 1.0
"""Seconds; a longer program runs in bubblewrap, where it is much faster."""
_CALLS = 100_000
_lock = threading.Lock()

_TESTER = """
def candidate(*args, **kwargs):
    reply = __call_program__(args, kwargs)
    after = reply[1]
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
    return reply[0]
"""
_PLAIN = (bool, int, float, str, bytes, type(None))


def missing() -> str | None:
    """The reason why monty is unavailable; None if it is available."""
    if importlib.util.find_spec("pydantic_monty") is None:
        return "the package `pydantic-monty` is not installed"
    try:
        _pool()
    except Exception as error:
        return f"monty does not start: {error}"
    return None


def suits(job: Job) -> bool:
    """Whether monty supports the job: its tests call one function of the program and compare data."""
    whole = bool(job.cases) and all(
        isinstance(case, Case) and case.want is None and _runs_by_itself(case.source) for case in job.cases
    )
    return whole and job.entry is not None and job.entry.isidentifier() and missing() is None


def _runs_by_itself(source: str) -> bool:
    """Whether a case is run by its statements, or by a call of its `check`: nothing here finds `test_...` or unittest's
    cases, so they would pass unseen."""
    tree = parsed(source)
    return tree is not None and not any(
        isinstance(node, (ast.AsyncFunctionDef, ast.ClassDef))
        or (isinstance(node, ast.FunctionDef) and node.name.startswith("test"))
        for node in tree.body
    )


def _calls_for_check(source: str) -> bool:
    """Whether a case defines `check` without calling it."""
    tree = parsed(source)
    if tree is None or not any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        return False
    return not any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
        for statement in tree.body
        if not isinstance(statement, ast.FunctionDef)
        for node in ast.walk(statement)
    )


async def run(job: Job, limits: Limits) -> Outcome:
    """Run a job; the outcome's `failure` begins with BEYOND if monty does not support the program."""
    work = asyncio.get_running_loop().run_in_executor(_threads(), partial(_run, job, limits))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.cancel()  # a thread that has begun ends within its time limit; its result is dropped
        raise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="pdr-dspy-monty")


@cache
def _pool() -> Any:
    """monty's workers, two for each job; they end with this process."""
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

            def call_program(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if time.perf_counter() - started > seconds:
                    raise TimeoutError(f"timed out after {seconds:g} s")
                call = f"(lambda *args, **kwargs: ({job.entry}(*args, **kwargs), args))(*__args__, **__kwargs__)"
                try:
                    given = {"__args__": list(args), "__kwargs__": dict(kwargs)}
                    result = solver.feed_run(call, inputs=given, print_callback=quiet())
                except pydantic_monty.MontyError as error:
                    inner = error.exception()
                    raise RuntimeError(f"{type(inner).__name__}: {inner}") from None
                return _data(result)

            for text in job.given:
                tester.feed_run(text, print_callback=quiet())
            tester.feed_run(
                f"{_TESTER}\n{job.entry} = candidate\n",
                print_callback=quiet(),
                external_lookup={"__call_program__": call_program},
            )
            for text in job.setup:
                tester.feed_run(text, print_callback=quiet())
            for case in job.cases:
                assert isinstance(case, Case)
                source = case.source
                if _calls_for_check(source):
                    source = f"{source}\ncheck({job.entry})\n"
                tester.feed_run(source, print_callback=quiet(), external_lookup={"__call_program__": call_program})
                results.append(Result(True))
    except pydantic_monty.MontyError as error:
        inner = error.exception() if hasattr(error, "exception") else error
        failure = f"{type(inner).__name__}: {inner}"
        if not isinstance(inner, AssertionError):
            failure = f"{BEYOND}, or it fails: {failure}"
    except (TypeError, ValueError, RecursionError, RuntimeError) as error:  # values that monty cannot exchange
        failure = f"{BEYOND}: {type(error).__name__}: {error}"
    if failure and not failure.startswith(BEYOND):
        results.append(Result(False, error=failure))
    return replace(failed(job, failure, NAME, results), seconds=time.perf_counter() - started)


def _data(value: Any, depth: int = 0) -> Any:
    """The value, if it is plain data. Raises TypeError for any other object."""
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
    raise TypeError(f"a {type(value).__name__} is not plain data")
