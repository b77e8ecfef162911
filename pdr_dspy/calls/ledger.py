"""The cost of calls: usage, one record per call, and the ledger over them.

Two figures matter (arXiv 2510.01123, section 3). Sequential tokens, B_seq, are the input and output tokens of the calls
on the accepted path: they determine the user's wait. Total tokens, B_total, are those of every call, failed ones
included: they determine the cost of the run. Unknown is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from pdr_dspy.calls.pricing import Price

N = TypeVar("N", int, float)


class Phase(StrEnum):
    """The purpose of a call."""

    DRAFT = "draft"
    REFINE = "refine"
    DISTILL = "distill"
    SELECT = "select"
    CRITIQUE = "critique"
    CHECK = "check"
    JUDGE = "judge"
    PROPOSE = "propose"


FormatFate = Literal["", "held", "refused", "ignored"]
"""The fate of a request's output format: it had none, the completion has it, the server refused it and the request was
sent without, or the server accepted and ignored it."""
JSON_PART = 2
"""`Call.part` of a request for the JSON of fields that could not be read from the turn before it."""


class Usage(BaseModel):
    """Tokens of one call or of several. None means that the server did not report them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: int | None = None
    """Prompt tokens of this call. If n siblings are one request and the server reads and counts their prompt once, as
    llama.cpp does, only the first sibling carries them; vLLM counts the prompt for each sibling, and each carries
    it."""
    output: int | None = None
    """Generated tokens, thinking included."""
    reasoning: int | None = None
    """The thinking tokens within `output`, where the server reports them."""
    cached: int | None = None
    """The tokens of `input` read from the server's prefix cache, where the server reports them."""

    @property
    def tokens(self) -> int | None:
        """Input plus output."""
        return None if self.input is None or self.output is None else self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        def plus(a: int | None, b: int | None) -> int | None:
            return None if a is None or b is None else a + b

        return Usage(
            input=plus(self.input, other.input),
            output=plus(self.output, other.output),
            reasoning=plus(self.reasoning, other.reasoning),
            cached=plus(self.cached, other.cached),
        )


class Call(BaseModel):
    """The record of one model call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    round: int = 1
    """From 1."""
    index: int = 0
    """From 0, within its phase and round."""
    part: int = 0
    """0 for the first request of a turn, 1 for the request that continues a turn truncated in or after its thought, 2
    for the request for the JSON of fields that could not be read (`Schedule.json_fallback`). All requests of a turn
    are one step of the path."""
    operator: str = ""
    """In a program with several operators: the path of the operator that made the call, with the number of its run
    after a colon if it ran more than once ("solve", "solve:2"). Empty if the program is the operator, or no operator
    made the call."""
    wave: int = 0
    """The wave of a check that calls in waves, each of which waits for the one before; waves add up along the path."""
    model: str = ""
    seed: int | None = None
    cap: int | None = None
    """The requested maximum of output tokens."""
    usage: Usage = Usage()
    finish: str = "stop"
    """The server's reason: stop, length, content_filter, ...; "error" without a reply; "continued" if its cap ended it
    and a second request continued the turn; "cancelled" if its round ended first and the connection was closed. A
    cancelled call has not failed: its `failure` is None."""
    failure: str | None = None
    """The reason for a call without a usable result, in one sentence; None for a successful call."""
    seconds: float = 0.0
    """From sending to the last byte; 0 for a call replayed from the store."""
    reused: bool = False
    """Replayed from the rollout store or DSPy's cache: nothing was sent and nothing was paid now."""
    estimated: bool = False
    """The server did not report usage; `usage` is an estimate. For a cancelled call: its prompt, and its duration at
    the rate of its finished siblings, at most its cap; exactly 0 if it was never sent."""
    fate: Literal["", "taken", "left"] = ""
    """In a round that may end before all its drafts have finished (`Schedule.quorum`, `Schedule.agree`): whether the
    round continued with this draft or left it, finished or cancelled. Empty for every other call."""
    tries: int = 1
    """How often the request was sent, the last time included; each sibling that shared a request has its tries. 0 for a
    cancelled call that was never sent."""
    unsettled: int = 0
    """Tries that the server may have served and counted although the reply was lost: a connection lost after sending, a
    timeout, a 5xx other than 503. `usage` does not include them."""
    format: FormatFate = ""
    """The fate of its output format, if it had one."""
    note: str = ""
    """How an incomplete reply was used, in one sentence; the call itself worked."""
    key: str = ""
    """The content address of the request in the rollout store."""
    prompt: str = ""
    """The address of the request without its seed: equal for siblings."""
    price: Price | None = None
    """The model's price per token, in the user's unit; None if it is unknown."""
    same_as: int | None = None
    """The index of the sibling that shares this completion: at temperature 0 all are equal, so only one was requested.
    The tokens are counted with that sibling."""

    @property
    def truncated(self) -> bool:
        """Whether the cap, a content filter or the server ended the completion early."""
        return self.finish in ("length", "content_filter") or (self.finish == "error" and self.failure is None)

    @property
    def cancelled(self) -> bool:
        """Whether its round ended while the call still ran, or before it was sent."""
        return self.finish == "cancelled"

    @property
    def sent(self) -> bool:
        """Whether it was requested, now or when its completion was stored. False for a draft that its round did not
        need and never requested, such as those of a wave that never began: it is on the ledger, for those who need all
        drafts of a round, and in no count of calls."""
        return not self.cancelled or self.tries > 0

    @property
    def tokens(self) -> int:
        """Input plus output tokens; an unreported figure counts 0 here and is marked on the ledger."""
        return (self.usage.input or 0) + (self.usage.output or 0)

    @property
    def cost(self) -> float | None:
        """The cost of its tokens, in the unit of the price; None without one. Unreported tokens cost nothing here and
        are marked on the ledger (`exact`)."""
        if self.price is None:
            return None
        return self.price.input * (self.usage.input or 0) + self.price.output * (self.usage.output or 0)


