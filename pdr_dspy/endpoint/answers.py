"""Completions and chunks in the format of OpenAI's API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import dspy
import orjson

from pdr_dspy.endpoint.messages import answer_of
from pdr_dspy.endpoint.requests import ChatRequest
from pdr_dspy.endpoint.work import Answer, Cost


class Writer:
    """Writes the answers to one chat request."""

    def __init__(self, request: ChatRequest, task: type[dspy.Signature], version: str, left_out: Sequence[str]) -> None:
        self.request = request
        self.task = task
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.fingerprint = f"pdr-{version[:12]}" if version else None
        self.left_out = list(left_out)
        field = "reasoning" if request.pdr is None else request.pdr.reasoning
        self.reasoning = None if field == "none" else field
        """The field for progress messages."""
        self.usage_apart = request.stream_options is not None and request.stream_options.include_usage

    def content(self, answer: Answer) -> str:
        """The text of an answer; empty if there is none."""
        if not answer.readable:
            return ""
        as_json = self.request.response_format is not None and self.request.response_format.type == "json_object"
        text = answer_of(self.task, answer.outputs, as_json=as_json)
        stops = [self.request.stop] if isinstance(self.request.stop, str) else self.request.stop or []
        ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def completion(self, answers: Sequence[Answer], reasoning: Sequence[str]) -> dict[str, Any]:
        """The complete response to a request without streaming."""
        choices = []
        for index, (answer, progress) in enumerate(zip(answers, reasoning, strict=True)):
            message: dict[str, Any] = {"role": "assistant", "content": self.content(answer), "refusal": None}
            if self.reasoning is not None:
                message[self.reasoning] = progress
            choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish})
        return {**self._head("chat.completion"), "choices": choices, **self._costs(answers)}

    def progress(self, index: int, text: str) -> bytes:
        """A chunk with progress; empty if progress was not requested."""
        return b"" if self.reasoning is None else self._chunk(index, {self.reasoning: text})

    def begun(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def answered(self, index: int, answer: Answer, every: Sequence[Answer] | None) -> bytes:
        """The chunks with the answer and the end of a choice. `every` has all answers if this is the last of them: the
        last chunk then carries their usage, unless the client requested that in a chunk without choices."""
        text = self.content(answer)
        written = self._chunk(index, {"content": text}) if text else b""
        if every is None or self.usage_apart:
            return written + self._chunk(index, {}, finish=answer.finish)
        return written + self._chunk(index, {}, finish=answer.finish, more=self._costs(every))

    def ended(self, answers: Sequence[Answer]) -> bytes:
        """The end of a stream."""
        if not self.usage_apart:
            return DONE
        return event({**self._head("chat.completion.chunk"), "choices": [], **self._costs(answers)}) + DONE

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.usage_apart else {}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **usage, **(more or {})})

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.request.model}
        return head | {"system_fingerprint": self.fingerprint}

    def _costs(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"usage": usage_of(answers), "pdr": facts_of(answers, self.left_out)}


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """The usage of all choices together."""
    return sum((answer.cost for answer in answers), Cost(0, 0, 0)).usage


def facts_of(answers: Sequence[Answer], left_out: Sequence[str]) -> dict[str, Any]:
    """The `pdr` object; for several choices their sums, the longest path, and each choice in `choices`."""
    each = [answer.facts for answer in answers]
    facts = dict(each[0])
    if len(each) > 1:
        for name in ("B_total", "calls", "failed_calls", "cancelled_calls"):
            facts[name] = sum(one[name] for one in each)
        for name in ("B_seq", "rounds", "seconds"):
            facts[name] = max(one[name] for one in each)
        facts["exact"] = all(one["exact"] for one in each)
        stops = list(dict.fromkeys(one["stop"] for one in each))
        facts["stop"] = stops[0] if len(stops) == 1 else "mixed"
        facts["choices"] = each
    return facts | ({"left_out": list(left_out)} if left_out else {})


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"
