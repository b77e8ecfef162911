"""The ASGI application: its routes, and how a request becomes runs of a program."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

import dspy
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pdr_dspy.endpoint import requests, schema
from pdr_dspy.endpoint.admission import Admission
from pdr_dspy.endpoint.answers import DONE, Writer, event, facts_of, usage_of
from pdr_dspy.endpoint.catalogue import Catalogue, ProgramFile, Served
from pdr_dspy.endpoint.errors import ClientGone, Refused, wrong
from pdr_dspy.endpoint.keys import Keys
from pdr_dspy.endpoint.limits import Limits
from pdr_dspy.endpoint.messages import checked, inputs_of
from pdr_dspy.endpoint.metrics import Metrics
from pdr_dspy.endpoint.requests import Plan
from pdr_dspy.endpoint.work import Answer, progress_text, run
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator, Progress
from pdr_dspy.prompts.content import json_data
from pdr_dspy.runtime.atomic_write import local_path

log = logging.getLogger("pdr_dspy.endpoint")
T = TypeVar("T")
Programs = Operator | str | Path | ProgramFile | Mapping[str, Any] | Sequence[str | Path | ProgramFile]


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
        programs: a program, the path of a saved one, several paths, or either by name. A saved program is called by its
            file's name, and read again when the file changes; another is called "program" where no name is given.
        lm: what the programs call; DSPy's current one where it is left out.
        limits: what clients may have.
        keys: who is let in; everybody where it is left out.

    Raises:
        ConfigError: there is no program or two of one name, or one that cannot be served: a module around operators,
            or an input that JSON cannot feed.
        ArtifactError: a file cannot be loaded.
    """
    given: dict[str, Operator] = {}
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
    """The application. It serves one event loop, the one that its first request comes on."""

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

    # --- what every request goes through ---

    def _route(
        self,
        path: str,
        handle: Callable[[_Asked], Awaitable[Response]],
        *,
        method: str = "GET",
        open_to_all: bool = False,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            asked = _Asked(request, path)
            try:
                self._let_in(asked, open_to_all)
                await self.catalogue.refresh()
                response = await handle(asked)
            except Refused as refused:
                response = self._refused(asked, refused)
            except (ClientGone, ClientDisconnect):
                self.metrics.gone.labels(asked.model).inc()
                asked.status = 499
                response = Response(status_code=499)  # nobody reads it
            except Exception as error:
                self._tell_fault(asked, error)
                response = self._refused(asked, Refused(500, "a fault of this server; see its log", code="internal"))
            if not isinstance(response, _Stream):
                asked.status = response.status_code if asked.status == 0 else asked.status
                self._done(asked)
            response.headers["x-request-id"] = asked.id
            return response

        return Route(path, endpoint, methods=[method])

    def _let_in(self, asked: _Asked, open_to_all: bool) -> None:
        """Who asks. Raises Refused for a wrong host or key."""
        headers = asked.request.headers
        if self.limits.hosts:
            host = headers.get("host", "")
            name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in self.limits.hosts:
                raise Refused(403, "this server does not answer to that Host", code="wrong_host")
        if self.keys is None:
            client = asked.request.client
            asked.client = client.host if client else "unknown"
        elif not open_to_all:
            found = self.keys.client(headers.get("authorization"))
            if found is None:
                raise Refused(401, "the key is missing or wrong", code="invalid_api_key", headers=_BEARER)
            asked.client = found

    def _refused(self, asked: _Asked, refused: Refused) -> Response:
        self.metrics.refusals.labels(refused.code).inc()
        asked.note = refused.code
        if self.limits.log_texts:
            cause = f" ({refused.__cause__})" if refused.__cause__ is not None else ""
            asked.note += f": {refused}{cause}"
        return JSONResponse(refused.body, refused.status, refused.headers)

    def _done(self, asked: _Asked) -> None:
        """The line of a request in the log, and its count. No text of a client's stands there unless that is wanted."""
        self.metrics.requests.labels(asked.route, asked.model, str(asked.status)).inc()
        level = logging.DEBUG if asked.request.method == "GET" else logging.INFO
        seconds = time.monotonic() - asked.started
        log.log(
            level,
            "%s %s %s model=%s client=%s status=%d seconds=%.3f%s",
            asked.id,
            asked.request.method,
            asked.route,
            asked.model or "-",
            asked.client,
            asked.status,
            seconds,
            f" {asked.note}" if asked.note else "",
        )

    def _tell_fault(self, asked: _Asked, error: BaseException) -> None:
        """A fault of ours, without its message: that may hold what a client wrote."""
        if self.limits.log_texts:
            log.error("%s failed", asked.id, exc_info=error)
            return
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        log.error("%s failed: %s at %s", asked.id, type(error).__name__, where)

    # --- what is served ---

    async def _health(self, asked: _Asked) -> Response:
        told = {"status": "ok", "running": self.admission.running, "queued": self.admission.queued}
        return JSONResponse(
            told | ({"files_not_taken_over": sorted(broken)} if (broken := self.catalogue.failures) else {})
        )

    async def _metrics(self, asked: _Asked) -> Response:
        self.metrics.reloads.set(self.catalogue.reloads)
        self.metrics.broken.set(len(self.catalogue.failures))
        return Response(self.metrics.text(), headers={"content-type": self.metrics.content_type})

    async def _openapi(self, asked: _Asked) -> Response:
        return JSONResponse(schema.document(self.catalogue, "1"))

    async def _models(self, asked: _Asked) -> Response:
        return JSONResponse({"object": "list", "data": [schema.listing(served) for served in self.catalogue]})

    async def _model(self, asked: _Asked) -> Response:
        return JSONResponse(schema.listing(self._served(asked, asked.request.path_params["name"], None)))

    # --- runs ---

    async def _chat(self, asked: _Asked) -> Response:
        data = requests.read_body(await self._body(asked))
        chat, ignored = requests.read_chat(data)
        served = self._served(asked, chat.model, chat.reasoning_effort)
        task = served.program.task
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
        writer = Writer(chat, plan.program.task, served.version, [*left_out, *ignored])
        if chat.stream:
            return _Stream(self, asked, writer, self._events(asked, plan, inputs, n))
        answers, told = await self._whole(asked, plan, inputs, n)
        if self.limits.log_texts:
            asked.note += f" inputs={inputs!r} answers={[writer.content(answer) for answer in answers]!r}"
        return JSONResponse(writer.completion(answers, told))

    async def _program(self, asked: _Asked) -> Response:
        name = asked.request.path_params["name"]
        self._served(asked, name, None)
        body = requests.read_program(requests.read_body(await self._body(asked)))
        served = self._served(asked, name, body.reasoning_effort)
        inputs = checked(served.program.task, body.inputs, "inputs")
        plan = requests.plan(served.program, body.pdr, self.limits, cap=body.max_completion_tokens, seed=None)
        answers, _ = await self._whole(asked, plan, inputs, 1)
        (answer,) = answers
        if self.limits.log_texts:
            asked.note += f" inputs={inputs!r} outputs={answer.outputs!r}"
        return JSONResponse(
            {
                "id": asked.id,
                "model": served.name,
                "outputs": {field: json_data(value) for field, value in answer.outputs.items()},
                "finish_reason": answer.finish,
                "usage": usage_of(answers),
                "pdr": facts_of(answers, []),
            }
        )

    def _served(self, asked: _Asked, name: str, effort: str | None) -> Served:
        served = self.catalogue.get(name)
        if served is None:
            names = ", ".join(one.name for one in self.catalogue)
            raise Refused(
                404, f"there is no model {name[:80]!r}; there are {names}", code="model_not_found", param="model"
            )
        asked.model = served.name
        if effort is None:
            return served
        efforts = self.catalogue.efforts(served.base)
        if not efforts:
            why = f"{served.name!r} was saved without a front; leave `reasoning_effort` out"
            raise wrong(why, "reasoning_effort", "unsupported")
        if effort not in efforts:
            why = f"`reasoning_effort={effort[:40]!r}` is none of {', '.join(efforts)}"
            raise wrong(why, "reasoning_effort")
        chosen = efforts[effort]
        asked.model = chosen.name
        return chosen

    async def _body(self, asked: _Asked) -> bytes:
        """The body, within its limits."""
        request, limits = asked.request, self.limits
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a web page can send others to a server of another origin without asking
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
            why = f"the body did not come within {limits.body_seconds:g} s"
            raise Refused(408, why, code="body_too_slow", headers={"Connection": "close"}) from None
        return b"".join(parts)

    async def _whole(
        self, asked: _Asked, plan: Plan, inputs: Mapping[str, Any], n: int
    ) -> tuple[list[Answer], list[str]]:
        """All answers of a request and what was told meanwhile; everything is cancelled when its client goes away."""
        answers: dict[int, Answer] = {}
        told: dict[int, str] = dict.fromkeys(range(n), "")

        async def collect() -> None:
            async with aclosing(self._events(asked, plan, inputs, n)) as events:
                async for index, news in events:
                    if isinstance(news, Answer):
                        answers[index] = news
                    else:
                        told[index] += news

        await while_there(asked.request.receive, collect())
        return [answers[index] for index in range(n)], [told[index] for index in range(n)]

    async def _events(
        self, asked: _Asked, plan: Plan, inputs: Mapping[str, Any], n: int
    ) -> AsyncGenerator[tuple[int, str | Answer], None]:
        """What `n` runs tell, as it comes: the index of a choice with a text or its answer. Closing it cancels all."""
        news: asyncio.Queue[tuple[int, str | Answer | BaseException]] = asyncio.Queue()
        fields = tuple(plan.program.task.output_fields)

        async def one(index: int) -> None:
            def tell(progress: Progress) -> None:
                news.put_nowait((index, progress_text(progress, fields)))

            try:
                answer = await self._run(asked, plan, inputs, index, tell)
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
        self, asked: _Asked, plan: Plan, inputs: Mapping[str, Any], index: int, tell: Callable[[Progress], None]
    ) -> Answer:
        """One run, once there is a place for it."""
        waiting = asyncio.timeout(plan.deadline - time.monotonic())
        try:
            async with waiting, self.admission.place(asked.client):
                waiting.reschedule(None)
                answer = await run(plan, inputs, index, self.lm, self.in_flight, tell)
        except TimeoutError:
            if not waiting.expired():
                raise
            refused = self.admission.refusal()
            why = f"no place became free within {plan.seconds:g} s; {refused}"
            raise Refused(429, why, code="queue_timeout", headers=refused.headers) from None
        except Refused as refused:
            if "usage" in refused.more:
                self.metrics.stops.labels(asked.model, refused.code).inc()
            raise
        self.metrics.ran(asked.model, answer)
        spent = answer.facts
        asked.note += f" stop={answer.stop!s} rounds={answer.rounds} calls={spent['calls']}".replace(
            "fell back", "fell_back"
        )
        asked.note += f" B_seq={spent['B_seq']} B_total={spent['B_total']}"
        asked.note = asked.note.strip()
        return answer


