"""Responses as server-sent events, and work that is cancelled when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pdr_dspy.endpoint.answers import DONE, Writer
from pdr_dspy.endpoint.errors import ClientGone, Refused
from pdr_dspy.endpoint.journal import ActiveRequest, Journal
from pdr_dspy.endpoint.work import Answer

T = TypeVar("T")
News = AsyncGenerator[tuple[int, str | Answer], None]
"""Events of runs: the index of a choice with a progress text or with its answer. Closing it cancels them."""


class Stream(Response):
    """Server-sent events. Before the first of them, an error is an ordinary response with its status."""

    def __init__(self, journal: Journal, active: ActiveRequest, writer: Writer, news: News, keepalive: float) -> None:
        """`keepalive`: seconds of silence after which a comment is sent."""
        super().__init__(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        del self.headers["content-length"]
        self.journal, self.active, self.writer, self.news, self.keepalive = journal, active, writer, news, keepalive
        self.begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        active = self.active
        active.status = 200
        try:
            await while_there(receive, self._all(scope, receive, send))
        except (ClientGone, OSError):  # depends on the server
            self.journal.gone(active)
        finally:
            self.journal.done(active)

    async def _all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._pass_on(send)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            known = isinstance(error, Refused)
            response = self.journal.refused(self.active, error) if known else self.journal.fault(self.active, error)
            self.active.status = response.status_code
            if not self.begun:
                response.headers["x-request-id"] = self.active.id
                await response(scope, receive, send)
                return
            await _write(send, b"data: " + bytes(response.body) + b"\n\n" + DONE)
        if self.begun:
            await _write(send, b"", more=False)

    async def _pass_on(self, send: Send) -> None:
        answers: dict[int, Answer] = {}
        opened: set[int] = set()
        n = self.writer.request.n or 1
        kept = _kept_alive(self.news, self.keepalive)
        async with aclosing(kept) as events:
            async for index, news in events:
                if not self.begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    self.begun = True
                if news is None:
                    await _write(send, b": still at work\n\n")
                    continue
                if index not in opened:
                    opened.add(index)
                    await _write(send, self.writer.begun(index))
                if isinstance(news, Answer):
                    answers[index] = news
                    every = [answers[place] for place in range(n)] if len(answers) == n else None
                    await _write(send, self.writer.answered(index, news, every))
                elif chunk := self.writer.progress(index, news):
                    await _write(send, chunk)
        await _write(send, self.writer.ended([answers[place] for place in range(n)]))


async def _write(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _kept_alive(
    events: AsyncGenerator[tuple[int, T], None], seconds: float
) -> AsyncGenerator[tuple[int, T | None], None]:
    """The events, and (0, None) after each silence of this duration."""
    async with aclosing(events):
        coming: asyncio.Future[tuple[int, T]] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait([coming], timeout=seconds)
                if not done:
                    yield 0, None
                    continue
                ended, coming = coming, None
                try:
                    yield ended.result()
                except StopAsyncIteration:
                    return
        finally:
            if coming is not None:
                coming.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await coming


async def while_there(receive: Receive, work: Any) -> None:
    """Do some work while the client is connected. Raises ClientGone, after the work is cancelled, if it disconnects."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGone
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    tasks[0].result()
