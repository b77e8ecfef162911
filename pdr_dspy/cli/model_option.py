"""The model of a command: on a running server, or the embedded one, started for the duration of the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dspy

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.heap import settled_heap
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM, Source

DEFAULT = "qwen2.5-coder-0.5b"
PROMPT_ROOM = 640
"""Tokens reserved for the task's own prompt in an embedded model's slot."""


@dataclass(frozen=True)
class Model:
    """The model that a command uses."""

    api_base: str | Sequence[str] | None = None
    """The address of one server, or of replicas with the same model."""
    name: str | None = None
    embedded: str | None = None
    sources: Sequence[str | Source] | None = None
    """Where to search for weights of the embedded engine; None searches everywhere that `pdr_dspy.serving.locate`
    does."""

    def __post_init__(self) -> None:
        if self.api_base and self.embedded:
            raise ConfigError(
                "`--api-base` and `--embedded` exclude each other: one names a running server, one starts it"
            )
        if self.name and not self.api_base:
            raise ConfigError("`--model` names a model of a running server: add `--api-base`, or use `--embedded`")

    def __str__(self) -> str:
        if self.api_base:
            return f"{self.name or 'auto'} at {self.servers[0]}"
        return f"{self.embedded or DEFAULT} (embedded)"

    def answering(self) -> str:
        """The model's identity, for the name of a run folder: a running server is queried, so that another model on its
        port gets a separate folder. Raises EndpointError if it is down or not an API."""
        if not self.api_base:
            return str(self)
        from pdr_dspy.serving import connect

        lm = connect(self.name or "auto", self.api_base)
        try:
            lm.check_sync()
            return lm.identity
        finally:
            lm.close()

    @property
    def in_flight(self) -> int:
        """Maximum requests in flight: a GPU server batches many, two cores do not."""
        return 64 * len(self.servers) or 8

    @property
    def servers(self) -> tuple[str, ...]:
        """The API bases of running servers."""
        return (self.api_base,) if isinstance(self.api_base, str) else tuple(self.api_base or ())

    @contextmanager
    def serving(self, schedule: Schedule, display: Display, *, slots: int | None = None) -> Iterator[EndpointLM]:
        """Connect, or start the embedded server with enough context for `schedule`; the LM is DSPy's default inside.

        Raises EndpointError, ServerStartError, WeightsError or MissingExtra, each in one sentence.
        """
        if self.api_base:
            from pdr_dspy.serving import connect

            lm = connect(self.name or "auto", self.api_base)
            try:
                lm.check_sync()
                with dspy.context(lm=lm), settled_heap():
                    yield lm
            finally:
                lm.close()
            return
        from pdr_dspy.serving import LlamaCppServer
        from pdr_dspy.serving.weights import SOURCES

        name = self.embedded or DEFAULT
        with display.status(f"starting {name}"):
            server = LlamaCppServer(
                name,
                slots=slots or min(4 * max(4, *schedule.widths), 32),  # several questions' drafts decode together
                context=room(schedule),
                progress=display.download,
                sources=SOURCES if self.sources is None else self.sources,
            ).start()
        try:
            with dspy.context(lm=server.lm), settled_heap():
                yield server.lm
        finally:
            server.stop()


def room(schedule: Schedule) -> int:
    """Maximum tokens of one call of a schedule, rounded up to 256."""
    caps = (
        max(schedule.draft_tokens, schedule.kappa + max(schedule.refine_cap, schedule.distill_cap))
        + schedule.thinking_tokens
    )
    if schedule.rounds > 1 and schedule.distill_calls(0):  # a distiller reads all drafts of a round
        widest = max(schedule.widths) if schedule.agree is None else sum(schedule.widths[:-1])  # saved ones go on
        caps = max(caps, widest * (schedule.refine_cap + 16) + schedule.distill_cap)
    return -(-(caps + PROMPT_ROOM) // 256) * 256
