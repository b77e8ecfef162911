"""One request through DSPy, or past its call machinery where that would add nothing but time.

An LM with a method `send_directly(request)` (an endpoint's) is called without DSPy's call machinery, which costs 0.4 ms
and two thread switches a call. History and usage tracking are still DSPy's; callbacks, streaming, DSPy's cache and its
retries use DSPy's full call path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import dspy
from dspy.clients.call_result import CallResult
from dspy.clients.errors import error_boundary
from dspy.clients.execution import PreparedCall, finalize
from dspy.lm15 import Request, Response

from pdr_dspy.calls.deployment import address, seal
from pdr_dspy.calls.dspy_bridge.lms import REPLACED, deployment
from pdr_dspy.calls.dspy_bridge.own_forward import acall_forward, call_forward, own_way
from pdr_dspy.calls.dspy_bridge.reuse import sending
from pdr_dspy.calls.dspy_bridge.streams import LISTENER, can_stream
from pdr_dspy.calls.dspy_bridge.tries import Tries


class Sent(NamedTuple):
    """The reply of a model."""

    response: Response
    reused: bool
    """Whether the reply came from DSPy's cache and nothing was sent."""


async def send(lm: dspy.LM, request: Request) -> Sent:
    """Send one request. Raises `dspy.LMError` and its subclasses.

    Its text is streamed (`dspy.streamify`) only inside `heard`; DSPy by itself would stream every call.
    """
    if _direct(lm):
        try:
            response: Response = await lm.send_directly(request)  # type: ignore[attr-defined]
        except Exception:
            with error_boundary(lm.model, unexpected=True):
                raise
        _record(lm, request, response, _extra(lm))
        return Sent(response, False)
    listener = LISTENER.get()
    with sending(lm) as sent:
        if dspy.settings.send_stream is None:
            response = await call(lm, request)
        elif listener is not None and can_stream(lm):
            with dspy.context(send_stream=listener, caller_predict=listener.predictor):
                response = await call(lm, request)
        else:
            with dspy.context(send_stream=None):
                response = await call(lm, request)
            if listener is not None and not sent.reused:
                await listener.text("".join(part.text for part in response.message.parts if part.type == "text"))
        if listener is not None:
            await listener.end()
    return Sent(response, sent.reused)


async def post(lm: dspy.BaseLM, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Tries]:
    """POST to an endpoint of a server other than completions, such as /classify; return the JSON object of its reply.

    Requires an LM with a method `post(path, body)`, such as one made by `serving.connect`. Raises `dspy.LMError` and
    its subclasses.
    """
    with error_boundary(lm.model, unexpected=True):
        data, notes = await lm.post(path, body)  # type: ignore[attr-defined]
    return data, Tries(int(notes["tries"]), int(notes["unsettled"]))


async def call(lm: dspy.BaseLM, request: Request) -> Response:
    """One awaited call through DSPy. An LM with its own `forward` is called through it."""
    how = own_way(lm)
    if how == "sync":
        return await asyncio.to_thread(call_forward, lm, request)
    if how == "async":
        return await acall_forward(lm, request)
    return await lm.acall(request, **_extra(lm))  # type: ignore[return-value]


def call_sync(lm: dspy.BaseLM, request: Request) -> Response:
    """`call`, for code without an event loop."""
    if own_way(lm) == "sync":
        return call_forward(lm, request)
    return lm(request, **_extra(lm))  # type: ignore[return-value]


def _extra(lm: dspy.BaseLM) -> dict[str, Any]:
    """Distinguishes equal requests in DSPy's cache: the LM's own `rollout_id`, and a digest of the deployment.

    That cache ignores addresses, keys and headers: without the digest a reply of one server would be taken for
    another's.
    """
    own = lm.kwargs.get("rollout_id")
    where = deployment(lm) if lm.cache else None
    if where is not None and (where.address or where.selectors):
        place = address(where.address)
        return {"rollout_id": f"{'' if own is None else own}@{place}#{seal(place, where.selectors)}"}
    return {} if own is None else {"rollout_id": own}


def _direct(lm: dspy.LM) -> bool:
    """Whether `_record` does everything that DSPy would do for this call."""
    return (
        hasattr(lm, "send_directly")
        and not lm.cache
        and not lm.num_retries
        and not lm.callbacks
        and not dspy.settings.callbacks
        and dspy.settings.send_stream is None
        and type(lm).acall is dspy.BaseLM.acall
        and type(lm).aforward is dspy.LM.aforward
        and REPLACED.isdisjoint(vars(lm))
    )


def _record(lm: dspy.LM, request: Request, response: Response, extra: dict[str, Any]) -> None:
    """Add a call to DSPy's history and usage tracker, as DSPy does."""
    if dspy.settings.disable_history and not dspy.settings.usage_tracker:
        return
    result = CallResult.native(response, model_type=lm.model_type, logprobs=request.config.logprobs is not None)
    result.cost_details = {"kind": "unknown", "reason": "custom engine has no pricing provider"}
    finalize(lm, PreparedCall(None, None, extra, {"model": lm.model}, request, False, 1, True), result)
