"""What the standard library lacks: one event loop for synchronous callers, files that are written whole, parts that are
found by name, PostgreSQL connections, and processes that share a listening socket. Nothing in here knows of models
or programs.
"""

from __future__ import annotations

from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.runtime.event_loop import run
from pdr_dspy.runtime.registry import Registry, origin_of
from pdr_dspy.runtime.stored import store_errors, store_whole

__all__ = [
    "Registry",
    "origin_of",
    "run",
    "store_errors",
    "store_whole",
    "write_whole",
]
