"""The heap of a command that makes many calls."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FROZEN_AT_START = 1000
"""More than Python itself has frozen at its start: 3.12 some 400 objects, other versions none."""


@contextmanager
def settled_heap() -> Iterator[None]:
    """Inside, garbage collections leave out what exists at the start: the modules' 100,000 objects live as long as the
    process, and walking them again and again was a third of the CPU of a call. A process that has frozen its heap
    itself keeps it as it is: there is no way to thaw only what was frozen here."""
    if gc.get_freeze_count() > FROZEN_AT_START:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
