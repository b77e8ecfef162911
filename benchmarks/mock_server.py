"""A lightweight OpenAI-compatible mock server: `python -m benchmarks.mock_server [--latency 0.5] ...`.

It prints its port and serves on the loopback address until it is stopped. Each answer comes after a latency that is
fixed or log-normal, drawn from the prompt, its seed and the number of earlier requests with both; faults are drawn
likewise, at given rates. GET /counters returns the received, served, lost and abandoned requests, GET /calls each
completion request; POST /reset clears both, and changes the settings in its JSON body. `serve()` runs it as a process.

Replies depend only on prompt and seed, end in the form that the prompt requires, and three in four answer 42. A token
is four characters. HTTP is parsed by hand, since on two cores a web framework would slow down every client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import math
import re
import resource
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import orjson

BLOCK = 64
"""Characters of a prefix block; vLLM's default block is 16 tokens."""
CASE = "[case "
"""The calls of a question that contains `[case 17]` are listed under 17."""
FAULTS = ("500", "429", "drop", "lost", "cut", "hang", "truncate")
"""Two immediate statuses; the connection closed at once, when the answer is due, or in the middle of the answer; no
answer at all; an answer cut at half its length, with finish_reason "length"."""
_TEXT = "Six times seven is forty-two, and a second look says so too.\n" * 4096
_FIELDS = re.compile(r"\[\[ ## (\w+) ## \]\]")
_FORM = re.compile(r"^([^\n:<]{1,60}): <[^\n]*>$", re.MULTILINE)
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 429: "Too Many Requests"}
_NORMAL = NormalDist()
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    """The server's behaviour."""

    latency: float = 0.5
    """Median seconds from a request to its answer."""
    sigma: float = 0.0
    """Standard deviation of the latency's logarithm; 0 for a constant latency."""
    seed: int = 0
    usage: bool = True
    """Whether answers report their tokens."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Fraction of requests with each kind of `FAULTS`."""
    retry_after: float = 1.0
    """Retry-After of a 429, in seconds."""
    reply_tokens: int = 60
    """Mean length of a reply in tokens; lengths vary from two thirds to four thirds of it."""
    context: int = 32768
    """Tokens of prompt and reply together; more is refused as vLLM refuses it."""
    model: str = "mock"

    def __post_init__(self) -> None:
        unknown = set(self.faults) - set(FAULTS)
        if unknown or not 0 <= sum(self.faults.values()) <= 1:
            raise ValueError(f"`faults={dict(self.faults)}` must be shares of {', '.join(FAULTS)}, at most 1 in all")


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--latency", type=float, default=0.5, help="median seconds")
    parser.add_argument("--sigma", type=float, default=0.0, help="standard deviation of the latency's logarithm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-usage", dest="usage", action="store_false", help="report no tokens")
    parser.add_argument("--faults", default="{}", help='JSON, such as \'{"500": 0.05, "hang": 0.01}\'')
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds")
    parser.add_argument("--reply-tokens", type=int, default=60, help="mean length")
    parser.add_argument("--context", type=int, default=32768, help="tokens")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input closes")
    options = vars(parser.parse_args())
    port, with_parent = options.pop("port"), options.pop("with_parent")
    settings = Settings(**{**options, "faults": json.loads(options["faults"])})
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, port, with_parent))


