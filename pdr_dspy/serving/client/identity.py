"""Which model an endpoint serves, made of which weights, what it can do, and whether it still is the same model."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from dspy import lm15

from pdr_dspy.calls import Capabilities
from pdr_dspy.serving.client.connections import Connections
from pdr_dspy.serving.client.discovery import describe
from pdr_dspy.serving.client.encode import formats_of
from pdr_dspy.serving.client.failures import AGAIN, Exchanged, Unreachable, judge
from pdr_dspy.serving.client.models import Server, differ, in_common
from pdr_dspy.serving.client.reported import OWN_NAMES, Reported
from pdr_dspy.serving.settings import EndpointSettings

FRESH = 5.0
"""Seconds of silence after which the server's identity is queried again, before the next stage of calls: longer than an
idle connection is kept, shorter than any restart with other weights. Of a shorter one a lost connection tells; vLLM's
`created` is the time of the query, and its responses name neither weights nor process."""
_GIVEN_UP = 2.0
"""Seconds for which a failed query of the server is not repeated by callers that can do without it."""
logger = logging.getLogger("pdr_dspy")


class Served:
    """The model that an endpoint serves, as far as its replicas have told. Safe to use from several event loops."""

    def __init__(self, settings: EndpointSettings, connections: Connections) -> None:
        self.model = settings.model
        """The model's name in requests; "auto" until the server has reported it."""
        self.identity: str | None = settings.identity
        """The identity of the model; None until the server has given it."""
        self.server: Server | None = None
        """The properties that all replicas reached so far have in common."""
        self.siblings = settings.siblings
        """Whether one request may ask for several completions; None while nobody has said."""
        self.doubted = False
        """Whether a connection has failed since the last query of the identity: another server may answer now."""
        self.refused_formats: set[str] = set()
        """Kinds and keys of the output formats that the server has refused."""
        self._settings = settings
        self._connections = connections
        self._unheard: lm15.LM15Error | None = None
        """The error of the last failed query."""
        self._silent = False
        """Whether the server answers but does not describe itself."""
        self._descriptions: dict[str, Server] = {}
        """The description that each replica gave."""
        self._failed = -math.inf
        """Time of the last failed query, by the monotonic clock."""
        self._heard = 0.0
        """Time of the server's last answer, by the monotonic clock."""
        self._reported = Reported()
        self._replaced = ""
        """The evidence that another server answers now; empty if there is none."""
        self._unknown = uuid4().hex
        """Replaces an unknown identity, so that no store has completions under it."""
        self._capabilities: tuple[tuple[Any, ...], Capabilities] | None = None
        """The latest record, and the state that it was made of."""
        self._logged_names = False

    @property
    def api_bases(self) -> tuple[str, ...]:
        """The API bases of all replicas."""
        return self._settings.api_base

    @property
    def where(self) -> str:
        """The endpoint's addresses, for messages."""
        return ", ".join(self._settings.api_base)

    @property
    def kind(self) -> str:
        """The kind of server, as far as it is known."""
        return "other" if self.server is None else self.server.kind

    # ---- what the replicas say of themselves

    async def identify(self, *, surely: bool = False) -> str | None:
        """Query which model the server serves and from which weights; return the identity, None while it does not
        answer. With `surely`, query even after a recent failure.

        The result is kept. After a failed connection or a long silence it is queried again, and Exchanged is raised if
        it has changed, so that replies of another model do not count as those of the first.
        """
        if self._settings.identity is not None:
            return self.identity
        if self._replaced:
            raise Exchanged(self._replaced)
        if self._settled:
            return self.identity
        async with (await self._connections.here()).probing:
            if self._settled:
                return self.identity  # settled by the previous holder of the lock
            if self._may_say(surely=surely):
                self._settle(_described(await self._survey()))
            if self._silent:
                self.doubted, self._heard = False, time.monotonic()
                if self.identity is None and self.model != "auto":
                    self.identity = self._settings.named(self.model)
        return self.identity

    @property
    def _settled(self) -> bool:
        """Whether the identity is known, and nothing suggests that it has changed."""
        quiet = self._heard and time.monotonic() - self._heard > FRESH
        return self.identity is not None and not (self.doubted or quiet)

    async def ascertain(self, api_base: str) -> None:
        """Settle a doubt before a reply of the replica at `api_base` is used.

        Raises Exchanged if another model answers, and the error of the query if there is no telling.
        """
        await self.identify(surely=True)
        if self.doubted and self._settings.identity is None:
            raise self._unheard or Unreachable(f"no server answers at {api_base}")

    async def survey(self) -> dict[str, Server | Exception]:
        """Query every replica's description; the error in place of one that gives none."""
        async with (await self._connections.here()).probing:
            return await self._survey()

    async def take(self, servers: Mapping[str, Server]) -> None:
        """Accept the replicas as they are now. Raises Exchanged if they differ from each other."""
        async with (await self._connections.here()).probing:
            self._descriptions, self._replaced = {}, ""
            self._reported.forget()
            if self._settings.identity is None:
                self.identity = None
            self.model = self._settings.model
            self._settle(servers)

    async def probe(self) -> Server | None:
        """Return the server's description of itself, queried once; None if it gives none. Never raises.

        With several replicas, the description combines those that answer.
        """
        if self.server is None and self._may_say():
            async with (await self._connections.here()).probing:
                if self.server is None and self._may_say():
                    servers = _described(await self._survey())
                    if servers:
                        self._remember(list(servers.values()))
        return self.server

    async def resolve(self) -> None:
        """Replace the model name "auto" by the only served model; raises lm15.UnsupportedModelError if there is not
        one."""
        await self.identify(surely=True)
        if self.model != "auto":
            return
        server = await self.probe()
        if server is None and self._unheard is not None:
            raise self._unheard  # unreachable, or the key is refused; may be retried
        if server is None or server.only is None:
            served = ", ".join(server.models) if server else "no readable list of models"
            raise lm15.UnsupportedModelError(f'model="auto" needs exactly one served model; {self.where} has {served}')
        self.model = server.only

    def _may_say(self, *, surely: bool = False) -> bool:
        """Whether a query of the server may succeed."""
        if self._silent and self.model != "auto":
            return False
        return surely or time.monotonic() - self._failed > _GIVEN_UP

    async def _survey(self) -> dict[str, Server | Exception]:
        """Query every replica, under the lock of `probing`."""
        replies = await asyncio.gather(*map(self._describe, self.api_bases), return_exceptions=True)
        for each in replies:
            if not isinstance(each, (Server, lm15.LM15Error, ValueError)):
                raise each
        self._unheard = next((each for each in replies if isinstance(each, lm15.LM15Error)), None)
        later = any(isinstance(each, lm15.LM15Error) and judge(each) in AGAIN for each in replies)
        nobody = not any(isinstance(each, Server) for each in replies)
        self._silent = nobody and not later  # it answers, but does not describe itself
        if nobody:
            self._failed = time.monotonic()
        if self._silent and self.siblings is None:
            self.siblings = False
        return dict(zip(self.api_bases, replies, strict=True))  # type: ignore[arg-type]

    async def _describe(self, api_base: str) -> Server:
        return await describe(
            api_base,
            self._connections.get_json,
            model=self.model,
            adapter=self._settings.adapter,
            seconds=self._settings.timeout,
        )

    def _settle(self, servers: Mapping[str, Server]) -> None:
        """Derive the identity from the replicas' descriptions. Raises Exchanged if it has changed, or if the replicas
        differ."""
        if not servers:
            return
        settings, found = self._settings, list(servers.values())
        server = in_common(found)
        model = (server.only or "auto") if self.model == "auto" else self.model
        for base, now in servers.items():
            before = self._descriptions.get(base)
            if before is not None and before.exchanged(now, now.row(model, settings.adapter)):
                raise Exchanged(
                    f"{base} serves another model than before: it was {before.shown(model)} and is now "
                    f"{now.shown(model)}. Replies of both models would be mixed; "
                    "`await lm.check()` accepts the new one"
                )
        replies = {**self._descriptions, **servers}
        different = None if settings.identity is not None else differ(list(replies.values()), model)
        if different is not None:
            raise Exchanged(
                f"the replicas {self.where} serve {model!r} from different weights ({different[0]}; {different[1]}): "
                "give each its own `connect`, or declare them equal with `identity=`"
            )
        self._descriptions = replies
        self.model = model
        if self.identity is None and model != "auto":
            mixed = len({each.kind for each in replies.values()}) > 1
            made_of, weights = ("", None) if mixed else server.made_of_with(model, settings.adapter)
            self.identity = settings.named(model, made_of, weights)
        self.doubted, self._heard = False, time.monotonic()
        self._remember(found)

    def _remember(self, servers: Sequence[Server]) -> None:
        """Keep the properties that the replicas have in common."""
        self.server = in_common(servers)
        if self.siblings is None:
            self.siblings = self.server.kind in ("llama.cpp", "vllm")

    # ---- what their replies tell

    def heard(self) -> None:
        """Take note that a replica has answered just now."""
        self._heard = time.monotonic()

    def lost(self) -> None:
        """Take note that a connection has failed: another server may answer from now on."""
        self.doubted = self.doubted or self.identity is not None

    def ignores_n(self) -> None:
        """Take note that the server returns one choice, however many are asked for."""
        self.siblings = False

    async def answered(self, api_base: str, data: Mapping[str, Any]) -> None:
        """Look at the names under which a replica answered. Raises Exchanged where they show that it was exchanged."""
        if self._settings.identity is not None:
            return  # whoever answers is one, as the user says
        asked = self.model
        news = self._reported.news(api_base, asked, data)
        if news is None:
            return
        if news.field == "model" or self.kind in OWN_NAMES:  # hosted services change their fingerprint at any time
            self.doubted = True
            await self.ascertain(api_base)
        if news.field == "model":
            became = f"{api_base} answers requests for {asked!r} as {news.now!r} now, and answered as {news.before!r}"
            if self.kind in OWN_NAMES:
                self._replaced = (
                    f"{became} before: another model took its place, and its replies would be mixed with those of the "
                    "model before; `await lm.check()` takes it as it is now, and `identity=` says that both are one"
                )
                raise Exchanged(self._replaced)
            if not self._logged_names:
                self._logged_names = True
                logger.warning(
                    "%s before. If another model took its place, its replies are mixed with those of the model before; "
                    "where a router or a proxy names its deployments in turn, say with `identity=` that they are one",
                    became,
                )
        self._reported.accept(api_base, asked, data)

    # ---- what the model can do

    async def capabilities(self) -> Capabilities:
        """The endpoint's capabilities. Raises Exchanged as `identify` does."""
        settings = self._settings
        identity = await self.identify()
        server = self.server or await self.probe()
        state = (identity, self.model, server, self.siblings)
        kept = self._capabilities
        if kept is not None and kept[0] == state:
            return kept[1]
        kind = self.kind
        context = settings.context_length
        if context is None and server is not None:
            context = server.context.get(server.model(self.model))
        found = Capabilities(
            identity=f"endpoint/{identity or f'{settings.named(self.model)}?{self._unknown}'}",
            known=identity is not None,
            context_length=context,
            thinking_budget=settings.thinking_budget or ("continue" if kind in ("vllm", "llama.cpp") else "cap"),
            siblings=bool(self.siblings),
            prompt_once=bool(self.siblings) and kind != "vllm",
            counts_tokens=kind != "other" or settings.tokenizer is not None,
            output_formats=formats_of(kind, constrained=settings.constrained),
        )
        self._capabilities = (state, found)
        return found


def _described(replies: Mapping[str, Server | Exception]) -> dict[str, Server]:
    return {base: each for base, each in replies.items() if isinstance(each, Server)}