class Ledger(BaseModel):
    """All calls of a program, in the order of their stages. Immutable: addition returns a new ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: tuple[Call, ...] = ()
    """Those that were sent, and drafts that their round did not need and never requested (`Call.sent`)."""

    def __add__(self, other: Ledger | Iterable[Call]) -> Ledger:
        more = other.calls if isinstance(other, Ledger) else tuple(other)
        return Ledger(calls=self.calls + more)

    def __len__(self) -> int:
        """How many calls were sent."""
        return sum(call.sent for call in self.calls)

    def __repr__(self) -> str:
        notes = [f"{self.failed} failed"] if self.failed else []
        notes += [] if self.exact else ["not exact"]
        notes += [] if self.cost is None else [f"cost {self.cost:.4g}"]
        more = f", {', '.join(notes)}" if notes else ""
        calls = "1 call" if len(self) == 1 else f"{len(self)} calls"
        return f"<Ledger: {calls}, {self.sequential:,} sequential and {self.total:,} total tokens{more}>"

    __str__ = __repr__

    @property
    def total(self) -> int:
        """B_total: input and output tokens of every call."""
        return sum(call.tokens for call in self.calls)

    @property
    def sequential(self) -> int:
        """B_seq: the most expensive sibling of each stage of a round, summed along the path.

        The drafts of a round are one stage, whether or not they read a workspace: they run concurrently. Operators of
        one program, and several runs of one operator, count as if each waited for the one before it: if some run
        concurrently this exceeds the actual wait. Every sibling counts the prompt, whichever of them reported it.
        Judging is not on the path to the answer, nor is a draft that its round did not wait for: both count in `total`
        only.
        """
        return sum(_most_expensive(stage) for stage in self._stages())

    def as_one_run(self, *, prompt_once: bool) -> int:
        """B_total of a run that replays nothing.

        `total` is what the calls cost when they were made. With `prompt_once` (the endpoint sends drafts of one prompt
        as one request, and its server counts their prompt once), drafts requested together pay for it once; drafts
        requested at different times, such as the additional ones of a wider schedule, paid for it more than once.
        Drafts of a round that may end early are single requests, and each pays for it. Without `prompt_once` the result
        is `total`.
        """
        if not prompt_once:
            return self.total
        prompts: dict[tuple[str, int, Phase, str], int] = {}
        total = 0
        for name, call in self._by_prompt():
            prompts[name] = max(prompts.get(name, 0), call.usage.input or 0)
            total += call.usage.output or 0
        return total + sum(prompts.values())

    def cost_as_one_run(self, *, prompt_once: bool) -> float | None:
        """`cost` as a run that reuses nothing would pay it; see `as_one_run`."""
        if not prompt_once or self.cost is None:
            return self.cost
        prompts: dict[tuple[str, int, Phase, str], float] = {}
        total = 0.0
        for name, call in self._by_prompt():
            assert call.price is not None
            prompts[name] = max(prompts.get(name, 0.0), call.price.input * (call.usage.input or 0))
            total += call.price.output * (call.usage.output or 0)
        return total + sum(prompts.values())

    def _by_prompt(self) -> Iterator[tuple[tuple[str, int, Phase, str], Call]]:
        """Each call, with a name that is the same for those that could share the reading of one prompt."""
        for place, call in enumerate(self.calls):
            own = str(place) if call.fate or not call.prompt else call.prompt
            yield (call.operator, call.round, call.phase, own), call

    @property
    def cost(self) -> float | None:
        """What all calls cost, in the unit of their prices; None where a price is not known, and for no calls."""
        costs = [call.cost for call in self.calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if costs and len(known) == len(costs) else None

    @property
    def output(self) -> int:
        """Generated tokens of every call."""
        return sum(call.usage.output or 0 for call in self.calls)

    @property
    def sequential_output(self) -> int:
        """Generated tokens along the accepted path: they bound the latency when prompts are cheap."""
        return sum(max(_turns(stage, lambda call: call.usage.output or 0)) for stage in self._stages())

    @property
    def paid(self) -> int:
        """Tokens of the calls that were actually sent, without replayed ones."""
        return sum(call.tokens for call in self.calls if not call.reused)

    @property
    def failed(self) -> int:
        """How many calls gave no usable result."""
        return sum(call.failure is not None for call in self.calls)

    @property
    def cancelled(self) -> int:
        """How many calls were cancelled because their round had ended."""
        return sum(call.cancelled and call.sent for call in self.calls)

    @property
    def truncated(self) -> int:
        """How many calls the cap, a content filter or the server ended early."""
        return sum(call.truncated for call in self.calls)

    @property
    def reused(self) -> int:
        """How many calls were replayed from the store."""
        return sum(call.reused and call.sent for call in self.calls)

    @property
    def exact(self) -> bool:
        """Whether the server reported every figure. False with a failed call without usage, and with a call that was
        sent again after a try that may have been served too."""
        return all(call.usage.tokens is not None and not call.estimated and not call.unsettled for call in self.calls)

    @property
    def tries(self) -> int:
        """How often requests of these calls were sent, retries included; replayed calls count 0."""
        return sum(call.tries for call in self.calls if not call.reused)

    @property
    def seconds(self) -> float:
        """Seconds along the accepted path, from the calls' own durations."""
        return sum(max(_turns(stage, lambda call: call.seconds)) for stage in self._stages())

    def _stages(self) -> list[list[Call]]:
        stages: dict[tuple[str, int, Phase, int], list[Call]] = {}
        for call in self.calls:
            if call.phase not in (Phase.JUDGE, Phase.PROPOSE) and call.fate != "left":  # not on the path of a program
                phase = Phase.DRAFT if call.phase is Phase.REFINE else call.phase
                stages.setdefault((call.operator, call.round, phase, call.wave), []).append(call)
        return list(stages.values())


def _most_expensive(stage: list[Call]) -> int:
    """Tokens of the most expensive call of a stage."""
    prompts: dict[str, int] = {}
    for call in stage:
        prompts[call.prompt] = max(prompts.get(call.prompt, 0), call.usage.input or 0)

    def cost(call: Call) -> int:
        return (prompts[call.prompt] if call.prompt else call.usage.input or 0) + (call.usage.output or 0)

    return max(_turns(stage, cost))


def _turns(stage: list[Call], cost: Callable[[Call], N]) -> list[N]:
    """The cost of each turn of a stage: a call together with those that continue it."""
    more: dict[tuple[Phase, int], N] = {}
    for call in stage:
        if call.part:
            more[call.phase, call.index] = more.get((call.phase, call.index), 0) + cost(call)
    whole = [cost(call) + more.get((call.phase, call.index), 0) for call in stage if not call.part]
    return whole or list(more.values())
