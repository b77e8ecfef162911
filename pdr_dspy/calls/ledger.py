"""What calls cost: usage, one record per call, the ledger over them, and limits that are checked before spending.

Two figures matter (arXiv 2510.01123, section 3). Sequential tokens, B_seq, are the input and output tokens of the calls
on the accepted path: what a user waits for. Total tokens, B_total, are those of every call, failed ones included: what
the run costs. Unknown is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from pdr_dspy.calls.pricing import Price

N = TypeVar("N", int, float)


class Phase(StrEnum):
    """What a call was for."""

    DRAFT = "draft"
    REFINE = "refine"
    DISTILL = "distill"
    SELECT = "select"
    CRITIQUE = "critique"
    CHECK = "check"
    JUDGE = "judge"
    PROPOSE = "propose"


FormatFate = Literal["", "held", "refused", "ignored"]
"""What became of the form of a request: it had none, the completion has it, the server refused it and was asked
without, or the server took it and paid it no heed."""
JSON_PART = 2
"""`Call.part` of a request for the JSON of fields that could not be read out of the turn before it."""


class Usage(BaseModel):
    """Tokens of one call or of several. None means that the server did not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: int | None = None
    """Prompt tokens of this call. Where n siblings are one request to a server that reads and counts their prompt once,
    as llama.cpp does, only the first carries them; vLLM counts it for each of them, and so does each."""
    output: int | None = None
    """Generated tokens, thinking included."""
    reasoning: int | None = None
    """The part of `output` that was thinking, where the server reports it."""
    cached: int | None = None
    """The part of `input` that came out of the server's prefix cache, where the server reports it."""

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
    """One model call, as it went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    round: int = 1
    """From 1."""
    index: int = 0
    """From 0, within its phase and round."""
    part: int = 0
    """1 for a request that went on with the turn of the one before it, which had been cut in or after its thought, and
    2 for one that asked for the JSON of what could not be read out of the turn (`Schedule.json_fallback`): all of a
    turn are one step of the path."""
    operator: str = ""
    """In a program with several operators: the path of the one that made it, and after a colon which of its runs where
    it ran more than once ("solve", "solve:2"). Empty where the program is the operator, or none made it."""
    wave: int = 0
    """Of a check that asks in waves, each of which waits for the one before it: which; waves add up along the path."""
    model: str = ""
    seed: int | None = None
    cap: int | None = None
    """The most output tokens that were asked for."""
    usage: Usage = Usage()
    finish: str = "stop"
    """The server's reason: stop, length, content_filter, ...; "error" when there was no answer; "continued" when its
    cap ended it and a second request went on with the turn; "cancelled" when its round ended without it and the
    connection was closed. A cancelled call has not failed: its `failure` is None."""
    failure: str | None = None
    """Why nothing usable came back, in one sentence; None for a call that worked."""
    seconds: float = 0.0
    """From sending to the last byte; 0 for a call that was replayed from the store."""
    reused: bool = False
    """Replayed from the rollout store, or out of DSPy's own cache: nothing was sent and nothing was paid now."""
    estimated: bool = False
    """The server did not report usage; `usage` is an estimate. Of a cancelled call it is how long it ran at the rate at
    which its finished siblings wrote, at most its cap, and its prompt; exactly 0 when it was never sent."""
    fate: Literal["", "taken", "left"] = ""
    """In a round that may end before all its drafts are there (`Schedule.quorum`, `Schedule.agree`): whether the round
    went on with this one or left it, finished or cancelled. Empty for every other call."""
    tries: int = 1
    """How often the request was sent, the last time included; siblings that shared one request have its tries, each."""
    unsettled: int = 0
    """Those tries that the server may have served and counted without its answer coming through: a connection lost
    after sending, a time-out, a 5xx other than 503. `usage` knows nothing of them."""
    format: FormatFate = ""
    """What became of its output format, where it had one."""
    note: str = ""
    """What was made of a reply that fell short, in one sentence; the call itself worked."""
    key: str = ""
    """The content address of the request in the rollout store."""
    prompt: str = ""
    """Of the request without its seed: siblings have the same."""
    price: Price | None = None
    """What a token of the model costs, in the user's unit; None where that is not known."""
    same_as: int | None = None
    """The index of the sibling whose completion this is too: at temperature 0 all are equal, so that one was asked for.
    The tokens are that one's."""

    @property
    def truncated(self) -> bool:
        """Whether something ended the completion before its own end: the cap, a content filter, or the server."""
        return self.finish in ("length", "content_filter") or (self.finish == "error" and self.failure is None)

    @property
    def cancelled(self) -> bool:
        """Whether its round ended without it while it ran."""
        return self.finish == "cancelled"

    @property
    def tokens(self) -> int:
        """Input plus output tokens; what the server did not report counts 0 here and is marked on the ledger."""
        return (self.usage.input or 0) + (self.usage.output or 0)

    @property
    def cost(self) -> float | None:
        """What its tokens cost, in the unit of the price; None without one. What the server did not report costs
        nothing here and is marked on the ledger (`exact`)."""
        if self.price is None:
            return None
        return self.price.input * (self.usage.input or 0) + self.price.output * (self.usage.output or 0)


