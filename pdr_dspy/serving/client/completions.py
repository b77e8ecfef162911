"""Completions: a single one is one request; siblings, which differ only in their seeds, are one request for n.

A request for n that fails for its n falls back on single requests, and no completion that had arrived is made twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspy import lm15

from pdr_dspy.serving.client.balancer import Replica
from pdr_dspy.serving.client.batching import Gatherer
from pdr_dspy.serving.client.decode import by_place, failure_of, finished_choices, read_choice, split_usage
from pdr_dspy.serving.client.encode import Wire
from pdr_dspy.serving.client.failures import AGAIN, Outcome, judge
from pdr_dspy.serving.client.identity import Served
from pdr_dspy.serving.client.retries import Tally
from pdr_dspy.serving.client.transport import Transport

_N_REFUSED = re.compile(
    r"\bn(?:_cmpl)?\b.{0,60}(?:must|only|support|greedy|greater|temperature|at most|slots)|best_of|one completion", re.I
)
_IDS = frozenset({"token_ids", "prompt_token_ids"})
logger = logging.getLogger("pdr_dspy")


class Completions:
    """Makes the completions of one endpoint. Safe to use from several event loops."""

    def __init__(self, transport: Transport, served: Served, max_siblings: int | None) -> None:
        """
        Args:
            transport: sends the requests.
            served: what the endpoint serves: whether siblings share a request, and how this is asked for.
            max_siblings: maximum of completions in one request; None for no bound.
        """
        self._transport = transport
        self._served = served
        self._gatherer = Gatherer(self._gathered, max_siblings)
        self._logged_equal = False

    def complete(self, wire: Wire) -> Awaitable[lm15.Response]:
        """The response to a request, by itself or with its siblings; raises lm15 errors."""
        if wire.group is not None and wire.size > 1 and self._served.siblings:
            return self._gatherer.submit(wire)
        return self._alone(wire)

    async def _gathered(self, wires: list[Wire]) -> list[lm15.Response | lm15.LM15Error]:
        """Send one HTTP request for wires of consecutive seeds and return a response or an error for each.

        A request for n that is refused for its n, or that times out, is repeated as n requests, each with its own
        timeout: a hanging draft costs only itself.
        """
        if len(wires) == 1:
            return [await self._alone(wires[0])]
        if wires[0].greedy:  # vLLM refuses n > 1 at temperature 0; all would be equal
            response = await self._alone(wires[0])
            self._log_equal(len(wires))
            return [response, *(_again(response, wires[0].seed) for _ in wires[1:])]
        try:
            return await self._together(wires)
        except lm15.LM15Error as error:
            refused = isinstance(error, lm15.InvalidRequestError) and _N_REFUSED.search(str(error))
            if not refused and judge(error) is not Outcome.LATE:
                raise
            done = _finished(error, wires, self._prompt_each)
            return await self._one_by_one(wires, done, error)

    async def _alone(
        self, wire: Wire, before: Tally | None = None, elsewhere_than: Collection[Replica] = ()
    ) -> lm15.Response:
        """One completion; its notes include the tries `before` it."""
        data, tally = await self._transport.chat_completion(
            wire, wire.body, before=before, elsewhere_than=elsewhere_than
        )
        return read_choice(data, data["choices"][0], data.get("usage"), _notes(tally), cap=wire.cap)

    async def _together(self, wires: list[Wire]) -> list[lm15.Response | lm15.LM15Error]:
        """Send one request for all wires."""
        server = await self._served.probe()
        kind = server.kind if server else "other"
        body = {**wires[0].body, "n": len(wires)}
        if kind == "llama.cpp":
            # Its usage for n > 1 counts one choice only; in a stream, each choice has its own.
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        elif kind == "vllm":
            # Its usage has the sum of all outputs, separable by the token ids, and the prompt once; its own counters
            # have the prompt for each choice, as for n single requests.
            body["return_token_ids"] = True
        data, tally = await self._transport.chat_completion(wires[0], body, again=AGAIN - {Outcome.LATE})
        where = self._served.where
        placed = [
            None if choice is None or failure_of(choice, where) else choice
            for choice in by_place(data["choices"], len(wires))
        ]
        if len(data["choices"]) == 1:
            self._served.ignores_n()
        return await self._one_by_one(wires, _responses(data, placed, wires, tally, self._prompt_each), None)

    @property
    def _prompt_each(self) -> bool:
        """Whether the server counts the prompt for each choice of a request for n."""
        return self._served.kind == "vllm"

    async def _one_by_one(
        self, wires: list[Wire], done: list[lm15.Response | None], error: lm15.LM15Error | None
    ) -> list[lm15.Response | lm15.LM15Error]:
        """Send single requests for the choices missing after a request for all, which failed with `error` if given."""
        before: Tally | None = getattr(error, "tally", None)
        failed: Collection[Replica] = getattr(error, "failed", ())
        missing = [place for place, response in enumerate(done) if response is None]
        if not missing:
            return [response for response in done if response is not None]
        found = await asyncio.gather(
            *(self._alone(wires[place], before, failed) for place in missing), return_exceptions=True
        )
        results: list[Any] = list(done)
        for place, one in zip(missing, found, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, lm15.LM15Error):
                raise one
            results[place] = one
        return results

    def _log_equal(self, count: int) -> None:
        """Log once that completions at temperature 0 are equal."""
        if not self._logged_equal:
            self._logged_equal = True
            logger.warning(
                "temperature 0: the %d drafts of a prompt are equal, so one request is sent for all of them",
                count,
            )


def _responses(
    data: Mapping[str, Any],
    placed: Sequence[dict[str, Any] | None],
    wires: Sequence[Wire],
    tally: Tally,
    prompt_each: bool,
) -> list[lm15.Response | None]:
    """The responses of a request for n, for the choices that are present."""
    choices = [choice for choice in placed if choice is not None]
    if not choices:
        return [None for _ in placed]
    shares = iter(split_usage(data, choices, prompt_each=prompt_each))
    if "return_token_ids" not in wires[0].body:  # requested for this purpose only, and long
        data = {name: value for name, value in data.items() if name not in _IDS}
        placed = [choice and {name: choice[name] for name in choice if name not in _IDS} for choice in placed]
    notes = _notes(tally)
    return [
        None if choice is None else read_choice(data, choice, next(shares), notes, cap=wires[0].cap)
        for choice in placed
    ]


def _finished(error: lm15.LM15Error, wires: Sequence[Wire], prompt_each: bool) -> list[lm15.Response | None]:
    """The responses of the choices that had ended when a stream broke off."""
    choices = finished_choices(getattr(error, "came", b""), "")
    placed = [choices.get(place) for place in range(len(wires))]
    return _responses({}, placed, wires, getattr(error, "tally", Tally(1)), prompt_each)


def _again(response: lm15.Response, seed: int | None) -> lm15.Response:
    """A sibling's response for an equal request: the same completion at no further cost."""
    usage = lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)
    return replace(response, usage=usage, provider_data={**(response.provider_data or {}), "pdr": {"shared": seed}})


def _notes(tally: Tally) -> dict[str, int] | None:
    return {"tries": tally.tries, "unsettled": tally.unsettled} if tally.tries > 1 else None
