"""The model behind an LM and its features: one record, one function that returns it, and the protocol of served models.

`await capabilities(lm)` gives everything that the library needs to know about a language model besides its replies. A
user's server class provides the record by implementing `ServedModel`; for any other `dspy.LM` it is derived from the
LM's settings, with safe values for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import dspy

from pdr_dspy.calls import dspy_bridge
from pdr_dspy.calls.context import current
from pdr_dspy.calls.deployment import address, seal
from pdr_dspy.calls.output_format import FormatKind, OutputFormat
from pdr_dspy.errors import ConfigError

ThinkingBudget = Literal["server", "continue", "cap"]
"""Which side ends a thought that has used up its budget: the server within the same request, the client with a second
request that continues the turn, or neither (only the cap ends it)."""


@dataclass(frozen=True)
class Capabilities:
    """The model behind an LM and its features. Unknown is None."""

    identity: str
    """Identifies the model: its name, its weights where the server names them, the address, and a digest of everything
    else that selects a deployment. LMs with equal identities share replies; it is part of the key of every request."""
    known: bool = True
    """Whether the identity alone determines the replies. False where the object itself does, such as a function that
    plays a model: equal requests to two such objects are both sent, even at the same time."""
    context_length: int | None = None
    """The most tokens of prompt and completion together."""
    thinking_budget: ThinkingBudget = "cap"
    """Which side ends a thought that has used up its budget."""
    siblings: bool = False
    """Whether requests with the extension "pdr_siblings" are sent together as one request for n completions."""
    prompt_once: bool = False
    """Whether the prompt of such a request is counted once, with the first of its n completions."""
    counts_tokens: bool = False
    """Whether `count_tokens` counts as the model does."""
    output_formats: frozenset[FormatKind] = field(default_factory=frozenset)
    """The kinds of `OutputFormat` that the server can enforce."""
    model_type: str = "chat"
    """DSPy's name of the API: "chat" or "responses"; "text" completes bare text, which no program here can use."""

    def constrains(self, output_format: OutputFormat) -> bool:
        """Whether the server can enforce this format."""
        return output_format.kind in self.output_formats

    def first_of(self, forms: Iterable[OutputFormat], *, thinking: int = 0) -> OutputFormat | None:
        """The first of some formats, best first, that the server can enforce; None if it can enforce none.

        Also None if `thinking` tokens are reserved for a thought that the server neither ends nor separates from the
        text: a format applies from the first token and would cut the thought away.
        """
        if thinking and self.thinking_budget != "server":
            return None
        return next((form for form in forms if self.constrains(form)), None)


@runtime_checkable
class ServedModel(Protocol):
    """The methods that a user's server class implements, besides being a `dspy.LM`, to work with programs as an
    endpoint does. Inherit from it (`class MyLM(dspy.LM, ServedModel)`) for the default of two methods.

    >>> class MyLM(dspy.LM, ServedModel):
    ...     async def capabilities(self) -> Capabilities:
    ...         return Capabilities(identity="my-model:3f2a9c", context_length=32_768)

    Requests to it are `dspy.lm15.Request`s. They may carry two extensions (`request.config.extensions`) if the record
    declares support for them; neither is sent to the server: "pdr_siblings", `{"group": name, "size": n}`, on requests
    that differ only in their seeds and may share one request for n completions; and "pdr_output", an
    `OutputFormat.wire`. An optional method `send_directly(request)` answers a request without DSPy's call machinery,
    which costs time and thread switches; it raises the errors of `dspy.lm15`.
    """

    async def capabilities(self) -> Capabilities:
        """The record. Called before every stage of calls: cache what has to be fetched.

        Raises EndpointError when the server now serves another model.
        """
        ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text, without special tokens; None when they cannot be counted."""
        return None

    async def check(self) -> None:
        """Query the server's identity again, at the start of an evaluation or a search.

        Raises EndpointError, in one sentence, when the server is down, is not a model server, or lacks the model.
        """


async def capabilities(lm: dspy.BaseLM) -> Capabilities:
    """The model behind an LM and its features.

    Raises:
        EndpointError: the server now serves another model than in earlier calls of this LM.
        ConfigError: the LM's class implements only a part of `ServedModel`.
    """
    served = _served(lm)
    if served is not None:
        return await served.capabilities()
    formats: tuple[FormatKind, ...] = ("schema",) if await dspy_bridge.holds_to_schema(lm) else ()
    return replace(configured(lm), output_formats=frozenset(formats))


async def count_exactly(lm: dspy.BaseLM, texts: Sequence[str]) -> list[int] | None:
    """Tokens of each text as the model counts them; None when they cannot be counted."""
    served = _served(lm)
    return None if served is None else await served.count_tokens(texts)


async def identities(predictors: Iterable[dspy.Predict], models: Iterable[dspy.LM] = ()) -> list[str]:
    """The identities of the models that these predictors call, and of `models`, without duplicates, in sorted order.
    Every server is queried again.

    Raises EndpointError when a server is down, is not a model server, or lacks its model.
    """
    chosen = current().serves
    used = [chosen.get(id(predictor)) or predictor.lm or dspy.settings.lm for predictor in predictors]
    lms = {id(lm): lm for lm in (*used, *models) if lm}
    for lm in lms.values():
        served = _served(lm)
        if served is not None:
            await served.check()
    return sorted({(await capabilities(lm)).identity for lm in lms.values()})


def configured(lm: dspy.BaseLM) -> Capabilities:
    """The capabilities that the settings of an LM imply, without any request."""
    deployment = dspy_bridge.deployment(lm)
    where = address(deployment.address) if deployment.address else ""
    mark = seal(where, deployment.selectors)
    identity = f"{lm.model}{f' at {where}' if where else ''}{f' #{mark}' if mark else ''}"
    return Capabilities(
        identity=identity,
        known=deployment.known,
        model_type=lm.model_type,
    )


def same_answerer(lm: dspy.BaseLM, about: Capabilities) -> int:
    """A value that two equal requests must share, besides their key, for one to wait for the other's reply."""
    return 0 if about.known else dspy_bridge.same_server(lm)


def is_served(lm: dspy.BaseLM) -> TypeGuard[ServedModel]:
    """Whether an LM has the methods of `ServedModel`, as `isinstance` says, which takes longer than reading a reply."""
    return _has_methods(type(lm)) or isinstance(lm, ServedModel)


@lru_cache(maxsize=64)
def _has_methods(kind: type[dspy.BaseLM]) -> bool:
    return issubclass(kind, ServedModel)


def _served(lm: dspy.BaseLM) -> ServedModel | None:
    if is_served(lm):
        return lm
    if callable(getattr(type(lm), "capabilities", None)):
        missing: Any = [name for name in ("count_tokens", "check") if not callable(getattr(lm, name, None))]
        raise ConfigError(
            f"`{type(lm).__name__}` has `capabilities` and lacks {' and '.join(f'`{name}`' for name in missing)}: let "
            "it inherit `pdr_dspy.calls.ServedModel`, which has both"
        )
    return None
