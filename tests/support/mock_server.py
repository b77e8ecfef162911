"""A small OpenAI-compatible server for tests, on aiohttp, in a thread of its own.

    with MockServer(reply=lambda body, seed: f"draft {seed}") as server:
        lm = connect("mock", server.api_base)

It keeps every request body, can be llama.cpp, vLLM or neither, and fails on demand: `server.faults.append(...)` takes
an HTTP status, a (status, headers, body) triple, "drop" (closes the connection), "cut" (closes it in the middle of the
answer), "hang" (never answers), bytes (sent as the body, whatever they are) or a dict (sent as the completion).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

Reply = Callable[[dict[str, Any], int], str | dict[str, Any]]


class MockServer:
    """Context manager. A reply is the text of a choice, or a whole choice (`message`, `finish_reason`, ...)."""

    def __init__(
        self,
        reply: Reply = lambda body, seed: f"text {seed}",
        *,
        kind: str = "other",
        models: tuple[str, ...] = ("mock",),
        port: int = 0,
        context: int = 4096,
        usage: bool = True,
        max_n: int = 64,
        owner: str | None = None,
    ) -> None:
        self.reply = reply
        self.kind = kind
        self.models = models
        self._port = port
        self.context = context
        self.usage = usage
        self.max_n = max_n
        self.owner = owner
        """What the listing calls the owner of the models; None for that of its kind."""
        self.told: dict[str, Any] = {}
        """What it answers to a GET of further paths."""
        self.asked: list[str] = []
        """Further paths that were asked for."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.tokenized: list[str] = []
        self.faults: list[Any] = []
        self.in_flight = 0
        self.peak = 0
        self.gate: threading.Event | None = None
        """When set to an Event, completions wait until it is set."""
        self.hold_until = 0
        """Completions wait until this many are in flight at once."""
        self.refuse_long = False
        """Refuse prompts of more words than the context has tokens, as real servers do."""
        self.refuses: dict[str, str] = {}
        """Fields of a completion request that are refused (400), each with what is said of it."""
        self.width: int | None = None
        """With more than this many in flight, a request is refused (429)."""
        self.answers_as: str | None = None
        """The model that completions name; None for the one that was asked for."""
        self.fingerprint: str | None = None
        """The `system_fingerprint` of completions."""
        self.adapters: dict[str, str] = {}
        """Adapters beside the first model, by name, and what each is made of: vLLM lists them as models with a parent,
        llama.cpp at /lora-adapters, where each is the stem of its file."""
        self.root: str | None = None
        """What the listing says that the models are made of."""
        self.work = 0.0
        """Seconds that a completion takes."""
        self.scores: Callable[[str, dict[str, Any]], Any] | None = None
        """Makes vLLM's pooling endpoints speak: given the path and the body, the figures of each entry of the answer
        (`probs` of /classify, rows of /pooling, numbers of /score and /rerank); an int is an HTTP status, a dict or
        bytes the whole answer."""
        self.posted: list[tuple[str, dict[str, Any]]] = []
        """Paths and bodies of the requests to them."""
        self.pooled_usage = True
        self.refused = 0
        self.served = 0
        self.aborts = 0
        """Completions whose client closed the connection before it had its answer."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.gate is not None:
            self.gate.set()
        self._loop.call_soon_threadsafe(self._ends.set)
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def release(self) -> None:
        """Let the completions go that `hold_until` holds."""
        self._loop.call_soon_threadsafe(self._enough.set)

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _start(self) -> None:
        self._enough = asyncio.Event()
        self._ends = asyncio.Event()
        app = web.Application()
        for team in ("", "/team-a", "/team-b"):  # a gateway in front of several deployments
            app.router.add_get(f"{team}/v1/models", self._models)
            app.router.add_post(f"{team}/v1/chat/completions", self._chat)
        app.router.add_get("/health", self._health)
        if self.kind != "other":
            app.router.add_post("/tokenize", self._tokenize)
        for path in ("/classify", "/pooling", "/score", "/rerank"):
            app.router.add_post(path, self._pooled)
        app.router.add_get("/{path:.*}", self._told)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.Response:
        owner = self.owner or {"llama.cpp": "llamacpp", "vllm": "vllm"}.get(self.kind, "someone")
        extra: dict[str, Any] = {
            "vllm": {"max_model_len": self.context},
            "llama.cpp": {"meta": {"n_ctx": self.context}},
        }
        told = {**extra.get(self.kind, {}), **({"root": self.root} if self.root else {})}
        rows = [{"id": name, "object": "model", "owned_by": owner, **told} for name in self.models]
        if self.kind == "vllm":
            rows += [
                {"id": name, "object": "model", "owned_by": owner, "root": root, "parent": self.models[0]}
                for name, root in self.adapters.items()
            ]
        return web.json_response({"object": "list", "data": rows})

    async def _told(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/lora-adapters" and self.adapters and self.kind == "llama.cpp":
            files = [{"id": i, "path": path, "scale": 0.0} for i, path in enumerate(self.adapters.values())]
            return web.json_response(files)
        if request.path not in self.told:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response(self.told[request.path])

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body["content"] if self.kind == "llama.cpp" else body["prompt"]
        self.tokenized.append(text)
        tokens = list(range(len(text.split())))
        return web.json_response({"tokens": tokens} | ({"count": len(tokens)} if self.kind == "vllm" else {}))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.width is not None and self.in_flight >= self.width:
            self.refused += 1
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.gate is not None:
                await asyncio.to_thread(self.gate.wait)
            if self.peak >= self.hold_until:
                self._enough.set()
            await self._enough.wait()
            if self.work:
                await asyncio.sleep(self.work)
            if self.faults:
                return await self._fault(self.faults.pop(0), request)
            for field in self.refuses.keys() & body.keys():
                return web.json_response({"error": {"message": self.refuses[field]}}, status=400)
            if self.refuse_long and sum(len(one["content"].split()) for one in body["messages"]) > self.context:
                message = f"This model's maximum context length is {self.context} tokens"
                return web.json_response({"error": {"message": message}}, status=400)
            answer = await self._answer(body, request)
            self.served += 1
            return answer
        except asyncio.CancelledError:
            self.aborts += 1
            raise
        finally:
            self.in_flight -= 1

    async def _pooled(self, request: web.Request) -> web.StreamResponse:
        """vLLM 0.33's endpoints of pooling models."""
        if self.scores is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        path, body = request.path, await request.json()
        self.posted.append((path, body))
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.gate is not None:
                await asyncio.to_thread(self.gate.wait)
            if self.peak >= self.hold_until:
                self._enough.set()
            await self._enough.wait()
            if self.faults:
                return await self._fault(self.faults.pop(0), request)
            refusal = _refused(path, body, self.context)
            if refusal is not None:
                error = {"message": refusal, "type": "BadRequestError", "param": None, "code": 400}
                return web.json_response({"error": error}, status=400)
            figures = self.scores(path, body)
            self.served += 1
            if isinstance(figures, int):
                return web.json_response({"error": {"message": "on purpose"}}, status=figures)
            if isinstance(figures, bytes):
                return web.Response(body=figures, content_type="application/json")
            answer = figures if isinstance(figures, dict) else self._pooled_answer(path, body, figures)
            return web.Response(text=json.dumps(answer), content_type="application/json")
        except asyncio.CancelledError:
            self.aborts += 1
            raise
        finally:
            self.in_flight -= 1

    def _pooled_answer(self, path: str, body: dict[str, Any], figures: list[Any]) -> dict[str, Any]:
        words = _words(body)
        usage = {"prompt_tokens": words, "total_tokens": words}
        if path == "/rerank":
            documents = body["documents"] if isinstance(body["documents"], list) else [body["documents"]]
            results = [
                {"index": place, "document": {"text": documents[place], "multi_modal": None}, "relevance_score": figure}
                for place, figure in enumerate(figures)
            ]
            results.sort(key=lambda one: -one["relevance_score"] if isinstance(one["relevance_score"], float) else 0.0)
            return {"id": "score-1", "model": body["model"], "usage": usage if self.pooled_usage else None,
                    "results": results}  # fmt: skip
        usage |= {"completion_tokens": 0, "prompt_tokens_details": None}
        rows: list[dict[str, Any]] = []
        for place, figure in enumerate(figures):
            if path == "/classify":
                rows.append({"index": place, "label": None, "probs": figure, "num_classes": len(figure)})
            elif path == "/pooling":
                rows.append({"index": place, "object": "pooling", "data": figure})
            else:
                rows.append({"index": place, "object": "score", "score": figure})
        answer = {"id": "pool-1", "object": "list", "created": 0, "model": body["model"], "data": rows}
        return {**answer, "usage": usage} if self.pooled_usage else answer

    async def _fault(self, fault: Any, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if fault == "hang":
            await self._ends.wait()
        if fault in ("drop", "hang"):
            request.transport.abort()
            return web.Response()
        if fault == "cut":
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            request.transport.close()
            return response
        if isinstance(fault, dict):
            return web.json_response(fault)
        if isinstance(fault, bytes):
            return web.Response(body=fault, content_type="application/json")
        status, headers, body = fault if isinstance(fault, tuple) else (fault, {}, {"error": {"message": "on purpose"}})
        if isinstance(body, bytes):
            return web.Response(status=status, headers=headers, body=body)
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "text/html" if text.startswith("<") else "application/json"
        return web.Response(status=status, headers=headers, text=text, content_type=kind)

    async def _answer(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        n = min(body.get("n", 1), self.max_n)
        choices = [self._choice(body, index, (body.get("seed") or 0) + index) for index in range(n)]
        prompt = sum(len(str(message["content"]).split()) for message in body["messages"])
        lengths = [len((choice["message"].get("content") or "").split()) for choice in choices]
        # As the real ones do: llama.cpp counts one choice only, vLLM all of them.
        completion = lengths[0] if self.kind == "llama.cpp" else sum(lengths)
        head = {"id": "chatcmpl-1", "object": "chat.completion", "model": self.answers_as or body["model"]}
        head |= {"system_fingerprint": self.fingerprint} if self.fingerprint else {}
        if body.get("stream"):
            return await self._stream(request, head, choices, lengths, prompt)
        if body.get("return_token_ids"):
            choices = [{**choice, "token_ids": list(range(k))} for choice, k in zip(choices, lengths, strict=True)]
        answer: dict[str, Any] = {**head, "choices": choices}
        if self.usage:
            answer["usage"] = _usage(prompt, completion)
        return web.json_response(answer)

    def _choice(self, body: dict[str, Any], index: int, seed: int) -> dict[str, Any]:
        reply = self.reply(body, seed)
        choice: dict[str, Any] = (
            {"message": {"role": "assistant", "content": reply}} if isinstance(reply, str) else reply
        )
        return {"index": index, "finish_reason": "stop", **choice}

    async def _stream(
        self, request: web.Request, head: dict[str, Any], choices: list[Any], lengths: list[int], prompt: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for choice, length in reversed(list(zip(choices, lengths, strict=True))):  # in an order of its own
            index = choice["index"]
            chunks: list[dict[str, Any]] = [
                {"choices": [{"index": index, "finish_reason": None, "delta": {"role": "assistant", "content": None}}]},
                {"choices": [{"index": index, "finish_reason": None, "delta": choice["message"]}]},
                {"choices": [{"index": index, "finish_reason": choice["finish_reason"], "delta": {}}]},
            ]
            if self.usage:
                chunks.append({"choices": [], "usage": _usage(prompt, length)})
            for chunk in chunks:
                await response.write(f"data: {json.dumps({**head, **chunk})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(2, prompt)},
    }


def _words(body: dict[str, Any]) -> int:
    """Tokens of a request to a pooling endpoint; a pair of /score is read as a whole for each document."""
    if "messages" in body:
        return sum(len(str(message["content"]).split()) for message in body["messages"])
    query = body.get("queries") or body.get("query") or body.get("input") or ""
    documents = body.get("documents") or []
    documents = documents if isinstance(documents, list) else [documents]
    return sum(len(str(query).split()) + len(str(one).split()) for one in documents) or len(str(query).split())


def _refused(path: str, body: dict[str, Any], context: int) -> str | None:
    """What vLLM refuses: removed parameters and tasks, missing fields, and prompts beyond the context."""
    if "normalize" in body:
        return "Parameter `normalize` was removed; use `use_activation` instead."
    if body.get("task") in ("score", "encode"):
        return f"Pooling task {body['task']!r} was removed"
    if not isinstance(body.get("use_activation"), bool | None):
        return "use_activation: Input should be a valid boolean"
    needed = {"/score": ("queries", "documents"), "/rerank": ("query", "documents")}.get(path, ())
    missing = [name for name in needed if name not in body]
    if missing or (not needed and not {"messages", "input"} & body.keys()):
        return f"{(missing or ['messages'])[0]}: Field required"
    if path == "/rerank" and not isinstance(body["query"], str):
        return "query: Input should be a valid string"
    if _words(body) > context:
        return f"This model's maximum context length is {context} tokens. However, you requested {_words(body)} tokens"
    return None
