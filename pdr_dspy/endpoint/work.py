"""One run of a program for a request: its progress, its result, and its cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls import Account, DeadlinePassed, Ledger, RoundFailed
from pdr_dspy.calls.ledger import JSON_PART, Call
from pdr_dspy.endpoint.errors import Refused, wrong
from pdr_dspy.endpoint.requests import Plan
from pdr_dspy.errors import BudgetTooSmall, EndpointError, PromptTooLong
from pdr_dspy.operators import Draft, Operator, Progress, Stop
from pdr_dspy.operators.consensus import vote
from pdr_dspy.operators.nested import served_in
from pdr_dspy.prompts.shapes import allows_none
from pdr_dspy.runtime.raised_by import contained

GOOD = (Stop.DONE, Stop.CHECKED)
"""Stop reasons of a program that finished normally."""


@dataclass(frozen=True)
class Cost:
    """The cost of runs, by their ledgers."""

    prompt: int
    completion: int
    reasoning: int
    """The part of `completion` other than the answer's text: other drafts, distilling, thoughts."""

    @property
    def usage(self) -> dict[str, Any]:
        """The usage in OpenAI's format."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.prompt + other.prompt, self.completion + other.completion, self.reasoning + other.reasoning)


@dataclass(frozen=True)
class Answer:
    """The result of a run."""

    outputs: Mapping[str, Any]
    """Every output of the task; None if it could not be read."""
    readable: bool
    finish: str
    """OpenAI's finish reason: "stop" for a program that finished normally, "length" for one that was cut short."""
    ledger: Ledger
    sequential: int
    """B_seq; for a module the sum over its runs."""
    stop: Stop
    rounds: int
    seed: int
    seconds: float
    cost: Cost

    @property
    def facts(self) -> dict[str, Any]:
        """The `pdr` object of a response."""
        return {
            **spent(self.ledger, self.sequential),
            "rounds": self.rounds,
            "stop": str(self.stop),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }


def spent(ledger: Ledger, sequential: int) -> dict[str, Any]:
    """Tokens and calls of a ledger, and whether the model server reported every figure."""
    return {
        "B_seq": sequential,
        "B_total": ledger.total,
        "calls": len(ledger),
        "failed_calls": ledger.failed,
        "cancelled_calls": ledger.cancelled,
        "exact": ledger.exact,
    }


async def run(
    plan: Plan,
    inputs: Mapping[str, Any],
    number: int,
    lm: dspy.LM | None,
    in_flight: Any,
    on_progress: Callable[[Progress], None],
) -> Answer:
    """Run a program once.

    Args:
        plan: its program, budget, deadline and seed.
        inputs: of the signature.
        number: of the choice, from 0.
        lm: the language model of predictors without their own.
        in_flight: bounds requests to the model server; None for no bound.
        on_progress: called with the program's progress.

    Raises Refused with an error for the client: a budget below the first round (400), a prompt that is too long (400),
    a model server that failed or was exchanged (502), a deadline that passed too soon (504).
    """
    seed = plan.seed + number
    started = time.monotonic()
    settings: dict[str, Any] = {"trace": [], "max_trace_size": 0, "disable_history": True}
    if lm is not None:
        settings["lm"] = lm
    shared: dict[str, Any] = {} if in_flight is None else {"in_flight": in_flight}
    account = Account(plan.budget)
    shared |= {"account": account, "deadline": plan.deadline, "seed": seed}
    with dspy.context(**settings), calls.session(on_progress=on_progress, **shared):
        try:
            with contained("the program"):  # a module's code
                prediction = await plan.program.acall(**inputs)
        except BudgetTooSmall as error:
            raise _refused(str(error), "pdr", "budget_too_small", account, seed) from error
        except PromptTooLong as error:
            raise _refused(str(error), "messages", "context_length_exceeded", account, seed) from error
        except RoundFailed as error:
            raise _failed(502, "model_server_failed", _why(error.ledger), account, seed) from error
        except EndpointError as error:  # it may hold addresses
            await _take_anew(plan.program)
            why = "the model server is another one than before, or does not answer; ask again"
            raise _failed(502, "model_server_failed", why, account, seed) from error
        except DeadlinePassed as error:
            why = f"the deadline of {plan.seconds:g} s passed before the first round had finished"
            raise _failed(504, "deadline_exceeded", why, account, seed) from error
    seconds = time.monotonic() - started
    if isinstance(plan.program, Operator):
        return _answer(plan, prediction, account, seed, seconds)
    return _answer_of_module(plan, prediction, account, seed, seconds)


