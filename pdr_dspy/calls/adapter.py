"""A low-rank adapter of the model that a program uses otherwise, by its served name."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.lm15 import Request, Response

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError

NAMED = "adapter/"
"""Begins the name of an `Adapter`, which is followed by the adapter's own."""


class Adapter(dspy.LM):
    """The adapter `name` of whichever model a program's drafts use, for `models={...}`.

    >>> program = PDR(
    ...     "question -> answer",
    ...     distiller="topk",
    ...     distill_model="picker",
    ...     models={"picker": Adapter("picker")},
    ... )

    The drafts stay those of the untouched model: only the roles whose model it is are served by the adapter. It names
    no server, so that it is saved and loaded with the program, and serves with any LM that has `with_adapter(name)`, as
    those of `serving.connect` do.
    """

    @explained
    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"`Adapter({name!r})` must be the name under which the server has the adapter")
        alone, asynchronous = _Alone(name), _AsyncAlone(name)
        super().__init__(f"{NAMED}{name}", engine=alone, async_engine=asynchronous, cache=False, num_retries=0)
        self.name = name

    def on(self, base: Any) -> dspy.LM:
        """The model with the adapter. Raises ConfigError if `base` cannot name adapters."""
        if not callable(getattr(base, "with_adapter", None)):
            raise ConfigError(
                f"`Adapter({self.name!r})` needs a model that serves adapters, such as `serving.connect(model, "
                f"api_base)`, got {getattr(base, 'model', base)!r}"
            )
        return base.with_adapter(self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapter:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Adapter, (self.name,)


class _Alone:
    """DSPy's engine of an adapter without its model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def complete(self, request: Request) -> Response:
        raise _alone(self.name)

    def close(self) -> None:
        """Does nothing: there is no connection to close."""


class _AsyncAlone:
    """The same for asynchronous calls."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(self, request: Request) -> Response:
        raise _alone(self.name)

    async def aclose(self) -> None:
        """Does nothing: there is no connection to close."""


def _alone(name: str) -> ConfigError:
    return ConfigError(
        f"`Adapter({name!r})` is an adapter of a program's model, and none is set: call "
        "`dspy.configure(lm=pdr_dspy.serving.connect(model, api_base))` first, and use the adapter as one of a "
        f'program\'s `models`: `PDR(..., distill_model="{name}", models={{"{name}": Adapter("{name}")}})`'
    )
