"""The definition of a distiller, its input and its output (arXiv 2510.01123, section 3 and figure 2b).

A distiller takes the drafts of a round and the number of drafts of the next one, and returns that many workspaces (the
same object if they are shared). Candidates are shuffled with the stage's seed, so neither the order in which drafts
finished nor their indices matter. kappa is enforced by `workspace.fit`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from pdr_dspy.arguments import explained
from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers.tally import tally
from pdr_dspy.operators.workspace import Count, Draft, Workspace, candidates, fit
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime.raised_by import raised_by

ROLES = (Role.DISTILL, Role.SELECT)
"""The roles that a distiller may call."""


class Distilled(NamedTuple):
    """The output of a distiller."""

    workspaces: tuple[Workspace, ...]
    """One workspace for each draft of the next round."""
    calls: tuple[Call, ...] = ()
    """The calls made, if the distiller changes their records, for example to add a failure that only it can detect;
    empty leaves them as recorded."""


class Ask(Protocol):
    """Calls the model of the distiller's role."""

    async def __call__(self, values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
        """Make one call for each mapping, concurrently.

        Args:
            values: the inputs of each call besides the task's own, such as `{"candidates": text}`.
            forms: allowed formats of a reply, best first, for replies without reasoning: the first one that the server
                can enforce is used. They apply to the fields that the library gave the role; a predictor with changed
                outputs is not constrained.

        Returns the replies, in order. The reply of a failed call has the reason in `call.failure`.
        """
        ...


@dataclass(frozen=True)
class DistillerInput:
    """The input of a distiller."""

    drafts: tuple[Draft, ...]
    """The drafts of the round with text, in the order of their indices; at least one."""
    next_width: int
    """Number of drafts of the next round."""
    k: int
    """`Schedule.k`."""
    kappa: int
    """`Schedule.kappa`: maximum tokens of a workspace."""
    tally: bool
    """`Schedule.tally`; `workspace` and `admit` apply it."""
    seed: int
    ask: Ask
    """Calls the model; at most once for each round, with as many calls as the distiller's `calls` declares."""
    count: Count
    """Tokens of each text, as the serving model counts them."""
    room: int | None = None
    """Tokens that the model's context leaves for candidates in a distill call; None if unknown."""
    oracle: Callable[[Mapping[str, Any]], float] | None = None
    """Scores the outputs of a draft by the gold answer, in [0, 1]; None outside of an evaluation, and for a distiller
    that does not need it."""
    headings: tuple[str, ...] = ()
    """Labels of the task's inputs; solutions are quoted so that they cannot pass for one."""

    def rng(self, purpose: str) -> random.Random:
        """A separate generator for each purpose, the same in every run with this seed."""
        return random.Random(hashlib.sha256(f"{self.seed}|{purpose}".encode()).digest())

    def shuffled(self, purpose: str) -> list[Draft]:
        """The drafts in an order that is independent of the order in which they finished."""
        order = list(self.drafts)
        self.rng(purpose).shuffle(order)
        return order

    async def score(self, draft: Draft) -> float:
        """The score of a draft's outputs by the gold answer, in [0, 1]; graded in a thread.

        Raises ConfigError if there is no gold answer; `Distiller.needs_gold` requests it.
        """
        if self.oracle is None:
            raise ConfigError(
                "there is no gold answer: declare the distiller with `needs_gold=True`, and run it with "
                "`evaluate(program, examples, verifier)`"
            )
        oracle = self.oracle

        def score() -> float:
            with raised_by("the verifier"):
                return oracle(draft.outputs)

        return await asyncio.to_thread(score)

    async def shown(self, order: Sequence[Draft]) -> str:
        """All solutions as a distill call reads them: complete, unless the model's context is too small for them."""
        blocks = candidates(order, self.headings)
        if self.room is None:
            return "\n\n".join(blocks)
        text, _, _ = await fit(blocks, self.room, self.count, keep="end")
        return text

    async def admit(self, drafts: Sequence[Draft]) -> Workspace:
        """A workspace of these solutions, cut to kappa; empty if there are none."""
        blocks = candidates(drafts, self.headings)
        return await self.workspace(blocks, drafts, keep="end")

    async def workspace(
        self, blocks: Sequence[str], drafts: Sequence[Draft], *, keep: Literal["start", "end"]
    ) -> Workspace:
        """Texts derived from these drafts as a workspace, cut to kappa; a tally of the whole round, if the schedule
        requests one, comes first and stays complete if it fits."""
        kappa, head = self.kappa, tally(self.drafts) if self.tally else ""
        text, tokens, cut = await fit(blocks, kappa, self.count, keep=keep)
        if head and text:
            (room,) = await self.count([f"{head}\n\n"])
            while room < kappa:  # two texts together may have more tokens than both separately
                body, _, cut = await fit(blocks, kappa - room, self.count, keep=keep)
                joined = f"{head}\n\n{body}" if body else head
                (counted,) = await self.count([joined])
                if counted <= kappa:
                    text, tokens = joined, counted
                    break
                room += counted - kappa
        return Workspace(
            text=text, tokens=tokens, sources=tuple(draft.index for draft in drafts) if text else (), cut=cut
        )


Run = Callable[[DistillerInput], Awaitable[Distilled]]


def no_calls(next_width: int) -> int:
    """For a distiller that calls no model."""
    return 0


def one_call(next_width: int) -> int:
    """For a distiller whose one call serves all drafts of the next round."""
    return 1


def a_call_each(next_width: int) -> int:
    """For a distiller that calls the model for each draft of the next round."""
    return next_width


@explained
@dataclass(frozen=True)
class Distiller:
    """The properties of a distiller that schedule, loop, cost model, space, training and command line use.

    Raises ConfigError for settings that cannot work together.
    """

    name: str
    """Its name in a schedule."""
    run: Run
    role: Role | None = None
    """The role whose predictor it calls, `Role.DISTILL` or `Role.SELECT`; None for one that calls no model."""
    calls: Callable[[int], int] = no_calls
    """Concurrent model calls of a round, given the number of drafts of the next round. Budgets reserve this many."""
    uses_k: bool = False
    """Whether a workspace admits `Schedule.k` solutions, so that no distilled round may be narrower than k."""
    needs_gold: bool = False
    """Whether it uses the gold answer: for analyses by `evaluate`, never part of a search."""
    needs_check: bool = False
    """Whether it uses the result of the program's check for each draft (`Schedule.check`)."""
    chain: bool = False
    """Whether it passes on one solution as the state of a chain of single drafts, as Sequential Refinement does: all
    widths are 1, a critique is allowed, and there is nothing to tally."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"`Distiller(name={self.name!r})` must be a text")
        for field in ("run", "calls"):
            if not callable(getattr(self, field)):
                raise ConfigError(f"`Distiller({field}={getattr(self, field)!r})` must be a function")
        if not _is_async(self.run):
            raise self._not_async()
        if self.role is not None and self.role not in ROLES:
            raise ConfigError(f"`Distiller(role={self.role!r})` must be None or one of {', '.join(ROLES)}")
        most = self.calls(8)
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            raise ConfigError(f"`Distiller(calls=...)` must return a number of calls, got {most!r} for a width of 8")
        if (self.role is None) != (most == 0):
            raise ConfigError(
                f"`Distiller(name={self.name!r})` has `role={self.role and self.role.value!r}` and `calls` returns "
                f"{most} for a width of 8: a distiller that calls a model needs both, another neither"
            )

    def _not_async(self) -> ConfigError:
        return ConfigError(
            f"`Distiller(name={self.name!r}, run={self.run!r})`: a distiller must be an async function; define it with "
            f"`async def {getattr(self.run, '__name__', 'run').strip('<>')}(given)`"
        )

    @property
    def phase(self) -> Phase | None:
        """The phase of its calls on the ledger; None if it makes none."""
        return None if self.role is None else Phase(self.role.value)

    @property
    def description(self) -> str:
        """The first sentence of its docstring, for lists."""
        text = " ".join((self.run.__doc__ or "").split())
        return text.partition(". ")[0].rstrip(".")

    def solutions(self, k: int) -> int:
        """The approximate number of solutions in a workspace, for estimates of its size."""
        return k if self.uses_k or self.needs_gold else 1

    async def __call__(self, given: DistillerInput) -> Distilled:
        """Distill, and compare the result with the declared properties.

        Raises ConfigError if the gold answer is needed and not available, and for a distiller that makes more calls
        than it declares, or returns anything but a workspace of at most kappa tokens for each draft of the next round.
        """
        if self.needs_gold and given.oracle is None:
            raise ConfigError(
                f'`Schedule(distiller="{self.name}")` needs the gold answer: run it with '
                "`evaluate(program, examples, verifier)`, which provides it"
            )
        made: list[Call] = []
        n_made = 0

        async def ask(values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
            nonlocal n_made
            most = self.calls(given.next_width)
            if n_made or len(values) > most:
                raise ConfigError(
                    f"the distiller {self.name!r} makes {n_made + len(values)} calls{' in turn' if n_made else ''}, "
                    f"but declares {most} concurrent ones for {given.next_width} drafts; see `Distiller.calls`"
                )
            n_made += len(values)
            replies = await (given.ask(values, forms) if forms else given.ask(values))
            made.extend(call for reply in replies for call in reply.calls)
            return replies

        running: Any = self.run(replace(given, ask=ask, oracle=given.oracle if self.needs_gold else None))
        if not inspect.isawaitable(running):
            raise self._not_async()
        distilled = await running
        if not isinstance(distilled, Distilled):
            raise ConfigError(f"the distiller {self.name!r} returned {type(distilled).__name__}, not a `Distilled`")
        workspaces = tuple(distilled.workspaces)
        if len(workspaces) != given.next_width or not all(isinstance(one, Workspace) for one in workspaces):
            raise ConfigError(
                f"the distiller {self.name!r} returned {len(workspaces)} workspaces for {given.next_width} drafts: it "
                "must be one `Workspace` for each"
            )
        most = max(workspace.tokens for workspace in workspaces)
        if most > given.kappa:
            raise ConfigError(
                f"the distiller {self.name!r} returned a workspace of {most} tokens, above `kappa={given.kappa}`; make "
                "it with `given.admit` or `given.workspace`, which cut it"
            )
        calls = distilled.calls or tuple(made)
        if len(calls) != len(made):
            raise ConfigError(
                f"the distiller {self.name!r} made {len(made)} calls and returned {len(calls)}; leave `calls` out, or "
                "return all of them"
            )
        return Distilled(workspaces, calls)


def _is_async(function: Any) -> bool:
    """Whether calling a function, a partial, a method or an object makes a coroutine, also through a decorator."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