async def _take_anew(program: dspy.Module) -> None:
    """Take the model servers of a program as they are now: nothing that their predecessors said is kept here, so that
    the next run need not fail too."""
    with suppress(EndpointError), calls.session(serves=served_in(program)):
        await calls.identities(program.predictors())


def _answer_of_module(plan: Plan, prediction: dspy.Prediction, account: Account, seed: int, seconds: float) -> Answer:
    """The answer of a module from the runs inside it. It is complete if all of them are, and its answer counts as
    written by the last of them."""
    outputs = {name: prediction.get(name) for name in plan.task.output_fields}
    ends = [run.result for run in account.runs if run.result is not None]
    readable = not any(
        value is None and not allows_none(plan.task.output_fields[name].annotation) for name, value in outputs.items()
    )
    stops = [end.stop for end in ends]
    failed = [run for run in account.runs if run.result is None]
    stop = next((each for each in stops if each not in GOOD), stops[-1] if stops else Stop.DONE)
    if not readable and stop in (Stop.NO_ANSWER, *GOOD):
        why = f"the program gave no {', '.join(name for name, value in outputs.items() if value is None)}"
        raise _failed(502, "no_answer", why, account, seed)
    writer = None
    if ends:
        run = next(run for run in reversed(account.runs) if run.result is ends[-1])
        draft = _taken(ends[-1].rounds, ends[-1].solution, ends[-1].outputs)
        writer = None if draft is None else _writer(run.ledger, draft)
    whole = stop in GOOD and readable and not failed
    return Answer(
        outputs=outputs,
        readable=readable,
        finish="stop" if whole else "length",
        ledger=account.ledger,
        sequential=account.sequential,
        stop=stop,
        rounds=sum(len(end.rounds) for end in ends),
        seed=seed,
        seconds=seconds,
        cost=cost(account.ledger, writer),
    )


def _answer(plan: Plan, prediction: dspy.Prediction, account: Account, seed: int, seconds: float) -> Answer:
    outputs = {name: prediction.get(name) for name in plan.task.output_fields}
    rounds, stop, ledger = prediction.rounds, prediction.stop, prediction.ledger
    draft = _taken(rounds, prediction.solution, outputs)
    readable = draft is not None and all(name in draft.outputs for name in outputs)
    cut = draft is None or draft.truncated or any(each.truncated for each in rounds[-1].drafts)
    if not readable and stop in (Stop.NO_ANSWER, *GOOD) and not cut:
        why = "no answer could be read from any of the drafts"
        raise _failed(502, "no_answer", why, account, seed)
    whole = stop in GOOD and readable and draft is not None and not draft.truncated
    writer = None if draft is None else _writer(ledger, draft)
    return Answer(
        outputs=outputs,
        readable=readable,
        finish="stop" if whole else "length",
        ledger=ledger,
        sequential=ledger.sequential,
        stop=stop,
        rounds=len(rounds),
        seed=seed,
        seconds=seconds,
        cost=cost(ledger, writer),
    )


def cost(ledger: Ledger, writer: Call | None = None) -> Cost:
    """The cost in a ledger; `writer` is the call that wrote the answer."""
    prompt = sum(call.usage.input or 0 for call in ledger.calls)
    shown = 0 if writer is None else max((writer.usage.output or 0) - (writer.usage.reasoning or 0), 0)
    return Cost(prompt, ledger.output, ledger.output - shown)


