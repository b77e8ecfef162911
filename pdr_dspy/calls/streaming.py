"""The text of a call as it arrives, for `dspy.streamify` and its listeners.

A listener follows one field of one predictor, by the markers of DSPy's adapters. This library's reply format has none,
so they are inserted: the text before the first label is the solution, the text after a label is that field. A stream
shows the text as it is written; if a field is stated several times, the prediction decides which statement counts.

Only a call that is alone in its stage is streamed: a listener could not separate the chunks of concurrent drafts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dspy

from pdr_dspy.calls import dspy_bridge
from pdr_dspy.prompts.form import form_of
from pdr_dspy.prompts.roles import signature_of
from pdr_dspy.text.reasoning import solution_span


@asynccontextmanager
async def streamed(predictor: dspy.Predict, *, final: bool) -> AsyncIterator[None]:
    """Around the only call of a stage: stream its text to the listeners of its predictor. If `dspy.streamify` has no
    listeners, the call that writes the answer (`final`) is streamed."""
    stream, listeners = dspy.settings.send_stream, dspy.settings.stream_listeners
    heard = any(listener.predict is predictor for listener in listeners) if listeners else final
    if stream is None or not heard:
        yield
        return
    pieces = _Pieces(stream, predictor) if dspy.settings.adapter or not listeners else _Fields(stream, predictor)
    with dspy_bridge.heard(pieces):
        yield
        await pieces.close()


class _Pieces:
    """Passes a reply on unchanged, a few words at a time: a listener takes a reply in one chunk for a cached one and
    yields nothing of it."""

    def __init__(self, stream: Any, predictor: dspy.Predict) -> None:
        self.stream = stream
        self.predictor = predictor
        self.model = ""

    async def send(self, chunk: Any) -> None:
        """Take one of DSPy's chunks."""
        text = dspy_bridge.text_of(chunk)
        self.model = getattr(chunk, "model", None) or self.model
        if text:
            await self.text(text)
        else:
            await self.stream.send(chunk)

    async def text(self, text: str) -> None:
        """Take a part of a reply."""
        for piece in _PIECE.findall(text):
            await self.stream.send(dspy_bridge.chunk_of(piece, self.model, self.predictor))

    async def end(self) -> None:
        """The request has ended; another one may continue its turn."""

    async def close(self) -> None:
        """The turn has ended."""


_PIECE = re.compile(r"\s*(?:\S+\s*){1,4}|\s+")


class _Fields(_Pieces):
    """Marks the fields of a reply in this library's format with `dspy.ChatAdapter`'s markers, which listeners look
    for."""

    def __init__(self, stream: Any, predictor: dspy.Predict) -> None:
        super().__init__(stream, predictor)
        self.form = form_of(signature_of(predictor))
        self.names = tuple(self.form.labelled)
        self.longest = 48 + max(map(len, self.names), default=0)
        """Characters after which a line can no longer begin with a label."""
        self.held = ""
        """Text that may still become a thought or a label."""
        self.begun = False
        """Whether any thought has ended."""
        self.inside = False
        """Whether the beginning of the current line was already sent."""

    async def text(self, text: str) -> None:
        """Take a part of a reply."""
        self.held += text
        if not self.begun and not await self.begin(text):
            return
        lines = self.held.splitlines(keepends=True)
        self.held = ""
        for line in lines:
            whole = line.endswith("\n")
            label = None if self.inside or not self.names else self.form.label.match(line)
            if not whole and not self.inside and (label.end() == len(line) if label else len(line) < self.longest):
                self.held = line
                return
            if label:
                name = next(name for place, name in enumerate(self.names) if label.group(f"f{place}") is not None)
                await self.mark(name)
                line = line[label.end() :]
            await super().text(line)
            self.inside = not whole

    async def begin(self, new: str) -> bool:
        """Whether the solution has begun; leaves its text so far in `held`."""
        text = self.held.lstrip()
        if not text or (text.startswith("<") and ">" not in text and len(text) < 24):
            return False
        if ">" not in new and text.startswith("<"):  # no tag was closed since the last check
            return False
        span = solution_span(self.held)
        if span is None or span[0] == len(self.held):
            return False
        self.held = self.held[span[0] :].lstrip()
        await self.start()
        return True

    async def start(self) -> None:
        self.begun = True
        for name in self.form.free[:1]:
            await self.mark(name)

    async def mark(self, name: str) -> None:
        marker = f"[[ ## {name} ## ]]\n"
        await self.stream.send(dspy_bridge.chunk_of(marker, self.model, self.predictor))

    async def end(self) -> None:
        """The request has ended; an unfinished thought ends with it."""
        if not self.begun:
            unfinished = bool(self.held.strip()) and solution_span(self.held) is None
            if not unfinished:
                held, self.held = self.held, ""
                await self.start()
                await super().text(held)
            self.held = ""

    async def close(self) -> None:
        """The turn has ended."""
        held, self.held = self.held, ""
        if held and self.begun:
            label = self.form.label.match(held) if self.names and not self.inside else None
            if label is None:
                await super().text(held)
        if self.begun:
            await self.mark("completed")
