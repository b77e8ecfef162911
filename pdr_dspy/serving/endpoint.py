"""The DSPy language model of any OpenAI-compatible server.

    lm = connect("auto", "http://127.0.0.1:8000/v1", temperature=0.8, max_tokens=512)
    lm.check_sync()                      # raises EndpointError if the server is dead, foreign, or lacks the model
    dspy.configure(lm=lm)

Each request states every setting that determines its sample (temperature, token cap, seed). Usage that the server does
not report stays None; nothing is estimated here.

There is one retry layer: 429 and 503 (with their Retry-After), other 5xx, lost connections, truncated responses and
silent servers are retried after 50 to 200 ms (decorrelated jitter), up to four times and within `timeout`; any other
4xx is an error at once. The number of concurrent requests falls when a server refuses some, and rises again when it
accepts them. A response that took several tries reports them in `provider_data["pdr"]`: "tries", and "unsettled", the
number of tries that the server may have served and counted although no response arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15

from pdr_dspy.arguments import explained_with
from pdr_dspy.calls import Capabilities, ServedModel
from pdr_dspy.errors import ConfigError, EndpointError, MissingExtra
from pdr_dspy.runtime import event_loop, luggage
from pdr_dspy.serving.client import pooled
from pdr_dspy.serving.client.engine import AsyncOpenAIEngine
from pdr_dspy.serving.client.failures import Exchanged, Foreign, Outcome, judge
from pdr_dspy.serving.client.identity import Served
from pdr_dspy.serving.client.models import Server, in_common
from pdr_dspy.serving.client.sync import OpenAIEngine
from pdr_dspy.serving.settings import EndpointSettings

_CLASS_KEY = "_dspy_lm_class"
_COUNTS_KEPT = 4096


class EndpointLM(dspy.LM, ServedModel):
    """A dspy.LM over one endpoint; build it with connect(). Copies share the connections.

    `lm.model` identifies the endpoint, not only the model: it has the full address and a digest of key and headers, so
    that two deployments with one model name never share an entry of DSPy's cache. Requests carry `lm.served_model`;
    `await lm.capabilities()` reports the server's actual model and abilities.
    """

    settings: EndpointSettings
    _async: AsyncOpenAIEngine
    _counts: OrderedDict[bytes, int]
    _tokenizer: Any
    _adapted: dict[str, tuple[dict[str, Any], EndpointLM]]

    @property
    def api_base(self) -> str:
        """The API base of the first replica, without a trailing slash; it ends in /v1 for most servers."""
        return self.settings.api_base[0]

    @property
    def api_bases(self) -> tuple[str, ...]:
        """The API bases of all replicas."""
        return self.settings.api_base

    @property
    def served_model(self) -> str:
        """The model name in requests; "auto" until the server has reported it."""
        return self._async.served.model

    @property
    def refused_formats(self) -> set[str]:
        """Kinds and keys of the output formats that the server has refused: it is asked without them. Copies of the LM
        share what they have learned."""
        return self._async.served.refused_formats

    @property
    def identity(self) -> str:
        """The identity of the served model, for stores, as far as it is known without a request; `await capabilities()`
        asks the server."""
        return f"endpoint/{self._async.served.identity or self.settings.named(self.served_model)}"

    async def capabilities(self) -> Capabilities:
        """The identity and abilities of the served model. The server is asked once, and again after a lost connection
        or a long silence.

        Raises EndpointError when the served model has changed, or when replicas serve different weights.
        """
        try:
            return await self._async.served.capabilities()
        except Exchanged as error:
            raise EndpointError(error.message) from error

    async def identify(self) -> str:
        """The identity of the served model, as in `capabilities()`."""
        return (await self.capabilities()).identity

    def capabilities_sync(self) -> Capabilities:
        """capabilities() for synchronous code."""
        return event_loop.run(self.capabilities)

    async def check(self) -> None:
        """Ask every replica again for its models, and replace what is known of them.

        Raises EndpointError if a replica is dead, not OpenAI-compatible, or lacks the model, or if replicas serve
        different weights. Waits for a server that is loading its model, within `timeout`.
        """
        served = self._async.served
        servers = await _ask(served)
        try:
            await served.take(servers)
        except Exchanged as error:
            raise EndpointError(error.message) from error
        common = in_common(list(servers.values()))
        if served.model == "auto":
            raise EndpointError(
                f'`connect("auto", ...)` needs a server with one model; {served.where} serves {_listed(common.models)}'
            )
        if served.model not in common.models:  # llama.cpp would answer anyway, with its own model
            one = len(self.api_bases) == 1
            which = f"at {served.where}, which has" if one else f"by all of {served.where}; together they have"
            raise EndpointError(f"`model={served.model!r}` is not served {which} {_listed(common.models)}")
        adapter = self.settings.adapter
        if adapter is not None and common.kind in ("llama.cpp", "vllm") and not common.has(adapter):
            raise EndpointError(
                f"`adapter={adapter!r}` is not one of {served.where}, which has {_listed(common.adapter_names)}"
            )

    def check_sync(self) -> None:
        """check() for synchronous code."""
        event_loop.run(self.check)

    def with_adapter(self, name: str) -> EndpointLM:
        """The LM of an adapter that the server has beside this model (see `EndpointSettings.adapter`), with the same
        sampling; the same object each time. Opens no connection.

        Raises ConfigError if this LM is already one of an adapter.
        """
        if self.settings.adapter is not None:
            raise ConfigError(f"`with_adapter({name!r})`: {self.model} is already a model with an adapter")
        known = self._adapted.get(name)
        if known is None or known[0] != self.kwargs:
            mark = self.settings.adapters.get(name)
            whole = (
                None if self.settings.identity is None or mark is None else f"{self.settings.identity}:{name}:{mark}"
            )
            base = {"model": self.served_model, "adapter": name, "identity": whole}
            lm = _lm(self.settings.model_copy(update=base))
            lm.kwargs = dict(self.kwargs)
            known = self._adapted[name] = (dict(self.kwargs), lm)
        return known[1]

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Return the number of tokens of each text, without special tokens, or None without a tokenizer.

        Uses the server's /tokenize (vLLM, llama.cpp), else the `tokenizer=` given to connect(). Counts are cached.
        Raises MissingExtra if a tokenizer was given and the `tokenizers` package is not installed.
        """
        keys = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._counts}
        if missing:
            counted = await self._count(list(missing.values()))
            if counted is None:
                return None
            self._counts.update(zip(missing, counted, strict=True))
        counts = [self._counts[key] for key in keys]
        for key in keys:
            self._counts.move_to_end(key)
        while len(self._counts) > _COUNTS_KEPT:
            self._counts.popitem(last=False)
        return counts

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """POST to another endpoint than completions, such as vLLM's /classify, beside the API base's /v1.

        The model's name is added to the body. Retries, timeouts and replicas are those of a completion. Returns the
        JSON object of the response, and its tries. Raises the lm15 errors.
        """
        return await pooled.post(self._async, path, body)

    async def send_directly(self, request: lm15.Request) -> lm15.Response:
        """Send one request without DSPy's callbacks, history, usage tracking and cache. Raises the lm15 errors."""
        return await self._async.complete(request)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for _, lm in self._adapted.values():
            await lm.aclose()
        await self._async.aclose()
        await super().aclose()

    def close(self) -> None:
        """Close the connections of all synchronous and asynchronous calls."""
        for _, lm in self._adapted.values():
            lm.close()
        self._async.close()
        super().close()

    def dump_state(self) -> dict[str, Any]:
        """Return the arguments of connect() that rebuild this LM, without the API key."""
        return {
            _CLASS_KEY: f"{EndpointLM.__module__}.{EndpointLM.__qualname__}",
            "model": self.model,
            "endpoint": {**self.settings.saved(), "model": self.served_model},
            "sampling": {key: value for key, value in self.kwargs.items() if key != "api_key"},
        }

    @classmethod
    def load_state(cls, state: dict[str, Any], *, allow_custom_lm_class: bool = False) -> EndpointLM:
        """Build an LM from a dump_state(), without its API key. Opens no connection."""
        lm = _lm(EndpointSettings(**state["endpoint"]))
        lm.model, lm.kwargs = state["model"], dict(state["sampling"])
        return lm

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, for `program.save(..., save_program=True)`, as what `dump_state` says: no connections, no key. Key,
        headers and proxy travel beside what is pickled for another process of this run."""
        packing = luggage.packing()
        if packing is None:
            return type(self).load_state, (self.dump_state(),)
        secret = {name: getattr(self.settings, name) for name in ("api_key", "headers", "proxy")}
        return _unpacked, (self.dump_state(), packing.leave(secret))

    def __deepcopy__(self, memo: dict[int, Any]) -> EndpointLM:
        copied = self.copy()
        memo[id(self)] = copied
        return copied

    async def _count(self, texts: list[str]) -> list[int] | None:
        served, transport = self._async.served, self._async.transport
        server = await served.probe()
        if server is not None and server.kind != "other":
            # vLLM reads `prompt`, llama.cpp reads `content`; each ignores the other's field.
            bodies = [
                {"model": served.model, "prompt": text, "content": text, "add_special_tokens": False} for text in texts
            ]
            try:
                answers = await asyncio.gather(*(transport.post_json("/tokenize", body) for body in bodies))
                return [_token_count(answer) for answer in answers]
            except (lm15.LM15Error, ValueError):
                pass  # a proxy may forward completions only
        if self.settings.tokenizer is None:
            return None
        if self._tokenizer is None:
            self._tokenizer = await asyncio.to_thread(_load_tokenizer, self.settings.tokenizer)
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


@explained_with(lambda: (*EndpointSettings.model_fields, "extra_headers"))
def connect(
    model: str,
    api_base: str | Sequence[str],
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
    max_completion_tokens: int | None = None,
    seed: int | None = None,
    top_p: float | None = None,
    settings: EndpointSettings | None = None,
    **more: Any,
) -> EndpointLM:
    """Return the dspy.LM of `model` at `api_base`. Opens no connection; call check() to find faults early.

    Args:
        model: the served name, or "auto" for the only model that the server has, adapters aside.
        api_base: an address such as "http://127.0.0.1:8000/v1", or several replicas of the same model.
        temperature: default of requests without a temperature; 1 if omitted.
        max_tokens: default cap on the generated tokens of a request; 1024 if omitted.
        max_completion_tokens: the same cap for hosted reasoning models (OpenAI's o-series), which require this name and
            accept no temperature: none is sent unless it is given here.
        seed, top_p: sent only if given.
        settings: settings that `more` modifies, such as those of another connection.
        more: fields of `EndpointSettings`, documented there: `api_key`, `headers` (or `extra_headers`),
            `proxy`, `ca_file`, `timeout`, `first_byte`, `max_in_flight`, `siblings`, `max_siblings`, `context_length`,
            `tokenizer`, `thinking_budget`, `token_field`, `supports_reasoning`, `supports_schema`, `constrained`,
            `identity`, `adapter`, `adapters`.

    Raises:
        ConfigError: an argument is unknown or invalid.
    """
    if max_tokens is not None and max_completion_tokens is not None:
        raise ConfigError(
            f"`connect(max_tokens={max_tokens!r}, max_completion_tokens={max_completion_tokens!r})` are one cap under "
            "two names: give one"
        )
    for name, value in (("max_tokens", max_tokens), ("max_completion_tokens", max_completion_tokens)):
        if value is not None and not value > 0:
            raise ConfigError(f"`connect({name}={value!r})` must be above 0")
    if temperature is not None and not 0 <= temperature <= 2:
        raise ConfigError(f"`connect(temperature={temperature!r})` must be in [0, 2]")
    sampling: dict[str, Any] = {"temperature": temperature, "seed": seed, "top_p": top_p}
    if max_completion_tokens is None:
        sampling |= {"temperature": 1.0 if temperature is None else temperature, "max_tokens": max_tokens or 1024}
    else:
        sampling["max_completion_tokens"] = max_completion_tokens
        more = {"token_field": "max_completion_tokens", **more}
    started = {} if settings is None else settings.model_dump()
    chosen = EndpointSettings(**{**started, **more, "model": model, "api_base": api_base})
    return _lm(chosen, **{name: value for name, value in sampling.items() if value is not None})


def _lm(settings: EndpointSettings, near: Collection[str] = (), **sampling: Any) -> EndpointLM:
    asynchronous = AsyncOpenAIEngine(settings, near)
    synchronous = OpenAIEngine(
        asynchronous, reasoning=settings.supports_reasoning, response_schema=settings.supports_schema
    )
    lm = EndpointLM(
        f"endpoint/{settings.named(settings.model)}",
        cache=False,
        num_retries=0,
        engine=synchronous,
        async_engine=asynchronous,
        **sampling,
    )
    lm._async, lm._counts, lm._tokenizer, lm._adapted = asynchronous, OrderedDict(), None, {}
    lm.settings = settings
    return lm


def _unpacked(state: dict[str, Any], number: str) -> EndpointLM:
    """The LM that was pickled on its way here, with its key; one that came before lends its connections."""
    found = luggage.unpacking()
    secret = {} if found is None else found.secrets.get(number, {})
    settings = EndpointSettings(**{**state["endpoint"], **secret})
    known = {} if found is None else found.known
    first = known.get(repr((settings.saved(), settings.seal)))
    lm = _lm(settings, () if found is None else found.near) if first is None else first.copy()
    if first is None:
        known[repr((settings.saved(), settings.seal))] = lm
    lm.model, lm.kwargs = state["model"], dict(state["sampling"])
    return lm


def discover(api_base: str | Sequence[str], *, api_key: str | None = None) -> list[str]:
    """Return the model names that the server at `api_base` serves, or that all of several replicas serve.

    Raises EndpointError if a server is dead or not OpenAI-compatible, ConfigError if `api_base` is not a URL.
    """
    lm = connect("auto", api_base, api_key=api_key)
    try:
        return list(in_common(list(event_loop.run(lambda: _ask(lm._async.served)).values())).models)
    finally:
        lm.close()


async def _ask(served: Served) -> dict[str, Server]:
    """Ask every replica for its models. Raises EndpointError for the first that fails."""
    replies = await served.survey()
    for where, reply in replies.items():
        if isinstance(reply, Exception):
            raise _no_models_error(where, reply) from reply
    return {where: reply for where, reply in replies.items() if isinstance(reply, Server)}


def _no_models_error(where: str, error: Exception) -> EndpointError:
    """The EndpointError of a server that failed to list its models."""
    if isinstance(error, lm15.AuthError):
        return EndpointError(f"{where} refuses the API key (HTTP {error.status}): pass `connect(api_key=...)`")
    if isinstance(error, lm15.LM15Error) and judge(error) is Outcome.LOADING:
        return EndpointError(f"{where} is still loading its model ({error.message}); raise `timeout` to wait longer")
    if isinstance(error, (lm15.TransportError, lm15.TimeoutError)):
        return EndpointError(f"{error.message}. Is the server running, and is `api_base` right?")
    if isinstance(error, Foreign) and (error.status or 0) < 400:
        return EndpointError(error.message)
    status = f"HTTP {error.status}" if isinstance(error, lm15.LM15Error) else "no list of models"
    right = "Is it the right address?" if re.search(r"/v\d+(/|$)", where) else f"It usually ends in /v1: {where}/v1?"
    return EndpointError(f"{where} is not an OpenAI-compatible API: GET {where}/models gave {status}. {right}")


def _listed(models: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in models) if models else "no model"


def _token_count(answer: Any) -> int:
    if isinstance(answer, dict):
        if isinstance(answer.get("count"), int):
            return answer["count"]
        if isinstance(answer.get("tokens"), list):
            return len(answer["tokens"])
    raise ValueError("not a response of /tokenize")


def _load_tokenizer(name: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "embedded", f"`connect(tokenizer={name!r})`") from None
    try:
        return Tokenizer.from_file(name) if Path(name).is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the package raises bare Exception on every failure
        raise ConfigError(f"`connect(tokenizer={name!r})` cannot be loaded: {error}") from error
