"""A CPU profile by sampling: the main thread's innermost frame after each tick of CPU time.

The kernel rounds the interval up to its clock tick, 4 ms on most machines: a second of CPU is about 250 samples.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

GROUPS = (
    ("this library", ("/pdr_dspy/",)),
    ("lm15", ("/dspy/_vendor/lm15/",)),
    ("dspy", ("/dspy/",)),
    (
        "aiohttp",
        ("/aiohttp/", "/yarl/", "/multidict/", "/frozenlist/", "/propcache/", "/aiosignal/", "/aiohappyeyeballs/"),
    ),
    ("json", ("/json/", "/orjson/")),
    ("asyncio", ("/asyncio/", "/selectors.py", "/concurrent/", "/threading.py", "/contextvars.py")),
    ("pydantic", ("/pydantic/", "/pydantic_core/")),
)
"""Groups of functions by the path of their file; the first match counts. C functions count for their callers."""


@contextlib.contextmanager
def sampled(interval: float = 0.001) -> Iterator[dict[str, Any]]:
    """Sample the block. The yielded dict is filled at its end: samples, and their shares by group and by function.

    Must be entered in the main thread; time of other threads counts for the main thread's frame at that moment.
    """
    groups: Counter[str] = Counter()
    functions: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        path = frame.f_code.co_filename
        group = group_of(path)
        groups[group] += 1
        functions[f"{group}: {'/'.join(path.rsplit('/', 2)[-2:])}: {frame.f_code.co_qualname}"] += 1

    profile: dict[str, Any] = {}
    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, interval, interval)
    try:
        yield profile
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        count = sum(groups.values()) or 1
        profile["samples"] = sum(groups.values())
        profile["groups"] = {name: number / count for name, number in groups.most_common()}
        profile["functions"] = {name: number / count for name, number in functions.most_common(25)}


def group_of(path: str) -> str:
    """The group of a file."""
    return next((name for name, parts in GROUPS if any(part in path for part in parts)), "the rest of Python")
