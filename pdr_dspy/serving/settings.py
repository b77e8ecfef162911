"""EndpointSettings: all that `connect` can be told of a server, as one frozen value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from pdr_dspy.settings import Settings

ThinkingBudget = Literal["server", "continue", "cap"]
"""Who ends a thought that has used up its room."""
_COMPLETIONS = "/chat/completions"
_UNSAFE = ("\n", "\r", "\x00")


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
        bases.append(each.strip().rstrip("/").removesuffix(_COMPLETIONS).rstrip("/"))  # a pasted full address
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
    proxy: str | None = None
    """The URL of an HTTP proxy, or "env" for what `http_proxy`, `https_proxy` and `no_proxy` say. None uses none."""
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
    """Whether DSPy's adapters may use JSON schemas."""
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
        if self.api_key is not None and any(sign in self.api_key for sign in _UNSAFE):
            raise ValueError("`connect(api_key=...)` has a line break or NUL in it; was it read from a file with one?")
        for name, value in self.headers.items():
            if not name or any(sign in name + value for sign in _UNSAFE) or ":" in name:
                raise ValueError(f"`connect(headers=...)`: {name!r} cannot be an HTTP header")
        if self.tokenizer is not None and self.tokenizer.endswith(".json") and not Path(self.tokenizer).is_file():
            raise ValueError(f"`connect(tokenizer={self.tokenizer!r})` names no file")
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise ValueError(f"`connect(ca_file={self.ca_file!r})` names no file")
        if self.proxy not in (None, "env") and urlsplit(self.proxy or "").scheme not in ("http", "https"):
            raise ValueError(f'`connect(proxy={self.proxy!r})` must be a URL, "env", or None')
        return self

    @property
    def deployment(self) -> str:
        """What selects a deployment at the address, in twelve letters: the address itself, headers and key. A digest:
        nothing can be read out of it."""
        return digest([self.api_base[0], sorted(self.headers.items()), self.api_key or ""])

    @property
    def address(self) -> str:
        """Host, port and path of the first replica."""
        parts = urlsplit(self.api_base[0])
        return f"{parts.netloc.rpartition('@')[2]}{parts.path.removesuffix('/v1')}"

    def saved(self) -> dict[str, Any]:
        """What may be saved with a program: everything but secrets."""
        return self.model_dump(mode="json", exclude={"api_key", "headers"})


def digest(parts: Sequence[Any] | Mapping[str, Any]) -> str:
    """A keyed digest of some values, in twelve letters."""
    return hashlib.blake2b(repr(parts).encode(), key=b"pdr_dspy deployment", digest_size=6).hexdigest()
