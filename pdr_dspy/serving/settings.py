"""EndpointSettings: all that `connect` can be told of a server, as one frozen value."""

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
"""What a pasted full address ends with."""
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _bases(api_base: Any) -> tuple[str, ...]:
    """The addresses of the replicas, without a slash at the end."""
    given = [api_base] if isinstance(api_base, str) else list(api_base)
    if not given:
        raise ValueError(f"`connect(api_base={api_base!r})` must name at least one server")
    bases = []
    for each in given:
        parts = urlsplit(each.strip()) if isinstance(each, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f'`connect(api_base={each!r})` must be a URL such as "http://127.0.0.1:8000/v1"')
        if parts.query or parts.fragment:
            raise ValueError(f"`connect(api_base={each!r})` must end with its path; leave out what follows `?` or `#`")
        if "@" in parts.netloc:
            raise ValueError(
                f"`connect(api_base=...)` has a user and password before {parts.netloc.rpartition('@')[2]}, where logs "
                'and messages would show them; pass `headers={"Authorization": "Basic ..."}`'
            )
        bases.append(_METHODS.sub("", each.strip().rstrip("/")).rstrip("/"))
    if len(set(bases)) < len(bases):
        raise ValueError(f"`connect(api_base={api_base!r})` names a server twice")
    return tuple(bases)


class EndpointSettings(Settings):
    """Where a model is served, and how it is asked; `connect` takes these fields by keyword.

    Raises ConfigError for an argument that cannot work.
    """

    model: str
    """The served name, or "auto" for the only model that the server has."""
    api_base: Annotated[tuple[str, ...], BeforeValidator(_bases)]
    """Such as "http://127.0.0.1:8000/v1", or several of them, which serve the same model: each request goes where the
    fewest are in flight, and one that is down is left out for a while."""
    api_key: str | None = Field(default=None, repr=False)
    """Sent as a bearer token. Never saved with a program."""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """More HTTP headers of each request, such as those that choose a deployment. Never saved with a program."""
    proxy: str | None = "env"
    """The URL of an HTTP proxy; "env" for what `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` say, which never
    holds for servers on this machine; None for none."""
    ca_file: str | None = None
    """A file of certificates (PEM) to trust beside the system's, for servers with certificates of your own."""
    timeout: float = 600.0
    """Seconds that one request may take, retries and the pauses between them included; the time that it waits in this
    client's own queue is not."""
    first_byte: float | None = None
    """Seconds without a byte from the server after which a try is given up and made again; None leaves it to `timeout`.
    A server that does not stream, and a single completion is not streamed, sends its first byte when all is generated:
    a request that needs longer than this never succeeds, so choose it well above the longest generation that
    `max_tokens` allows."""
    max_in_flight: int | None = None
    """HTTP requests of one event loop that may be open at once, over all replicas. None sends all that come until the
    server refuses some (429, 503) or lets them time out, and from then on as many at once as it was seen to take,
    rising again while it takes more."""
    siblings: bool | None = None
    """Whether requests marked as siblings go out as one request for n completions. None leaves it off until the server
    has been asked, and on if it is llama.cpp or vLLM. On llama.cpp it saves most of the work, which has no other way to
    read a prompt once. vLLM shares the prompt between single requests as well, by its prefix cache; there it saves the
    server n - 1 times reading HTTP, applying the template, tokenising and answering, and this client as much. Both give
    child i the seed of the request plus i, so the n completions are those of n single requests. The price: they come
    together, when the longest is done, and a retry repeats them all. Such a request that times out is made again one by
    one, so that what hangs costs its own draft alone."""
    max_siblings: int | None = None
    """The largest n; llama.cpp refuses more than it has slots."""
    context_length: int | None = None
    """Tokens of prompt and completion together; None asks the server when it is needed."""
    tokenizer: str | None = None
    """A `tokenizer.json` file or a hub name, to count tokens where the server has no /tokenize."""
    thinking_budget: ThinkingBudget | None = None
    """Who ends a thought that has used up `Schedule.thinking_tokens`. "server": vLLM does, in the same request, when it
    was started with --reasoning-parser or --reasoning-config; without them it refuses the field, and it does not say
    beforehand which it is. "continue": this client does, for a model that thinks between <think> tags, in a second
    request of the same turn that begins with the thought, closed; it takes a server that goes on with a message of the
    assistant's, as vLLM and llama.cpp do. "cap": nobody does, and a draft that is still thinking at its cap has failed.
    None: "continue" on vLLM and llama.cpp, else "cap"."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that carries the cap on generated tokens; hosted reasoning models take "max_completion_tokens"."""
    supports_reasoning: bool = False
    """Whether DSPy's adapters may use `reasoning_effort`."""
    supports_schema: bool = True
    """Whether DSPy's adapters may ask for JSON after a schema: False for a server that refuses `response_format`."""
    constrained: bool | None = None
    """Whether the server holds completions to a form: a selection of drafts, a judge's word, and the JSON of fields
    that could not be read (`Schedule.json_fallback`). None: vLLM and llama.cpp do, each asked in its own words. True:
    others do too, by `response_format`; one that refuses it is asked without from then on. False: none does."""
    identity: str | None = None
    """Names what is served, for stores that outlive the server. None: the model with what the server says it is made
    of, its whole address, and a digest of headers and key."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model:
            raise ValueError('`connect(model=...)` must name a served model, or be "auto"')
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
        """`extra_headers`, as DSPy and the clients of others call them, are the headers."""
        if isinstance(given, dict) and given.get("extra_headers") is not None:
            given = {**given, "headers": {**(given.get("headers") or {}), **given["extra_headers"]}}
        return (
            {key: value for key, value in given.items() if key != "extra_headers"} if isinstance(given, dict) else given
        )

    @property
    def address(self) -> str:
        """The whole address of the first replica."""
        return address(self.api_base[0])

    @property
    def seal(self) -> str:
        """A digest of key and headers, out of which nothing can be read; "" where there are none."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return seal(self.address, {**({"headers": headers} if headers else {}), "api_key": self.api_key or None})

    def named(self, model: str, made_of: str = "", weights: str | None = None) -> str:
        """The identity of a model here: its address, what the server says that it is made of, and the seal. A file that
        is known by its sha256 (`weights`) needs nothing else: it is the same wherever it is served."""
        if self.identity is not None:
            return self.identity
        if weights is not None:
            return f"{model}:{weights}"
        mark = f" #{self.seal}" if self.seal else ""
        return f"{model}@{self.address}{f' ({made_of})' if made_of else ''}{mark}"

    def saved(self) -> dict[str, Any]:
        """What may be saved with a program: everything but secrets."""
        secret = {"api_key", "headers"} | ({"proxy"} if "@" in (self.proxy or "") else set())
        return self.model_dump(mode="json", exclude=secret)


def _check_key(key: str | None) -> None:
    if not key:
        return
    if any(sign in key for sign in "\n\r\x00"):
        raise ValueError(
            "`connect(api_key=...)` has a line break or NUL in it; was it read from a file with one? Pass `key.strip()`"
        )
    if not all("!" <= sign <= "~" for sign in key):
        raise ValueError(
            "`connect(api_key=...)` has a space or another sign in it that no key has; was something else pasted too?"
        )
