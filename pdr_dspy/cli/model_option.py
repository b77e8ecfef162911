"""The model of a command: a server that runs already, or the embedded one, started for as long as the command runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dspy

from pdr_dspy.cli.display import Display
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM, Source

DEFAULT = "qwen2.5-coder-0.5b"
PROMPT_ROOM = 640
"""Tokens kept free for the task's own prompt in an embedded model's slot."""


@dataclass(frozen=True)
class Model:
    """Where the tokens come from."""

    api_base: str | Sequence[str] | None = None
    """Of one server, or of replicas with the same model."""
    name: str | None = None
    embedded: str | None = None
    sources: Sequence[str | Source] | None = None
    """Where weights of the embedded engine are looked for; None is everywhere that `pdr_dspy.serving.locate` does."""

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
        """What answers, for the name of a run folder: a server that runs already is asked, so that another model on its
        port gets a folder of its own. Raises EndpointError where that is dead or no API."""
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
        """Requests that may be open at once: a GPU server batches many, two cores do not."""
        return 64 * len(self.servers) or 8

    @property
    def servers(self) -> tuple[str, ...]:
        """The API bases of the servers that run already."""
        return (self.api_base,) if isinstance(self.api_base, str) else tuple(self.api_base or ())

    @contextmanager
    def serving(self, schedule: Schedule, display: Display, *, slots: int | None = None) -> Iterator[EndpointLM]:
        """Connect, or start the embedded server with room for `schedule`; the LM is DSPy's default inside.

        Raises EndpointError, ServerStartError, WeightsError or MissingExtra, each in one sentence.
        """
        if self.api_base:
            from pdr_dspy.serving import connect

            lm = connect(self.name or "auto", self.api_base)
            try:
                lm.check_sync()
                with dspy.context(lm=lm):
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
            with dspy.context(lm=server.lm):
                yield server.lm
        finally:
            server.stop()


def room(schedule: Schedule) -> int:
    """Tokens that one call of a schedule may take, rounded up to 256."""
    caps = (
        max(schedule.draft_tokens, schedule.kappa + max(schedule.refine_cap, schedule.distill_cap))
        + schedule.thinking_tokens
    )
    if schedule.rounds > 1 and schedule.distill_calls(0):  # a distiller reads all drafts of a round
        widest = max(schedule.widths) if schedule.agree is None else sum(schedule.widths[:-1])  # saved ones go on
        caps = max(caps, widest * (schedule.refine_cap + 16) + schedule.distill_cap)
    return -(-(caps + PROMPT_ROOM) // 256) * 256
