"""Endpoints other than completions, such as those of vLLM's pooling models: /classify, /pooling, /score, /rerank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dspy import lm15

from pdr_dspy.serving.client.engine import AsyncOpenAIEngine
from pdr_dspy.serving.client.failures import Foreign


async def post(engine: AsyncOpenAIEngine, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """POST `body` with the model's name; return the reply's JSON object and its tries.

    Raises lm15 errors only.
    """
    served = engine.served
    if served.model == "auto":
        await served.resolve()
    await served.identify()
    data, tally = await engine.transport.exchange(path, {"model": served.model, **body}, read_object)
    return data, {"tries": tally.tries, "unsettled": tally.unsettled}


def read_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a response body; NaN and Infinity, which Python servers write, are accepted.

    Raises lm15.TransportError for a truncated body, Foreign (final) for anything else that is not an object.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if raw.lstrip()[:1] in (b"{", b""):
            raise lm15.TransportError(f"{where} ended its reply early, after {len(raw)} bytes") from error
        raise Foreign(f"{where} sent a reply that is not JSON") from error
    if not isinstance(data, dict):
        raise Foreign(f"{where} sent JSON that is not an object")
    return data