class Handle:
    """A running server: its address and its counters."""

    def __init__(self, port: int, process: subprocess.Popen[str] | None = None) -> None:
        self.port = port
        self.process = process
        self.api_base = f"http://127.0.0.1:{port}/v1"

    def kill(self) -> None:
        """End the process with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def counters(self) -> dict[str, Any]:
        """The counters since the last reset; see `Counters` and `State.counted`."""
        return self._ask("/counters")

    def calls(self) -> list[dict[str, Any]]:
        """One row for each completion request that ended: its case (None without one), what it met, when it came and
        ended (seconds of the monotonic clock), its latency, prompt and completion tokens, choices."""
        return self._ask("/calls")

    def reset(self, **settings: Any) -> None:
        """Reset the counters and prefixes, and change `settings`, fields of `Settings`."""
        self._ask("/reset", json.dumps(settings).encode())

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serve(port: int = 0, **settings: Any) -> Iterator[Handle]:
    """Run a server in a separate process, stopped at the end; `settings` are fields of `Settings`."""
    command = [sys.executable, "-m", "benchmarks.mock_server", "--with-parent", "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("benchmarks.mock_server did not start; run it by hand to see why")
            handle = Handle(int(line), process)
            handle.reset(**settings)
            yield handle
        finally:
            process.stdin.close()
            process.terminate()


@dataclass
class Counters:
    """Counters since the last reset."""

    requests: int = 0
    """Completion requests received."""
    served: int = 0
    """Completion requests answered with status 200 in full, truncated replies included."""
    completions: int = 0
    """Choices in them."""
    prompt_tokens: int = 0
    """Prompt tokens of served requests, once for each choice, as in vLLM's counters."""
    completion_tokens: int = 0
    lost_completion_tokens: int = 0
    """Tokens of answers that were ready or being sent when the connection was lost."""
    aborts: int = 0
    """Completion requests whose client left before the answer."""
    refused: int = 0
    """Completion requests answered with 400."""
    peak: int = 0
    """Most completion requests in flight at once."""
    peak_completions: int = 0
    """Most choices in flight at once."""
    connections: int = 0
    """Connections that carried at least one completion request."""
    tokenized: int = 0
    """Requests to /tokenize."""
    others: int = 0
    """Requests to anything else under /v1."""
    blocks: int = 0
    """Full blocks of all prompts, once for each requested choice."""
    block_hits: int = 0
    """Blocks that an earlier prompt had after the same prefix."""


@dataclass(slots=True)
class Prompt:
    """The constant facts of a prompt."""

    tokens: int
    blocks: int
    digest: bytes
    case: int | None
    tail: str
    """The end of each reply, with `{}` for the answer."""
    head: str


