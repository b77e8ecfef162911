"""What is known of an LM before it is called: where its requests go, which copies share them, what it can do.

Most of it is in private attributes of DSPy's LM.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import dspy
from dspy.clients.backend_selection import CLIENT_KEYS

from pdr_dspy.calls.dspy_bridge.own_forward import own_way


class Deployment(NamedTuple):
    """The destination of an LM's requests, as its settings give it."""

    address: str
    """An address; "" for the provider's default."""
    selectors: Mapping[str, Any]
    """Keys, headers, organizations and the like. Secrets: never shown or stored."""
    known: bool
    """Whether model, address and selectors alone determine the model that answers. False for an engine object and for
    methods that the user has overridden."""


def deployment(lm: dspy.BaseLM) -> Deployment:
    """The destination of an LM's requests, by its settings, the providers declared to DSPy, and the environment."""
    names = {*CLIENT_KEYS, "default_headers"} - {"timeout"}
    given = {name: value for name, value in lm.kwargs.items() if name in names and value is not None}
    bases = [given.pop("api_base", None), given.pop("base_url", None)]
    prefix = lm.model.partition("/")[0] if "/" in lm.model else "openai"
    bases += [os.environ.get(f"{prefix.upper()}_{name}") for name in ("API_BASE", "BASE_URL")]
    bases += [where for providers, where in _declared(lm) if prefix.replace("_", "-") in providers]
    base = next((each for each in bases if each), None)
    if base and "api_key" not in given and (key := os.environ.get(f"{prefix.upper()}_API_KEY")):
        given["api_key"] = key  # a gateway may select the model by it
    engine = getattr(lm, "_engine_spec", None)
    known = isinstance(engine, str) and type(lm).acall is dspy.BaseLM.acall and own_way(lm) is None
    return Deployment(str(base or ""), given, known and REPLACED.isdisjoint(vars(lm)))


def _declared(lm: dspy.BaseLM) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names and address of each provider that had been declared to DSPy when the LM was made."""
    for declared in getattr(lm, "_providers", None) or ():
        definition = declared.definition
        if definition.access.base_url:
            yield (definition.id, *definition.aliases), definition.access.base_url


def same_server(lm: dspy.BaseLM) -> int:
    """A number that all copies of one LM share and no other LM of this process has, even of the same name.

    Two LMs of one name may be two models: their pending requests are never joined.
    """
    engine = getattr(lm, "_engine_spec", None)
    return id(lm._engine_store if isinstance(engine, str) else engine if engine is not None else lm)  # type: ignore[attr-defined]


_SCHEMAS: WeakKeyDictionary[dspy.BaseLM, tuple[str, bool]] = WeakKeyDictionary()
"""By LM, together with the model it had."""


async def holds_to_schema(lm: dspy.BaseLM) -> bool:
    """Whether DSPy can make an LM's completions follow a JSON schema. DSPy may look that up in a list of models that
    it has to fetch first: done once for each LM, in a thread."""
    kept = _SCHEMAS.get(lm)
    if kept is None or kept[0] != lm.model:
        supported = own_way(lm) is None and await asyncio.to_thread(lambda: bool(lm.supports_response_schema))
        kept = _SCHEMAS[lm] = (lm.model, supported)
    return kept[1]


REPLACED = frozenset({"acall", "forward", "aforward"})
"""Methods that a user may have overridden on an LM."""