class Ledger(BaseModel):
    """All calls of a program, in the order in which their stages ran. Immutable: adding gives a new one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: tuple[Call, ...] = ()

    def __add__(self, other: Ledger | Iterable[Call]) -> Ledger:
        more = other.calls if isinstance(other, Ledger) else tuple(other)
        return Ledger(calls=self.calls + more)

    def __len__(self) -> int:
        return len(self.calls)

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
        """B_seq: for each stage of a round the dearest of its siblings, summed along the path.

        The drafts of a round are one stage, whether they read a workspace or start afresh: they run side by side.
        Operators of one program, and several runs of one, count as if each waited for the one before it: where some run
        side by side this is more than is waited for. A sibling reads its prompt, whichever of them it was reported
        with. Judging is not on the path to the answer, nor is a draft that its round did not wait for: they count in
        `total` only.
        """
        return sum(_dearest(stage) for stage in self._stages())

    def as_one_run(self, *, prompt_once: bool) -> int:
        """B_total as a run that reuses nothing would pay it.

        `total` has what the calls did cost when they were made. With `prompt_once` (the endpoint sends drafts of one
        prompt as one request, and its server counts their prompt once), drafts that are asked for together pay for it
        once; those that were asked for at different times, as a wider schedule asks for its further drafts, paid for
        it more than once. Drafts of a round that may end early are single requests, and pay for it each. Without, it
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
        """Generated tokens along the accepted path: what bounds latency when prompts are cheap."""
        return sum(max(_turns(stage, lambda call: call.usage.output or 0)) for stage in self._stages())

    @property
    def paid(self) -> int:
        """Tokens of the calls that were really sent, replayed ones left out."""
        return sum(call.tokens for call in self.calls if not call.reused)

    @property
    def failed(self) -> int:
        """How many calls gave nothing usable."""
        return sum(call.failure is not None for call in self.calls)

    @property
    def cancelled(self) -> int:
        """How many calls were cancelled because their round ended without them."""
        return sum(call.cancelled for call in self.calls)

    @property
    def truncated(self) -> int:
        """How many calls were ended by their cap, a content filter or the server."""
        return sum(call.truncated for call in self.calls)

    @property
    def reused(self) -> int:
        """How many calls were replayed from the store."""
        return sum(call.reused for call in self.calls)

    @property
    def exact(self) -> bool:
        """Whether every figure was reported by the server. False with a failed call that it said nothing of, and with
        one that was sent again when its first try may have been served too."""
        return all(call.usage.tokens is not None and not call.estimated and not call.unsettled for call in self.calls)

    @property
    def tries(self) -> int:
        """How often requests of these calls were sent, retries included; replayed calls were not."""
        return sum(call.tries for call in self.calls if not call.reused)

    @property
    def seconds(self) -> float:
        """Seconds along the accepted path, from the calls themselves."""
        return sum(max(_turns(stage, lambda call: call.seconds)) for stage in self._stages())

    def _stages(self) -> list[list[Call]]:
        stages: dict[tuple[str, int, Phase, int], list[Call]] = {}
        for call in self.calls:
            if call.phase not in (Phase.JUDGE, Phase.PROPOSE) and call.fate != "left":  # no program waits for them
                phase = Phase.DRAFT if call.phase is Phase.REFINE else call.phase
                stages.setdefault((call.operator, call.round, phase, call.wave), []).append(call)
        return list(stages.values())


def _dearest(stage: list[Call]) -> int:
    """Tokens of the call of a stage that reads and writes most."""
    prompts: dict[str, int] = {}
    for call in stage:
        prompts[call.prompt] = max(prompts.get(call.prompt, 0), call.usage.input or 0)

    def cost(call: Call) -> int:
        return (prompts[call.prompt] if call.prompt else call.usage.input or 0) + (call.usage.output or 0)

    return max(_turns(stage, cost))


def _turns(stage: list[Call], cost: Callable[[Call], N]) -> list[N]:
    """What each turn of a stage cost: a call, together with the one that went on with it."""
    more: dict[tuple[Phase, int], N] = {}
    for call in stage:
        if call.part:
            more[call.phase, call.index] = more.get((call.phase, call.index), 0) + cost(call)
    whole = [cost(call) + more.get((call.phase, call.index), 0) for call in stage if not call.part]
    return whole or list(more.values())
