"""What answers behind an LM and what it can do: one record, one question for it, and the protocol of served models.

Everything that the library wants to know of a language model beside its answers is in `await capabilities(lm)`. A
server class of a user's own says it by implementing `ServedModel`; of any other `dspy.LM` what its settings tell is
known, and the rest takes the values that are safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import dspy

from pdr_dspy.calls import dspy_bridge
from pdr_dspy.calls.context import current
from pdr_dspy.calls.deployment import address, seal
from pdr_dspy.calls.output_format import FormatKind, OutputFormat
from pdr_dspy.errors import ConfigError

ThinkingBudget = Literal["server", "continue", "cap"]
"""Who ends a thought that has used up its room: the server in the same request, the client in a second request that
continues the turn, or nobody but the cap."""


@dataclass(frozen=True)
class Capabilities:
    """What answers behind an LM, and what it can do. Unknown is None."""

    identity: str
    """What really answers: model, weights where the server names them, address, and a seal of what else selects a
    deployment. Two LMs of one identity may have each other's replies; it is a part of the key of every request."""
    known: bool = True
    """Whether the identity is all that decides the replies. False where only the object itself does, as of a function
    that plays a model: equal requests of two such objects that are under way at one time are both sent."""
    context_length: int | None = None
    """Tokens that prompt and completion may take together."""
    thinking_budget: ThinkingBudget = "cap"
    """Who ends a thought that has used up its room."""
    siblings: bool = False
    """Whether requests that carry the extension "pdr_siblings" are sent together as one request for n completions."""
    prompt_once: bool = False
    """Whether the n completions of such a request have their prompt counted once, by the first of them."""
    counts_tokens: bool = False
    """Whether `count_tokens` counts as the model does."""
    output_formats: frozenset[FormatKind] = field(default_factory=frozenset)
    """The kinds of `OutputFormat` that completions can be held to."""
    model_type: str = "chat"
    """DSPy's word for the API: "chat" or "responses"; "text" completes bare text, which no program here can use."""

    def constrains(self, output_format: OutputFormat) -> bool:
        """Whether completions can be held to a form."""
        return output_format.kind in self.output_formats

    def first_of(self, forms: Iterable[OutputFormat], *, thinking: int = 0) -> OutputFormat | None:
        """The first of some forms, best first, that completions can be held to; None for none of them.

        None too where there is room for a thought, of so many tokens, that the server does not end itself and so does
        not tell apart from the text: a form holds from the first token, and would cut it away.
        """
        if thinking and self.thinking_budget != "server":
            return None
        return next((form for form in forms if self.constrains(form)), None)


@runtime_checkable
class ServedModel(Protocol):
    """What a server class of a user's own implements beside being a `dspy.LM`, so that programs know it as they know an
    endpoint. Inherit it (`class MyLM(dspy.LM, ServedModel)`) to have the two methods with a default.

    >>> class MyLM(dspy.LM, ServedModel):
    ...     async def capabilities(self) -> Capabilities:
    ...         return Capabilities(identity="my-model:3f2a9c", context_length=32_768)

    Its requests are `dspy.lm15.Request`s. Two extensions (`request.config.extensions`) may be on them, if the record
    says that they are understood, and neither is for the wire: "pdr_siblings", `{"group": name, "size": n}` on requests
    that differ in their seeds alone and may share one request for n completions; and "pdr_output", an
    `OutputFormat.wire`. A method `send_directly(request)`, where there is one, answers a request past DSPy's own road,
    which costs time and changes of threads; it raises the errors of `dspy.lm15`.
    """

    async def capabilities(self) -> Capabilities:
        """The record. Asked before every stage of calls: what has to be fetched is fetched once.

        Raises EndpointError when the server is another one than before.
        """
        ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text, without special tokens; None when nobody can count them."""
        return None

    async def check(self) -> None:
        """Ask the server anew who it is, at the start of an evaluation or a search.

        Raises EndpointError, in one sentence, when it is dead, no such server, or lacks the model.
        """


async def capabilities(lm: dspy.BaseLM) -> Capabilities:
    """What answers behind an LM, and what it can do.

    Raises:
        EndpointError: the server is another one than the LM has talked to before.
        ConfigError: the LM's class implements `ServedModel` in part.
    """
    served = _served(lm)
    if served is not None:
        return await served.capabilities()
    formats: tuple[FormatKind, ...] = ("schema",) if await dspy_bridge.holds_to_schema(lm) else ()
    return replace(configured(lm), output_formats=frozenset(formats))


async def count_exactly(lm: dspy.BaseLM, texts: Sequence[str]) -> list[int] | None:
    """Tokens of each text as the model counts them; None when nobody can."""
    served = _served(lm)
    return None if served is None else await served.count_tokens(texts)


async def identities(predictors: Iterable[dspy.Predict], models: Iterable[dspy.LM] = ()) -> list[str]:
    """What answers the calls of these predictors and these models, each once, in order of their names; every server is
    asked anew.

    Raises EndpointError when one is dead, no such server, or lacks its model.
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
    """What the settings of an LM tell of it, without asking anybody."""
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
    """What two equal requests must have in common, beside their key, for one to wait for the other's reply."""
    return 0 if about.known else dspy_bridge.same_server(lm)


def _served(lm: dspy.BaseLM) -> ServedModel | None:
    if isinstance(lm, ServedModel):
        return lm
    if callable(getattr(type(lm), "capabilities", None)):
        missing: Any = [name for name in ("count_tokens", "check") if not callable(getattr(lm, name, None))]
        raise ConfigError(
            f"`{type(lm).__name__}` has `capabilities` and lacks {' and '.join(f'`{name}`' for name in missing)}: let "
            "it inherit `pdr_dspy.calls.ServedModel`, which has both"
        )
    return None