class State:
    """The server's memory, shared by its connections."""

    def __init__(self, settings: Settings) -> None:
        self.in_flight = self.choices_in_flight = self.open = 0
        self.generation = 0
        self.begin(settings)

    def begin(self, settings: Settings) -> None:
        """Reset everything but the requests in progress."""
        self.settings = settings
        self.generation += 1
        self.counters = Counters()
        self.faults: Counter[str] = Counter()
        self.calls: list[tuple[Any, ...]] = []
        self.prompts: dict[str, Prompt] = {}
        self.seen: set[int] = set()
        self.times: Counter[tuple[bytes, Any]] = Counter()
        self.busy = time.process_time()

    def counted(self) -> dict[str, Any]:
        """The counters, the faults by kind, connections open now, and the server's own CPU seconds."""
        return {
            **asdict(self.counters),
            "faults": dict(self.faults),
            "in_flight": self.in_flight,
            "open": self.open,
            "cpu_seconds": time.process_time() - self.busy,
        }

    def rows(self) -> list[dict[str, Any]]:
        names = ("case", "outcome", "arrived", "ended", "latency", "prompt_tokens", "completion_tokens", "choices")
        return [dict(zip(names, call, strict=True)) for call in self.calls]

    def prompt(self, messages: Any, choices: int) -> Prompt:
        """Read a prompt, count its blocks once for each choice, and remember them."""
        text = "".join(f"{message['role']}\n{_content(message)}\n" for message in messages)
        known = self.prompts.get(text)
        if known is None:
            chain, hits, blocks = 0, 0, len(text) // BLOCK
            for end in range(BLOCK, len(text) + 1, BLOCK):
                chain = hash((chain, text[end - BLOCK : end]))
                if chain in self.seen:
                    hits += 1
                else:
                    self.seen.add(chain)
            start = text.find(CASE)
            case = int(text[start + len(CASE) : text.index("]", start)]) if start >= 0 else None
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known = self.prompts[text] = Prompt(-(-len(text) // 4), blocks, digest, case, *_frame(messages))
        else:
            hits = known.blocks
        self.counters.blocks += choices * known.blocks
        self.counters.block_hits += hits + (choices - 1) * known.blocks
        return known

    def draw(self, prompt: Prompt, seed: Any, choices: int) -> tuple[float, str]:
        """The latency and the fault ("" for none) of this request; the latency is that of its slowest choice."""
        self.times[prompt.digest, seed] += 1
        place = f"{self.settings.seed}|{seed}|{self.times[prompt.digest, seed]}".encode()
        digest = hashlib.blake2b(prompt.digest + place, digest_size=16).digest()
        latency = self.settings.latency
        if self.settings.sigma:
            # The largest of n uniform draws is distributed as the n-th root of one.
            share = ((int.from_bytes(digest[:8], "big") + 0.5) / 2**64) ** (1 / choices)
            latency *= math.exp(self.settings.sigma * _NORMAL.inv_cdf(min(max(share, 1e-12), 1 - 1e-12)))
        if self.settings.faults:
            share = int.from_bytes(digest[8:], "big") / 2**64
            for kind, rate in self.settings.faults.items():
                share -= rate
                if share < 0:
                    return latency, kind
        return latency, ""

    def reply(self, prompt: Prompt, seed: int, index: int, cap: int | None, cut: bool) -> tuple[str, str, int]:
        """Text, finish reason and tokens of one choice."""
        place = f"{seed + index}".encode()
        digest = hashlib.blake2b(prompt.digest + place, digest_size=4).digest()
        tail = prompt.tail.replace("{}", "42" if digest[0] < 192 else "41")
        mean = self.settings.reply_tokens
        length = 4 * (mean * 2 // 3 + int.from_bytes(digest[1:], "big") % (mean * 2 // 3 + 1)) - len(tail)
        text = f"{prompt.head}{_TEXT[: max(0, length - len(prompt.head))]}\n{tail}"
        most = len(text) // 2 if cut else len(text)
        if cap is not None:
            most = min(most, 4 * cap)
        return text[:most], "stop" if most == len(text) else "length", -(-most // 4)


@dataclass(slots=True)
class Waiting:
    """A completion request between its arrival and its answer."""

    generation: int
    case: int | None
    arrived: float
    latency: float
    prompt_tokens: int
    tokens: int
    choices: int
    fault: str
    answer: bytes
    timer: asyncio.TimerHandle | None = None


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, each read in full."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.waiting: Waiting | None = None
        self.counted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.state.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.open -= 1
        if self.waiting is not None:
            if self.waiting.timer is not None:
                self.waiting.timer.cancel()
            self._end("abort")

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if self.waiting is None:
            self._next()

    def _next(self) -> None:
        """Take the next complete request out of the buffer."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        size = 0
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            size = int(head[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding:" in head:
            self._send(_error(411, "send a Content-Length"))
            self.transport.close()
            return
        if len(self.buffer) < end + 4 + size:
            return
        body = self.buffer[end + 4 : end + 4 + size]
        path = self.buffer.split(b" ", 2)[1].split(b"?", 1)[0]
        self.buffer = self.buffer[end + 4 + size :]
        if path == b"/v1/chat/completions":
            try:
                self._complete(orjson.loads(body))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.state.counters.refused += 1
                self._send(_error(400, f"not a chat completion request: {error!r}"))
        else:
            self._send(self._other(path, body))
        if self.waiting is None and self.buffer:
            self._next()

    def _other(self, path: bytes, body: bytes) -> bytes:
        state = self.state
        if path == b"/tokenize":
            state.counters.tokenized += 1
            data = orjson.loads(body)
            text = data.get("prompt") or "".join(map(_content, data.get("messages") or ()))
            count = -(-len(text) // 4)
            return _ok({"count": count, "max_model_len": state.settings.context, "tokens": [0] * count})
        if path == b"/v1/models":
            state.counters.others += 1
            model = {"id": state.settings.model, "object": "model", "owned_by": "vllm"}
            return _ok({"object": "list", "data": [{**model, "max_model_len": state.settings.context}]})
        if path == b"/health":
            return _ok({})
        if path == b"/counters":
            return _ok(state.counted())
        if path == b"/calls":
            return _ok(state.rows())
        if path == b"/reset":
            try:
                state.begin(replace(state.settings, **orjson.loads(body or b"{}")))
            except (TypeError, ValueError) as error:
                return _error(400, str(error))
            gc.freeze()
            return _ok({})
        return _error(404, "not found")

    def _complete(self, body: dict[str, Any]) -> None:
        state, counters, now = self.state, self.state.counters, self.loop.time()
        counters.requests += 1
        if self.counted != state.generation:
            self.counted = state.generation
            counters.connections += 1
        choices = body.get("n") or 1
        prompt = state.prompt(body["messages"], choices)
        cap = body.get("max_completion_tokens") or body.get("max_tokens")
        limit = state.settings.context
        if prompt.tokens + (cap or 0) > limit:
            counters.refused += 1
            self._send(
                _error(
                    400,
                    f"This model's maximum context length is {limit} tokens. However, you requested "
                    f"{prompt.tokens + (cap or 0)} tokens ({prompt.tokens} in the messages, {cap or 0} in the "
                    "completion). Please reduce the length of the messages or completion.",
                )
            )
            return
        seed = body.get("seed")
        latency, fault = state.draw(prompt, seed, choices)
        if fault:
            state.faults[fault] += 1
        if fault in ("500", "429", "drop"):
            state.calls.append((prompt.case, fault, now, now, 0.0, 0, 0, choices))
            if fault == "drop":
                self.transport.abort()
            elif fault == "429":
                self._send(_error(429, "too many requests", f"Retry-After: {state.settings.retry_after:g}\r\n"))
            else:
                self._send(_error(500, "the engine failed, on purpose"))
            return
        first = seed if seed is not None else state.times[prompt.digest, seed] * 256
        replies = [state.reply(prompt, first, index, cap, fault == "truncate") for index in range(choices)]
        tokens = sum(reply[2] for reply in replies)
        usage = {
            "prompt_tokens": prompt.tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt.tokens + tokens,
        }
        answer = _streamed(body, replies, usage) if body.get("stream") else _answer(body, replies, usage)
        if not state.settings.usage:
            answer = _without_usage(answer)
        raw = _sse(answer) if isinstance(answer, list) else _ok(answer)
        self.waiting = waiting = Waiting(
            state.generation, prompt.case, now, latency, prompt.tokens, tokens, choices, fault, raw
        )
        state.in_flight += 1
        state.choices_in_flight += choices
        counters.peak = max(counters.peak, state.in_flight)
        counters.peak_completions = max(counters.peak_completions, state.choices_in_flight)
        if fault != "hang":
            waiting.timer = self.loop.call_at(now + latency, self._due)

    def _due(self) -> None:
        """Send the answer that is due."""
        waiting = self.waiting
        assert waiting is not None
        if waiting.fault == "lost":
            self._end("lost")
            self.transport.abort()
            return
        if waiting.fault == "cut":
            self.transport.write(waiting.answer[: len(waiting.answer) // 2])
            self._end("cut")
            self.transport.close()
            return
        self.transport.write(waiting.answer)
        self._end(waiting.fault or "served")
        if self.buffer:
            self._next()

    def _end(self, outcome: str) -> None:
        waiting, state = self.waiting, self.state
        assert waiting is not None
        self.waiting = None
        state.in_flight -= 1
        state.choices_in_flight -= waiting.choices
        if waiting.generation != state.generation:
            return
        counters = state.counters
        row = (waiting.case, outcome, waiting.arrived, self.loop.time(), waiting.latency)
        state.calls.append((*row, waiting.prompt_tokens, waiting.tokens, waiting.choices))
        if outcome in ("served", "truncate"):
            counters.served += 1
            counters.completions += waiting.choices
            counters.prompt_tokens += waiting.prompt_tokens * waiting.choices  # as vLLM's own counters have it
            counters.completion_tokens += waiting.tokens
        elif outcome == "abort":
            counters.aborts += 1
        else:
            counters.lost_completion_tokens += waiting.tokens

    def _send(self, answer: bytes) -> None:
        self.transport.write(answer)


async def _serve(settings: Settings, port: int, with_parent: bool) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(50_000, 50, 50)
    loop = asyncio.get_running_loop()
    state = State(settings)
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    if with_parent:
        closed = asyncio.Event()

        class Watch(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                closed.set()

        await loop.connect_read_pipe(Watch, sys.stdin)
        await closed.wait()
    else:
        await asyncio.Event().wait()


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _frame(messages: Any) -> tuple[str, str]:
    """The end and the beginning of a reply to these messages: DSPy's field markers, labelled lines, or plain text."""
    last = _content(messages[-1])
    at = last.rfind("starting with the field")
    if at >= 0:
        names = [name for name in dict.fromkeys(_FIELDS.findall(last[at:])) if name != "completed"]
        ends = [f"[[ ## {name} ## ]]\n{_value(name)}\n" for name in names[1:]]
        tail = "\n".join([*ends, "[[ ## completed ## ]]"])
        if len(names) == 1:
            tail = "{}\n\n" + tail
        return tail, f"[[ ## {names[0]} ## ]]\n"
    labels = _FORM.findall(last)
    if labels:
        return "\n".join(f"{name}: {_value(name.lower())}" for name in labels), ""
    return ("They agree.", "") if last.endswith("Reply with the text alone.") else ("Answer: {}", "")


def _value(name: str) -> str:
    return {"selected": "[1, 2]", "advice": '{"self": "Check each step."}'}.get(name, "{}")


def _answer(body: Mapping[str, Any], replies: list[tuple[str, str, int]], usage: dict[str, int]) -> dict[str, Any]:
    choices = []
    for index, (text, finish, tokens) in enumerate(replies):
        choice = {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        if body.get("return_token_ids"):
            choice["token_ids"] = [0] * tokens
        choices.append(choice)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model"),
        "choices": choices,
        "usage": usage,
    }


def _streamed(body: Mapping[str, Any], replies: list[tuple[str, str, int]], usage: dict[str, int]) -> list[Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body.get("model")}
    chunks: list[dict[str, Any]] = []
    for index, (text, finish, tokens) in enumerate(replies):
        delta: dict[str, Any] = {"index": index, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        if body.get("return_token_ids"):
            delta["token_ids"] = [0] * tokens
        chunks.append({**head, "choices": [delta]})
        chunks.append({**head, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": usage})
    return chunks


def _without_usage(answer: Any) -> Any:
    if isinstance(answer, list):
        return [chunk for chunk in answer if "usage" not in chunk]
    return {name: value for name, value in answer.items() if name != "usage"}


def _sse(chunks: list[Any]) -> bytes:
    events = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + f"{len(events):x}\r\n".encode() + events + b"\r\n0\r\n\r\n"


def _ok(value: Any) -> bytes:
    return _http(200, orjson.dumps(value))


def _error(status: int, message: str, headers: str = "") -> bytes:
    return _http(status, orjson.dumps({"error": {"message": message, "type": "error", "code": status}}), headers)


def _http(status: int, body: bytes, headers: str = "") -> bytes:
    reason = _REASONS.get(status, "Error")
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}"
    return head.encode() + b"\r\n" + body


if __name__ == "__main__":
    main()