_BEARER = {"WWW-Authenticate": "Bearer"}


class _Asked:
    """A request, and what is known of it so far."""

    def __init__(self, request: Request, route: str) -> None:
        self.request = request
        self.route = route
        self.id = f"req-{secrets.token_hex(8)}"
        self.started = time.monotonic()
        self.client = "-"
        self.model = ""
        self.status = 0
        self.note = ""


class _Stream(Response):
    """Server-sent events. Until the first of them is there, an error is an ordinary answer with its status."""

    def __init__(
        self, endpoint: Endpoint, asked: _Asked, writer: Writer, events: AsyncGenerator[tuple[int, str | Answer], None]
    ) -> None:
        super().__init__(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        del self.headers["content-length"]
        self.endpoint, self.asked, self.writer, self.events = endpoint, asked, writer, events
        self.begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self.asked
        asked.status = 200
        try:
            await while_there(receive, self._all(scope, receive, send))
        except (ClientGone, OSError):  # some servers tell it by the one, some by the other
            self.endpoint.metrics.gone.labels(asked.model).inc()
            asked.status = 499
        finally:
            self.endpoint._done(asked)

    async def _all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._pass_on(send)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            if not isinstance(error, Refused):
                self.endpoint._tell_fault(self.asked, error)
                error = Refused(500, "a fault of this server; see its log", code="internal")
            response = self.endpoint._refused(self.asked, error)
            self.asked.status = error.status
            if not self.begun:
                response.headers["x-request-id"] = self.asked.id
                await response(scope, receive, send)
                return
            await _write(send, event(error.body) + DONE)
        if self.begun:
            await _write(send, b"", more=False)

    async def _pass_on(self, send: Send) -> None:
        answers: dict[int, Answer] = {}
        opened: set[int] = set()
        n = self.writer.request.n or 1
        kept = _kept_alive(self.events, self.endpoint.limits.keepalive_seconds)
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
                elif told := self.writer.told(index, news):
                    await _write(send, told)
        await _write(send, self.writer.ended([answers[place] for place in range(n)]))


async def _write(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _kept_alive(
    events: AsyncGenerator[tuple[int, T], None], seconds: float
) -> AsyncGenerator[tuple[int, T | None], None]:
    """The same, and (0, None) whenever there was nothing for so long."""
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
    """Do some work as long as the client is there. Raises ClientGone, once the work is cancelled, when it goes."""

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


async def _not_found(request: Request, error: Any) -> Response:
    status = error.status_code
    why = "there is nothing here" if status == 404 else f"{request.method} is not answered here"
    refused = Refused(status, why, code="not_found" if status == 404 else "method_not_allowed", headers=error.headers)
    return JSONResponse(refused.body, status, refused.headers)


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