def _taken(rounds: Sequence[Any], solution: str, outputs: Mapping[str, Any]) -> Draft | None:
    """The draft that was taken as the answer."""
    drafts = [draft for round_ in reversed(rounds) for draft in round_.drafts if draft.solution == solution]
    same = [draft for draft in drafts if {name: draft.outputs.get(name) for name in outputs} == dict(outputs)]
    return next(iter(same or drafts), None)


def _writer(ledger: Ledger, draft: Draft) -> Call | None:
    """The call that wrote a draft: the last one if its turn took two, but not a fallback request for a field."""
    phases = ("draft", "refine")
    made = [call for call in ledger.calls if call.round == draft.round and str(call.phase) in phases]
    own = [call for call in made if call.index == draft.index and call.part != JSON_PART]
    return own[-1] if own else None


_STOPS = {"model_server_failed": "failed", "no_answer": str(Stop.NO_ANSWER), "deadline_exceeded": str(Stop.DEADLINE)}
"""`pdr.stop` of a run without an answer, by the code of its error."""


def _refused(why: str, param: str, code: str, account: Account, seed: int) -> Refused:
    """An invalid request; a module may have spent tokens before that was known."""
    refused = wrong(why, param, code)
    if len(account.ledger):
        refused.more |= _spent(account, "refused", seed)
    return refused


def _spent(account: Account, stop: str, seed: int) -> dict[str, Any]:
    ledger = account.ledger
    return {"usage": cost(ledger).usage, "pdr": {**spent(ledger, account.sequential), "stop": stop, "seed": seed}}


def _failed(status: int, code: str, why: str, account: Account, seed: int) -> Refused:
    more = _spent(account, _STOPS[code], seed)
    headers = {"Retry-After": "1"} if code == "model_server_failed" else {}
    return Refused(status, why, code=code, headers=headers, more=more)


def _why(ledger: Ledger) -> str:
    """The failures, without the model server's messages: they may contain its address or texts of a prompt."""
    kinds = {str(call.failure).partition(":")[0][:60] for call in ledger.calls if call.failure is not None}
    named = sorted(kind for kind in kinds if kind.isidentifier())
    return f"every draft of a round failed at the model server{f' ({chr(44).join(named)})' if named else ''}"


def progress_text(progress: Progress, *, named: bool) -> str:
    """A progress line for people. `named`: begin with the names of the outputs, for programs of several steps."""
    fields = progress.outputs
    place = f"{', '.join(fields)}: " if named else ""
    place += f"Round {progress.round} of {progress.rounds}"
    if progress.step == "drafting":
        return f"{place}: {_count(progress.width, 'draft')} running\n"
    if progress.step == "ended":
        tokens = max((workspace.tokens for workspace in progress.workspaces), default=0)
        if not progress.workspaces:
            return f"{place}: the budget does not allow another round\n"
        return f"{place}: distilled into {tokens} tokens\n"
    usable = [draft for draft in progress.drafts if all(name in draft.outputs for name in fields)]
    line = f"{place}: {_count(len(progress.drafts), 'draft')} done, {len(usable)} with an answer"
    votes: dict[Any, list[Draft]] = {}
    for draft in usable:
        votes.setdefault(vote(draft.outputs, fields), []).append(draft)
    if usable:
        most = max(votes.values(), key=len)
        answer = ", ".join(str(most[0].outputs[name]) for name in fields)
        short = " ".join(answer.split())
        line += f"; {len(most)} of {len(usable)} for {short if len(short) <= 120 else short[:119] + '…'}"
    scores = [draft.score for draft in progress.drafts if draft.score is not None]
    return line + (f"; best check {max(scores):.2f} of 1\n" if scores else "\n")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
