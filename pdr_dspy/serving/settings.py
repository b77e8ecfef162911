"""EndpointSettings: all settings of `connect`, as one frozen value."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from pdr_dspy.calls import ThinkingBudget
from pdr_dspy.calls.deployment import address, seal
from pdr_dspy.settings import Settings

_METHODS = re.compile(r"/(?:chat/completions|completions|chat|responses|embeddings|models)/*$")
"""Path of the completions endpoint, which a pasted address may end with."""
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _bases(api_base: Any) -> tuple[str, ...]:
    """The addresses of the replicas, without a trailing slash."""
    if not isinstance(api_base, (str, list, tuple)):
        raise ValueError(
            f'`connect(api_base={api_base!r})` must be a URL such as "http://127.0.0.1:8000/v1", or a list'
        )
    given = [api_base] if isinstance(api_base, str) else list(api_base)
    if not given:
        raise ValueError(f"`connect(api_base={api_base!r})` must name at least one server")
    bases = []
    for each in given:
        parts = urlsplit(each.strip()) if isinstance(each, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f'`connect(api_base={each!r})` must be a URL such as "http://127.0.0.1:8000/v1"')
        if parts.query or parts.fragment:
            raise ValueError(f"`connect(api_base={each!r})` must end with its path; remove `?` or `#` and what follows")
        if "@" in parts.netloc:
            raise ValueError(
                f"`connect(api_base=...)` has a user and password before {parts.netloc.rpartition('@')[2]}, where logs "
                'and messages would show them; use `headers={"Authorization": "Basic ..."}`'
            )
        bases.append(_METHODS.sub("", each.strip().rstrip("/")).rstrip("/"))
    if len(set(bases)) < len(bases):
        raise ValueError(f"`connect(api_base={api_base!r})` names a server twice")
    return tuple(bases)


class EndpointSettings(Settings):
    """Where a model is served, and how requests are sent; `connect` takes these fields by keyword.

    Raises ConfigError for an invalid value.
    """

    model: str
    """The served name, or "auto" for the only model that the server has."""
    api_base: Annotated[tuple[str, ...], BeforeValidator(_bases)]
    """One address, such as "http://127.0.0.1:8000/v1", or several replicas of the same model. Each request goes to the
    replica with the fewest requests in flight; a replica that is down is skipped for a while."""
    api_key: str | None = Field(default=None, repr=False)
    """Sent as a bearer token. Never saved with a program."""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """Additional HTTP headers of each request, for example to select a deployment. Never saved with a program."""
    proxy: str | None = "env"
    """The URL of an HTTP proxy; "env" for the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, which
    are ignored for servers on this machine; None for no proxy."""
    ca_file: str | None = None
    """A PEM file of certificates to trust beside the system's, for servers with self-issued certificates."""
    timeout: float = 600.0
    """Seconds that one request may take, with its retries and the pauses between them, without its time in this
    client's queue."""
    first_byte: float | None = None
    """Seconds without a byte from the server after which a request is abandoned and retried; None: only `timeout`
    applies. Single completions are not streamed, so their first byte comes after the whole generation: a request that
    needs longer never succeeds. Choose it well above the longest generation that `max_tokens` allows."""
    max_in_flight: int | None = None
    """Largest number of concurrent HTTP requests of one event loop, over all replicas. None sends all requests at once
    until the server refuses some (429, 503) or lets them time out; it then adapts the number to the server's observed
    capacity, and raises it again while the server accepts more."""
    siblings: bool | None = None
    """Whether to send requests marked as siblings as one request for n completions. None: only after the server has
    identified itself as llama.cpp or vLLM. On llama.cpp this saves the most, since it has no other way to process a
    prompt once. vLLM shares the prompt between single requests through its prefix cache; there it saves n - 1 times the
    HTTP, templating, tokenising and answering, on the server and here. Both give child i the seed of the request plus
    i, so the completions equal those of n single requests. The cost: they arrive together, with the longest, and a
    retry repeats all of them. If the request times out, it is retried as single requests, so that a hanging completion
    costs only its own draft."""
    max_siblings: int | None = None
    """The largest n of one request; llama.cpp refuses more than it has slots."""
    context_length: int | None = None
    """Tokens of prompt and completion together; None reads it from the server on demand."""
    tokenizer: str | None = None
    """A `tokenizer.json` file or a hub name, to count tokens if the server has no /tokenize."""
    thinking_budget: ThinkingBudget | None = None
    """How a thought that has used up `Schedule.thinking_tokens` is ended. "server": by vLLM, in the same request; needs
    a server started with --reasoning-parser or --reasoning-config, since others refuse the field and cannot be detected
    beforehand. "continue": by this client, for a model that thinks between <think> tags, in a second request that
    continues the same turn after the closed thought; needs a server that continues an assistant message, as vLLM and
    llama.cpp do. "cap": not at all; a draft that is still thinking at its cap has failed. None: "continue" on vLLM and
    llama.cpp, else "cap"."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The request field of the cap on generated tokens; hosted reasoning models use "max_completion_tokens"."""
    supports_reasoning: bool = False
    """Whether DSPy's adapters may use `reasoning_effort`."""
    supports_schema: bool = True
    """Whether DSPy's adapters may request JSON with a schema: False for a server that refuses `response_format`."""
    constrained: bool | None = None
    """Whether to use constrained decoding for selections of drafts, verdicts of judges, and the JSON of fields that
    could not be read (`Schedule.json_fallback`). None: on vLLM and llama.cpp, through their own fields. True: on any
    server, through `response_format`; a server that refuses it gets requests without it from then on. False: never."""
    identity: str | None = None
    """The identity of the served model, for stores that outlive the server. None: composed of the model's name, what
    the server reports of its weights, the address, and a digest of headers and key."""
    adapter: str | None = None
    """The name of a LoRA adapter that the server has beside the model: on vLLM and SGLang as in `--lora-modules
    NAME=PATH`, on llama.cpp the stem of its file. Start llama.cpp with `--lora-scaled FILE:0`: at another scale the
    adapter is part of the model for all requests that name none."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """By the name of an adapter, what identifies its weights beside `identity`, for stores that outlive the server."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model:
            raise ValueError('`connect(model=...)` must name a served model, or be "auto"')
        if self.adapter is not None and not self.adapter.strip():
            raise ValueError(f"`connect(adapter={self.adapter!r})` must name an adapter, or be None")
        if not self.timeout > 0:
            raise ValueError(f"`connect(timeout={self.timeout!r})` must be above 0")
        if self.first_byte is not None and not self.first_byte > 0:
            raise ValueError(f"`connect(first_byte={self.first_byte!r})` must be above 0, or None")
        for name in ("max_in_flight", "max_siblings", "context_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`connect({name}={value!r})` must be at least 1, or None")
        _check_key(self.api_key)
        for name, value in self.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or _UNSAFE.search(value):
                raise ValueError(f"`connect(headers=...)`: {name!r} cannot be an HTTP header")
            if self.api_key and name.lower() == "authorization":
                raise ValueError(
                    "`connect(api_key=..., headers=...)` has two keys: leave `Authorization` out of `headers`"
                )
        if self.tokenizer is not None and self.tokenizer.endswith(".json") and not Path(self.tokenizer).is_file():
            raise ValueError(f"`connect(tokenizer={self.tokenizer!r})` names no file")
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise ValueError(f"`connect(ca_file={self.ca_file!r})` names no file")
        if self.ca_file is not None:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except (ssl.SSLError, OSError, ValueError) as error:
                raise ValueError(f"`connect(ca_file={self.ca_file!r})` holds no certificates (PEM): {error}") from error
        if self.proxy not in (None, "env") and urlsplit(self.proxy or "").scheme not in ("http", "https"):
            raise ValueError(f'`connect(proxy={self.proxy!r})` must be a URL, "env", or None')
        return self

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, given: Any) -> Any:
        """Accept `extra_headers`, the name of DSPy and other clients, as `headers`."""
        if isinstance(given, dict) and given.get("extra_headers") is not None:
            given = {**given, "headers": {**(given.get("headers") or {}), **given["extra_headers"]}}
        return (
            {key: value for key, value in given.items() if key != "extra_headers"} if isinstance(given, dict) else given
        )

    @property
    def address(self) -> str:
        """The full address of the first replica."""
        return address(self.api_base[0])

    @property
    def seal(self) -> str:
        """A one-way digest of key and headers; "" without any."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return seal(self.address, {**({"headers": headers} if headers else {}), "api_key": self.api_key or None})

    def named(self, model: str, made_of: str = "", weights: str | None = None) -> str:
        """The identity of a model: its name, address, `made_of` (what the server reports of its weights) and the seal.
        For a file of known sha256 (`weights`) name and digest suffice: it is the same on every server."""
        if self.identity is not None:
            return self.identity
        model = model if self.adapter is None else f"{model}:{self.adapter}"
        if weights is not None:
            return f"{model}:{weights}"
        mark = f" #{self.seal}" if self.seal else ""
        return f"{model}@{self.address}{f' ({made_of})' if made_of else ''}{mark}"

    def saved(self) -> dict[str, Any]:
        """All settings without secrets, to be saved with a program."""
        secret = {"api_key", "headers"} | ({"proxy"} if "@" in (self.proxy or "") else set())
        return self.model_dump(mode="json", exclude=secret)


def _check_key(key: str | None) -> None:
    if not key:
        return
    if any(sign in key for sign in "\n\r\x00"):
        raise ValueError("`connect(api_key=...)` contains a line break or NUL, perhaps from a file; pass `key.strip()`")
    if not all("!" <= sign <= "~" for sign in key):
        raise ValueError(
            "`connect(api_key=...)` contains a space or a non-ASCII character, which no key has; check what was pasted"
        )
