"""The process that parses and compares untrusted answers. `grading_pool` runs it as a script.

From pdr_dspy it imports only the modules that read and compare mathematics.

The worker imports the heavy libraries once and forks a child that reads requests from the pipe, answers them and limits
itself: the kernel ends it when an item's time is over (SIGALRM with its default action interrupts even a loop in C),
and its address space may grow only by the item's allowance. When a child dies, the worker reports it and forks the next
child, which takes milliseconds. Messages are JSON with a four-byte length prefix; objects are never pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
_PARENT_GONE = 3
_RECYCLE = 4
_ITEMS = 500  # items per child, since its caches grow with each item
_GROWTH = 48 * 2**20

Grade = Callable[[dict[str, Any]], dict[str, Any]]


def main(kind: str) -> None:
    """Answer requests of one kind, one JSON message each, until the input ends."""
    requests, replies = os.dup(0), os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)  # scorers print
    for standard in (0, 1, 2):
        os.dup2(silence, standard)
    try:
        grade = {"math": _math, "procedural": _procedural}[kind]()
    except Exception as error:
        _send(replies, {"fatal": f"{type(error).__name__}: {error}"})
        return
    _send(replies, {"ready": True})
    while True:
        child = os.fork()
        if child == 0:
            _serve(grade, requests, replies)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            _send(replies, {"error": "time" if os.WTERMSIG(status) == signal.SIGALRM else "crash"})
        elif os.WEXITSTATUS(status) == _PARENT_GONE:
            return
        elif os.WEXITSTATUS(status) != _RECYCLE:
            _send(replies, {"error": "crash"})


def _serve(grade: Grade, requests: int, replies: int) -> None:
    """Answer requests until the parent ends or the child's limit of items is reached; never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))
    base = _address_space()
    for _ in range(_ITEMS):
        request = _receive(requests)
        if request is None:
            os._exit(_PARENT_GONE)
        if base:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (base + int(request["memory"]), resource.RLIM_INFINITY))
        fresh = False
        signal.setitimer(signal.ITIMER_REAL, request["timeout"])
        try:
            reply = grade(request)
        except MemoryError:
            reply, fresh = {"error": "memory"}, True
        except BaseException as error:
            reply = {"error": "failed", "detail": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)
        if fresh or (base and _address_space() > base + _GROWTH):
            break
    os._exit(_RECYCLE)


def _address_space() -> int:
    """Bytes of this process's address space, 0 if the system does not report it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _receive(pipe: int) -> dict[str, Any] | None:
    header = _exactly(pipe, 4)
    body = _exactly(pipe, struct.unpack(">I", header)[0]) if header else None
    return json.loads(body) if body else None


def _exactly(pipe: int, count: int) -> bytes | None:
    """Read unbuffered, so that the next child finds the pipe at the start of a message."""
    data = b""
    while len(data) < count:
        piece = os.read(pipe, count - len(data))
        if not piece:
            return None
        data += piece
    return data


def _send(pipe: int, reply: dict[str, Any]) -> None:
    body = json.dumps(reply).encode()
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, struct.pack(">I", len(body)) + body)  # far below PIPE_BUF, hence atomic


# ---------------------------------------------------------------------------------------------------------- graders


def _math() -> Grade:
    for name, folder in (("pdr_dspy", _PACKAGE), ("pdr_dspy.text", _PACKAGE / "text"),
                         ("pdr_dspy.verifiers", _PACKAGE / "verifiers")):  # fmt: skip
        stub = types.ModuleType(name)  # the real __init__ would import the whole library
        stub.__path__ = [str(folder)]
        sys.modules[name] = stub
    from pdr_dspy.verifiers.mathematics.comparison import grade

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return grade(request["gold"], request["answer"])

    for sample in _SAMPLES:  # fills sympy's caches, which children inherit
        grade(sample, sample.replace("2", "3"))
        grade(sample, sample)
    return answer


_SAMPLES = (
    r"\frac{\sqrt{2}}{2}+\pi",
    r"2x^{2}-3x+\frac{1}{2}",
    r"(2, \frac{1}{3})",
    r"[-2, 3) \cup (4, \infty)",
    r"x^2 < 2",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"y = 2x - 1",
    r"2 + 3i",
    r"\sin^2 x + \log_2 3 + |x| + 2!",
    r"2n\pi, n \in \mathbb Z",
)


def _procedural() -> Grade:
    import reasoning_gym

    scorers: dict[str, Any] = {}

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(item) for item in value)
        return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value

    def grade(request: dict[str, Any]) -> dict[str, Any]:
        task, entry, answer = request["task"], request["entry"], request["answer"]
        key = json.dumps([task, request["options"]], sort_keys=True)
        if key not in scorers:
            scorers[key] = reasoning_gym.create_dataset(task, size=1, seed=0, **request["options"])
        scorer = scorers[key]
        score = float(scorer.score_answer(answer, entry))
        if score < 1 and float(scorer.score_answer(entry["answer"], entry)) < 1:
            # JSON turns the tuples that this task compares into lists.
            score = float(scorer.score_answer(answer, {**entry, "metadata": tuples(entry["metadata"])}))
        return {"score": score}

    return grade


if __name__ == "__main__":
    main(sys.argv[1])
