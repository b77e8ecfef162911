"""Infrastructure: one event loop for synchronous callers, atomic file writes, locks, registries of parts by name,
processes that share a listening socket, and PostgreSQL connections. Nothing here depends on models or programs.
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
