"""Endpoints beside the completions, such as those of vLLM's pooling models: /classify, /pooling, /score, /rerank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dspy import lm15

from pdr_dspy.serving.client.engine import AsyncOpenAIEngine
from pdr_dspy.serving.client.failures import Foreign


async def post(engine: AsyncOpenAIEngine, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """POST `body` and the model's name; the object that is answered, and the tries that it took.

    Raises lm15 errors only.
    """
    if engine.model == "auto":
        await engine.resolve()
    await engine.identify()
    data, tally = await engine.exchange(path, {"model": engine.model, **body}, read_object)
    return data, {"tries": tally.tries, "unsettled": tally.unsettled}


def read_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a response body; NaN and Infinity, which Python's own servers write, are read.

    Raises lm15.TransportError for one that was cut off, Foreign (final) for anything else that is no object.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if raw.lstrip()[:1] in (b"{", b""):
            raise lm15.TransportError(f"{where} ended its answer early, after {len(raw)} bytes") from error
        raise Foreign(f"{where} answered what is no JSON") from error
    if not isinstance(data, dict):
        raise Foreign(f"{where} answered JSON that is no object")
    return data
