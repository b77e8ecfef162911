"""What the standard library lacks: one event loop for synchronous callers, files that are written whole, and
PostgreSQL connections. Nothing in here knows of models or programs.
"""

from __future__ import annotations

from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.runtime.event_loop import run

__all__ = [
    "run",
    "write_whole",
]
