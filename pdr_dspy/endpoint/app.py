"""The ASGI application: its routes, and the handling of requests as runs of a program."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import dspy
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pdr_dspy.endpoint import requests, schema
from pdr_dspy.endpoint.admission import Admission
from pdr_dspy.endpoint.answers import Writer, facts_of, usage_of
from pdr_dspy.endpoint.catalogue import Catalogue, ProgramFile, Served
from pdr_dspy.endpoint.errors import ClientGone, Refused, wrong
from pdr_dspy.endpoint.journal import ActiveRequest, Journal
from pdr_dspy.endpoint.keys import Keys
from pdr_dspy.endpoint.limits import Limits
from pdr_dspy.endpoint.messages import checked, inputs_of
from pdr_dspy.endpoint.metrics import Metrics
from pdr_dspy.endpoint.requests import Plan
from pdr_dspy.endpoint.streaming import News, Stream, while_there
from pdr_dspy.endpoint.work import Answer, progress_text, run
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator, Progress
from pdr_dspy.prompts.content import json_data
from pdr_dspy.runtime.atomic_write import local_path

Programs = dspy.Module | str | Path | ProgramFile | Mapping[str, Any] | Sequence[str | Path | ProgramFile]


def app(
    programs: Programs,
    *,
    lm: dspy.LM | None = None,
    limits: Limits | None = None,
    keys: Keys | None = None,
) -> ASGIApp:
    """An OpenAI-compatible application of programs: to run with any ASGI server, or to mount in another application.

        app = FastAPI()
        app.mount("/math", pdr_dspy.app({"solver": program}, lm=lm))     # POST /math/v1/chat/completions

    Args:
        programs: a program, the path of a saved one, several paths, or either by name. A program is an operator, or a
            module that contains some and has a `signature` of its inputs and outputs. A saved program has its file's
            name and is loaded again when the file changes; any other program without a name is called "program".
        lm: the language model of the programs; DSPy's current one by default.
        limits: bounds on requests.
        keys: the accepted keys; by default no key is required.

    Raises:
        ConfigError: there is no program, two have one name, or one cannot be served: a module without a `signature` or
            an `aforward`, or with predictors that no budget limits; an input that JSON cannot provide.
        ArtifactError: a file cannot be loaded.
    """
    given: dict[str, dspy.Module] = {}
    files: list[ProgramFile] = []
    for name, one in _listed(programs):
        if isinstance(one, (str, Path)):
            one = ProgramFile(local_path(one))
        if isinstance(one, ProgramFile):
            files.append(one.called(name) if name else one)
        else:
            given[name or "program"] = one
    return Endpoint(Catalogue(given, files), lm or dspy.settings.lm, limits or Limits(), keys)


def _listed(programs: Programs) -> list[tuple[str, Any]]:
    if isinstance(programs, Mapping):
        return list(programs.items())
    if isinstance(programs, (list, tuple)):
        return [("", one) for one in programs]
    return [("", programs)]


class Endpoint:
    """The application. It serves one event loop, that of its first request."""

    def __init__(self, catalogue: Catalogue, lm: dspy.LM | None, limits: Limits, keys: Keys | None) -> None:
        if lm is None and any(predictor.lm is None for one in catalogue for predictor in one.program.predictors()):
            raise ConfigError("`app(lm=None)`: no language model is set; give `lm=pdr_dspy.connect(model, api_base)`")
        self.catalogue = catalogue
        self.lm = lm
        self.limits = limits
        self.keys = keys
        self.admission = Admission(limits.running, limits.queued)
        self.in_flight = None if limits.in_flight is None else asyncio.Semaphore(limits.in_flight)
        self.metrics = Metrics()
        self.metrics.follow(self.admission)
        self.journal = Journal(self.metrics, texts=limits.log_texts)
        self._routes = Starlette(
            routes=[
                self._route("/health", self._health, open_to_all=True),
                self._route("/metrics", self._metrics),
                self._route("/openapi.json", self._openapi),
                self._route("/v1/models", self._models),
                self._route("/v1/models/{name}", self._model),
                self._route("/v1/chat/completions", self._chat, method="POST"),
                self._route("/v1/programs/{name}", self._program, method="POST"),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._routes(scope, receive, send)

    # --- common to all requests ---

    def _route(
        self,
        path: str,
        handle: Callable[[ActiveRequest], Awaitable[Response]],
        *,
        method: str = "GET",
        open_to_all: bool = False,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            active = ActiveRequest(request, path)
            try:
                self._let_in(active, open_to_all)
                await self._refresh()
                response = await handle(active)
            except Refused as refused:
                response = self.journal.refused(active, refused)
            except (ClientGone, ClientDisconnect):
                self.journal.gone(active)
                response = Response(status_code=499)  # not read by anybody
            except Exception as error:
                response = self.journal.fault(active, error)
            if not isinstance(response, Stream):
                active.status = response.status_code if active.status == 0 else active.status
                self.journal.done(active)
            response.headers["x-request-id"] = active.id
            return response

        return Route(path, endpoint, methods=[method])

    async def _refresh(self) -> None:
        await self.catalogue.refresh()
        self.metrics.reloads.set(self.catalogue.reloads)
        self.metrics.broken.set(len(self.catalogue.failures))

    def _let_in(self, active: ActiveRequest, open_to_all: bool) -> None:
        """Authenticate the client. Raises Refused for a wrong host or key."""
        headers = active.request.headers
        if self.limits.hosts:
            host = headers.get("host", "")
            name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in self.limits.hosts:
                raise Refused(403, "this server does not serve this Host", code="wrong_host")
        if self.keys is None:
            client = active.request.client
            active.client = client.host if client else "unknown"
        elif not open_to_all:
            found = self.keys.client(headers.get("authorization"))
            if found is None:
                raise Refused(401, "the key is missing or wrong", code="invalid_api_key", headers=_BEARER)
            active.client = found

    # --- information ---

    async def _health(self, active: ActiveRequest) -> Response:
        health = {
            "status": "ok",
            "running": self.admission.running,
            "queued": self.admission.queued,
            "process": os.getpid(),
        }
        return JSONResponse(
            health | ({"files_not_taken_over": sorted(broken)} if (broken := self.catalogue.failures) else {})
        )

    async def _metrics(self, active: ActiveRequest) -> Response:
        return Response(self.metrics.text(), headers={"content-type": self.metrics.content_type})

    async def _openapi(self, active: ActiveRequest) -> Response:
        return JSONResponse(schema.document(self.catalogue, "1"))

    async def _models(self, active: ActiveRequest) -> Response:
        return JSONResponse({"object": "list", "data": [schema.listing(served) for served in self.catalogue]})

    async def _model(self, active: ActiveRequest) -> Response:
        return JSONResponse(schema.listing(self._served(active, active.request.path_params["name"], None)))

    # --- runs ---

    async def _chat(self, active: ActiveRequest) -> Response:
        data = requests.read_body(await self._body(active))
        chat, ignored = requests.read_chat(data, ignore_tools=self.limits.ignore_tools)
        served = self._served(active, chat.model, chat.reasoning_effort)
        task = served.task
        inputs, left_out = inputs_of(task, chat.messages)
        n = chat.n or 1
        plan = requests.plan(
            served.program,
            chat.pdr,
            self.limits,
            cap=_least(chat.max_completion_tokens, chat.max_tokens),
            seed=chat.seed,
            n=n,
        )
        writer = Writer(chat, plan.task, served.version, [*left_out, *ignored, *plan.left_out])
        if chat.stream:
            return Stream(
                self.journal, active, writer, self._events(active, plan, inputs, n), self.limits.keepalive_seconds
            )
        answers, reasoning = await self._whole(active, plan, inputs, n)
        if self.limits.log_texts:
            active.note += f" inputs={inputs!r} answers={[writer.content(answer) for answer in answers]!r}"
        return JSONResponse(writer.completion(answers, reasoning))

    async def _program(self, active: ActiveRequest) -> Response:
        name = active.request.path_params["name"]
        self._served(active, name, None)
        body = requests.read_program(requests.read_body(await self._body(active)))
        served = self._served(active, name, body.reasoning_effort)
        inputs = checked(served.task, body.inputs, "inputs")
        plan = requests.plan(served.program, body.pdr, self.limits, cap=body.max_completion_tokens, seed=None)
        answers, _ = await self._whole(active, plan, inputs, 1)
        (answer,) = answers
        if self.limits.log_texts:
            active.note += f" inputs={inputs!r} outputs={answer.outputs!r}"
        return JSONResponse(
            {
                "id": active.id,
                "model": served.name,
                "outputs": {field: json_data(value) for field, value in answer.outputs.items()},
                "finish_reason": answer.finish,
                "usage": usage_of(answers),
                "pdr": facts_of(answers, plan.left_out),
            }
        )

    def _served(self, active: ActiveRequest, name: str, effort: str | None) -> Served:
        served = self.catalogue.get(name)
        if served is None:
            names = ", ".join(one.name for one in self.catalogue)
            raise Refused(
                404, f"there is no model {name[:80]!r}; there are {names}", code="model_not_found", param="model"
            )
        active.model = served.name
        if effort is None:
            return served
        efforts = self.catalogue.efforts(served.base)
        if not efforts:
            why = f"{served.name!r} was saved without a front; leave `reasoning_effort` out"
            raise wrong(why, "reasoning_effort", "unsupported")
        if effort not in efforts:
            why = f"`reasoning_effort={effort[:40]!r}` must be one of {', '.join(efforts)}"
            raise wrong(why, "reasoning_effort")
        chosen = efforts[effort]
        active.model = chosen.name
        return chosen

    async def _body(self, active: ActiveRequest) -> bytes:
        """The body, within its limits."""
        request, limits = active.request, self.limits
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # web pages may send other types to another origin without a preflight request
            raise Refused(415, "the body must be application/json", code="unsupported_media_type")
        too_large = Refused(413, f"the body is above {limits.body_bytes} bytes", code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > limits.body_bytes:
                        raise too_large
        except TimeoutError:
            why = f"the body was not received within {limits.body_seconds:g} s"
            raise Refused(408, why, code="body_too_slow", headers={"Connection": "close"}) from None
        return b"".join(parts)

    async def _whole(
        self, active: ActiveRequest, plan: Plan, inputs: Mapping[str, Any], n: int
    ) -> tuple[list[Answer], list[str]]:
        """All answers of a request and their progress messages; everything is cancelled when its client disconnects."""
        answers: dict[int, Answer] = {}
        reasoning: dict[int, str] = dict.fromkeys(range(n), "")

        async def collect() -> None:
            async with aclosing(self._events(active, plan, inputs, n)) as events:
                async for index, news in events:
                    if isinstance(news, Answer):
                        answers[index] = news
                    else:
                        reasoning[index] += news

        await while_there(active.request.receive, collect())
        return [answers[index] for index in range(n)], [reasoning[index] for index in range(n)]

    async def _events(self, active: ActiveRequest, plan: Plan, inputs: Mapping[str, Any], n: int) -> News:
        """Events of `n` runs as they occur: the index of a choice with a text or its answer. Closing it cancels all."""
        news: asyncio.Queue[tuple[int, str | Answer | BaseException]] = asyncio.Queue()

        async def one(index: int) -> None:
            def report(progress: Progress) -> None:
                news.put_nowait((index, progress_text(progress, named=not isinstance(plan.program, Operator))))

            try:
                answer = await self._run(active, plan, inputs, index, report)
                news.put_nowait((index, answer))
            except Exception as error:
                news.put_nowait((index, error))

        tasks = [asyncio.create_task(one(index)) for index in range(n)]
        try:
            missing = n
            while missing:
                index, what = await news.get()
                if isinstance(what, BaseException):
                    raise what
                missing -= isinstance(what, Answer)
                yield index, what
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self,
        active: ActiveRequest,
        plan: Plan,
        inputs: Mapping[str, Any],
        index: int,
        report: Callable[[Progress], None],
    ) -> Answer:
        """One run, once a place is free for it."""
        waiting = asyncio.timeout(plan.deadline - time.monotonic())
        try:
            async with waiting, self.admission.place(active.client):
                waiting.reschedule(None)
                answer = await run(plan, inputs, index, self.lm, self.in_flight, report)
        except TimeoutError:
            if not waiting.expired():
                raise
            refused = self.admission.refusal()
            why = f"no place became free within {plan.seconds:g} s; {refused}"
            raise Refused(429, why, code="queue_timeout", headers=refused.headers) from None
        except Refused as refused:
            if "usage" in refused.more:
                self.metrics.stops.labels(active.model, refused.code).inc()
            raise
        self.journal.ran(active, answer)
        return answer


_BEARER = {"WWW-Authenticate": "Bearer"}


async def _not_found(request: Request, error: Any) -> Response:
    status = error.status_code
    why = "there is no such path" if status == 404 else f"{request.method} is not supported here"
    refused = Refused(status, why, code="not_found" if status == 404 else "method_not_allowed", headers=error.headers)
    return JSONResponse(refused.body, status, refused.headers)


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
