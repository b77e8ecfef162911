"""The loop of the paper, once: `improve`, of which LongCoT, SR and PDR are settings.

    C(0) = {};  for r = 1..R:  S(r) = { s_i <- M(x, C(r-1)) }, i = 1..M_r;   C(r) <- D(x, S(r)), |C(r)| <= kappa

(arXiv 2510.01123, section 3.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy.utils.exceptions import ContextWindowExceededError
from pydantic import BaseModel, ConfigDict

from pdr_dspy import calls
from pdr_dspy.calls import early_stop, telemetry
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Ledger, Phase
from pdr_dspy.calls.predict import Reply
from pdr_dspy.calls.request import Sampling
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.operators import consensus, distillers
from pdr_dspy.operators.schedule import MAX_WIDTH
from pdr_dspy.operators.workspace import Draft, Workspace, candidates
from pdr_dspy.prompts.form import label
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.text.quoting import sheltered

if TYPE_CHECKING:
    from pdr_dspy.operators.modules import Operator

_DRAFTING = ((Role.DRAFT, Phase.DRAFT), (Role.REFINE, Phase.REFINE))
_STATED_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,40}(\d[\d,]*)", re.IGNORECASE)
"""The limit in a server's refusal; vLLM, llama.cpp and OpenAI name it in their own words."""
HEADING = "Candidate 100 (unfinished):\n"
"""At least as long as any heading above a candidate."""
TEMPLATE_TOKENS = 24
"""Room for a chat template's own tokens around a system and a user message."""


class Stop(StrEnum):
    """How a program came to its answer."""

    DONE = "done"
    """The last round's single draft is the answer."""
    BUDGET = "budget"
    """The next stage did not fit the budget; the answer is the plurality of the last finished round."""
    FELL_BACK = "fell back"
    """No answer could be read out of the last draft; it is the plurality of the latest round that has one."""
    NO_ANSWER = "no answer"
    """No draft of any round has a readable answer; the output fields are None."""


class Round(BaseModel):
    """One finished round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[Draft, ...]
    """Those that the round went on with: all of them, unless it ended early (`Schedule.quorum`, `Schedule.agree`)."""
    workspaces: tuple[Workspace, ...] = ()
    """What each draft of the next round reads; empty for the last round."""


class Outcome(NamedTuple):
    """What the loop returns."""

    outputs: dict[str, Any]
    """All of the task's output fields; None is one that could not be read."""
    solution: str
    ledger: Ledger
    rounds: tuple[Round, ...]
    stop: Stop


async def improve(program: Operator, inputs: Mapping[str, Any], *, budget: Budget, seed: int | None = None) -> Outcome:
    """The read, write, compress loop of the paper, once. See `Operator` for what it takes and raises."""
    now = calls.current()
    run_seed = now.seed if seed is None else seed
    run = _Run(program, inputs, calls.identity(inputs), run_seed, budget)
    with telemetry.program(type(program).__name__, str(program.schedule), lambda: run.ledger) as told:
        await run.check()
        outcome = await _rounds(run)
        told(outcome.stop)
    return outcome


async def check(program: Operator, inputs: Mapping[str, Any], budget: Budget) -> None:
    """What can be known of a run before its first call: that it fits the model's context and the budget.

    Raises ConfigError or BudgetTooSmall, as the run itself would.
    """
    await _Run(program, inputs, "", 0, budget).check()


def plurality(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The first draft of the most common answer; of equally common ones, the one that came up first."""
    answers = [consensus.vote(draft.outputs, fields) for draft in drafts]
    votes = Counter(answers)
    return max(zip(drafts, answers, strict=True), key=lambda draft: votes[draft[1]])[0]


async def _rounds(run: _Run) -> Outcome:
    program, schedule = run.program, run.schedule
    rounds: list[Round] = []
    workspaces: tuple[Workspace, ...] = ()
    for number, planned in enumerate(schedule.widths, start=1):
        width = len(workspaces) or planned  # a round may have been given drafts that the one before it saved
        with telemetry.round_(number, width, lambda: run.ledger):
            stage = [_reading(program, workspaces, index, run.flaws) for index in range(width)]
            if rounds and not await run.affords(stage):
                return run.stopped(rounds, Stop.BUDGET)
            drafts = await run.drafts(number, stage)
            if all(not draft.ok for draft in drafts):
                ((reason, _),) = Counter(draft.failure for draft in drafts).most_common(1)
                cut = str(reason).startswith(calls.CUT_THOUGHT)
                remedy = f"; raise `thinking_tokens={schedule.thinking_tokens}`" if cut else ""
                raise RoundFailed(
                    f"all {len(drafts)} drafts of round {number} failed, most often with: {reason}{remedy}", run.ledger
                )
            if number == schedule.rounds:
                rounds.append(Round(drafts=drafts))
                break
            saved = run.saved(drafts, len(stage)) if number + 1 < schedule.rounds else 0
            distilled = await run.distill(number, drafts, min(schedule.widths[number] + saved, MAX_WIDTH))
            rounds.append(Round(drafts=drafts, workspaces=distilled or ()))
            if distilled is None:
                return run.stopped(rounds, Stop.BUDGET)
            workspaces = distilled
    final = rounds[-1].drafts[0]
    if run.complete(final):
        return run.outcome(final, rounds, Stop.DONE)
    return run.stopped(rounds, Stop.FELL_BACK)


def _reading(program: Operator, workspaces: Sequence[Workspace], index: int, flaws: str) -> tuple[Role, dict[str, Any]]:
    """Which role a draft has, and what it reads beside the task: nothing when its workspace is empty."""
    if not workspaces or workspaces[index].empty:
        return Role.DRAFT, {}
    values = {"workspace": workspaces[index].text}
    if program.schedule.critique:
        values["flaws_found"] = flaws or "(none listed)"
    return Role.REFINE, values


def _by_role(
    stage: Sequence[tuple[Role, Mapping[str, Any]]],
) -> list[tuple[Role, Phase, list[int], list[Mapping[str, Any]]]]:
    """The drafts of a stage by their role: where in it they stand, and what they read."""
    parts = []
    for role, phase in _DRAFTING:
        places = [place for place, (own, _) in enumerate(stage) if own is role]
        if places:
            parts.append((role, phase, places, [stage[place][1] for place in places]))
    return parts


class _Run:
    """The state of one pass through the loop: what was spent so far, and how to ask."""

    def __init__(
        self, program: Operator, inputs: Mapping[str, Any], example: str, run_seed: int, budget: Budget
    ) -> None:
        self.program = program
        self.schedule = program.schedule
        self.inputs = inputs
        self.example = example
        self.run_seed = run_seed
        self.budget = budget
        self.ledger = Ledger()
        self.flaws = ""
        self.worst = 0
        self.lm = calls.serving(program.predictor(Role.DRAFT))
        self.fields = tuple(program.task.output_fields)

    @cached_property
    def headings(self) -> tuple[str, ...]:
        """The labels of the task's inputs."""
        return tuple(label(name) for name in self.program.task.input_fields)

    async def count(self, texts: Sequence[str]) -> list[int]:
        counts, _ = await calls.count_tokens(self.lm, texts)
        return counts

    def sampling(self, role: Role) -> Sampling:
        """Cap and temperature of a role's calls."""
        schedule = self.schedule
        if role is Role.DRAFT:
            cap = schedule.draft_tokens
        elif role is Role.REFINE:
            cap = schedule.final
        else:
            cap = schedule.distill
        temperature = schedule.temperature
        if role not in (Role.DRAFT, Role.REFINE) and schedule.distill_temperature is not None:
            temperature = schedule.distill_temperature
        return Sampling(cap + schedule.thinking_tokens, temperature, schedule.top_p, schedule.thinking_tokens)

    async def ask(
        self, role: Role, phase: Phase, values: Sequence[Mapping[str, Any]], *, round_number: int
    ) -> list[Reply]:
        replies = await calls.ask(
            self.program.predictor(role),
            [{**self.inputs, **own} for own in values],
            phase=phase,
            round_number=round_number,
            example=self.example,
            sampling=self.sampling(role),
            run_seed=self.run_seed,
        )
        return [await self.explained(role, own, reply) for own, reply in zip(values, replies, strict=True)]

    async def explained(self, role: Role, values: Mapping[str, Any], reply: Reply) -> Reply:
        """A call that the server refused for its length, with what decides that and what to do about it."""
        failure = reply.call.failure
        if failure is None or not failure.startswith(ContextWindowExceededError.__name__):
            return reply
        (prompt,) = await self.prompt_sizes([(role, values)])
        stated = _STATED_CONTEXT.search(failure)
        context = stated[1].replace(",", "") if stated else getattr(self.lm, "context_length", None)
        beyond = f"the model's context{'' if context is None else f' of {context} tokens'} is too small"
        holds = {Role.DRAFT: "", Role.REFINE: f", its workspace up to `kappa={self.schedule.kappa}`"}
        reads = holds.get(role, ", the solutions of the round in it")
        remedy = {Role.DRAFT: "the caps", Role.REFINE: "`kappa` or the caps"}.get(role, "the caps or the widths")
        why = (
            f"{beyond} for a {role} prompt of about {prompt} tokens{reads}, and {self.sampling(role).cap} for the "
            f"answer; lower {remedy}, or serve the model with a longer context ({failure})"
        )
        return reply._replace(call=reply.call.model_copy(update={"failure": why}))

    async def affords(self, stage: Sequence[tuple[Role, Mapping[str, Any]]]) -> bool:
        """Reserve: whether the worst case of a stage fits on top of what was spent."""
        if self.budget.unlimited or not stage:
            return True
        sizes = await self.prompt_sizes(stage)
        continued = getattr(self.lm, "thinking_budget", None) == "continue"
        bounds = [
            self.sampling(role).most(size, continued=continued) for size, (role, _) in zip(sizes, stage, strict=True)
        ]
        self.worst = sum(bounds)
        return self.budget.allows(self.ledger, sequential=max(bounds), total=sum(bounds))

    async def drafts(self, number: int, stage: Sequence[tuple[Role, dict[str, Any]]]) -> tuple[Draft, ...]:
        """Sample the drafts of a round, those that read a workspace and those that start afresh side by side."""
        early = self.schedule.may_end_early and len(stage) > 1
        replies = await (self.until_enough(number, stage) if early else self.all_of(number, stage))
        self.ledger += [call for reply in replies for call in reply.calls]
        drafts = []
        for place, reply in enumerate(replies):
            if reply.call.fate == "left":
                continue
            drafts.append(
                Draft(
                    round=number,
                    index=place,
                    solution=reply.text,
                    outputs={name: value for name, value in reply.reading.outputs.items() if name in self.fields},
                    truncated=reply.call.truncated,
                    failure=reply.call.failure,
                )
            )
        return tuple(drafts)

    async def all_of(self, number: int, stage: Sequence[tuple[Role, dict[str, Any]]]) -> list[Reply]:
        """The replies of a round that waits for all its drafts."""
        parts = _by_role(stage)
        came = await calls.together([self.ask(role, phase, own, round_number=number) for role, phase, _, own in parts])
        replies: dict[int, Reply] = {}
        for (_, _, places, _), own in zip(parts, came, strict=True):
            replies.update(zip(places, own, strict=True))
        return [replies[place] for place in range(len(stage))]

    async def until_enough(self, number: int, stage: Sequence[tuple[Role, dict[str, Any]]]) -> list[Reply]:
        """The replies of a round that may end before all its drafts are there."""
        schedule = self.schedule
        parts = []
        for role, phase, places, own in _by_role(stage):
            inputs = [{**self.inputs, **values} for values in own]
            parts.append(early_stop.Part(self.program.predictor(role), phase, self.sampling(role), inputs, places))

        known: dict[int, consensus.Done] = {}

        def ends(replies: Sequence[Reply | None]) -> tuple[int, ...] | None:
            for place, reply in enumerate(replies):
                if reply is not None and place not in known:
                    vote = consensus.vote(reply.reading.outputs, self.fields)
                    known[place] = consensus.Done(reply.call.failure is None, vote)
            done = [known.get(place) for place in range(len(replies))]
            return consensus.ended(done, quorum=schedule.quorum, agree=schedule.agree)

        replies = await early_stop.ask_until(
            parts,
            ends,
            rule=f"quorum={schedule.quorum} agree={schedule.agree}",
            in_order=schedule.quorum == 1.0,
            round_number=number,
            example=self.example,
            run_seed=self.run_seed,
        )
        return [await self.explained(*asked, reply) for asked, reply in zip(stage, replies, strict=True)]

    def saved(self, drafts: Sequence[Draft], width: int) -> int:
        """Drafts of a round of `width` that the next one gets because the first ones agreed.

        Under a limit on total tokens none: a larger budget, which has room for them, might then end in an earlier
        round.
        """
        if (
            self.schedule.agree is None
            or self.budget.total is not None
            or [draft.index for draft in drafts] != list(range(len(drafts)))
        ):
            return 0
        votes = [consensus.vote(draft.outputs, self.fields) for draft in drafts]
        enough = consensus.agreed(votes, self.schedule.agree) == len(votes)
        return width - len(drafts) if enough else 0

    async def distill(self, number: int, drafts: tuple[Draft, ...], next_width: int) -> tuple[Workspace, ...] | None:
        """The workspaces of the next round; None when the budget does not reach for them."""
        usable = tuple(draft for draft in drafts if draft.ok)
        if not await self.affords(self._distill_stage(number, usable, next_width)):
            return None
        distiller = self.schedule.distill_by

        async def ask(values: Sequence[Mapping[str, Any]]) -> list[Reply]:
            if distiller.role is None or distiller.phase is None:
                return []
            return await self.ask(distiller.role, distiller.phase, values, round_number=number)

        given = distillers.DistillerInput(
            drafts=usable,
            next_width=next_width,
            k=self.schedule.k,
            kappa=self.schedule.kappa,
            tally=self.schedule.tally,
            seed=calls.seed_for(self.run_seed, self.example, Phase.DISTILL, number),
            ask=ask,
            count=self.count,
            room=await self.room(usable),
            oracle=calls.current().oracle,
            headings=self.headings,
        )
        distilled = await distiller(given)
        made = list(distilled.calls or ())
        if self.schedule.critique:
            values = [{"workspace": distilled.workspaces[0].text}]
            (reply,) = await self.ask(Role.CRITIQUE, Phase.CRITIQUE, values, round_number=number)
            made.extend(reply.calls)
            self.flaws = sheltered(reply.text, self.headings)
        self.ledger += made
        return distilled.workspaces

    def _distill_stage(
        self, number: int, drafts: Sequence[Draft], next_width: int
    ) -> list[tuple[Role, Mapping[str, Any]]]:
        """The distill calls to come, with all solutions as their candidates: an upper bound of what they will read."""
        role = self.schedule.distill_role
        if role is None:
            return []
        everything = "\n\n".join(candidates([(draft.solution, draft.truncated) for draft in drafts], self.headings))
        reads = {"workspace" if role is Role.CRITIQUE else "candidates": everything}
        return [(role, reads)] * self.schedule.distill_calls(number - 1, next_width=next_width)

    async def prompt_sizes(self, stage: Sequence[tuple[Role, Mapping[str, Any]]]) -> list[int]:
        """Tokens of the prompt of each call of a stage: a role, and what it reads beside the task."""
        keys = [(role, tuple(sorted(values.items()))) for role, values in stage]
        prompts: dict[Any, str] = {}
        for key in dict.fromkeys(keys):  # siblings share one prompt: format and count it once
            predictor = self.program.predictor(key[0])
            messages = render(signature_of(predictor), predictor.demos, {**self.inputs, **dict(key[1])})
            prompts[key] = "\n".join(str(message["content"]) for message in messages)
        sizes = dict(zip(prompts, await self.count(list(prompts.values())), strict=True))
        return [sizes[key] + TEMPLATE_TOKENS for key in keys]

    def most_tokens(self, role: Role, values: Mapping[str, Any]) -> int:
        """A bound on `prompt_sizes` that asks nobody: a token stands for one byte of text or more."""
        predictor = self.program.predictor(role)
        messages = render(signature_of(predictor), predictor.demos, {**self.inputs, **values})
        prompt = "\n".join(str(message["content"]) for message in messages)
        return TEMPLATE_TOKENS + len(prompt.encode("utf-8", "replace"))

    async def room(self, drafts: Sequence[Draft]) -> int | None:
        """Tokens that the model's context leaves for the candidates of a distill call; None where these fit anyway."""
        context = getattr(self.lm, "context_length", None)
        role = self.schedule.distill_by.role
        if context is None or role is None:
            return None
        texts = [draft.solution for draft in drafts]
        shown = "\n\n".join(f"{HEADING}{text}" for text in texts)
        quoting = sum(2 * len(text.splitlines()) + text.count("<") + text.count("[") for text in texts)  # `sheltered`
        if self.most_tokens(role, {"candidates": shown}) + quoting + self.sampling(role).cap <= context:
            return None
        (prompt,) = await self.prompt_sizes([(role, {})])
        return max(context - prompt - self.sampling(role).cap, 0)

    async def check(self) -> None:
        """The context and the worst case of the first round, before anything is spent."""
        await self.check_context()
        if not await self.affords([(Role.DRAFT, {})] * self.schedule.widths[0]):
            raise BudgetTooSmall(
                f"`{self.budget!r}` is below the worst case of the first round of {self.schedule}: {self.worst} "
                "tokens; raise it, or lower `draft_tokens` or the first width"
            )

    async def check_context(self) -> None:
        """Caps, kappa and prompt against the model's context, where the server says what it is."""
        context = getattr(self.lm, "context_length", None)
        if context is None:
            return
        roles = self.schedule.roles
        kappa = self.schedule.kappa
        if all(self.most_tokens(role, {}) + kappa + self.sampling(role).cap <= context for role in roles):
            return
        for role, prompt in zip(roles, await self.prompt_sizes([(role, {}) for role in roles]), strict=True):
            cap = self.sampling(role).cap
            kappa = 0 if role is Role.DRAFT else self.schedule.kappa  # a distiller should see at least as much
            if prompt + kappa + cap > context:
                raise ConfigError(
                    f"a {role} call may need {prompt} (prompt) + {kappa} (`kappa`) + {cap} (its cap, thinking "
                    f"included) = {prompt + kappa + cap} tokens, but the model's context is {context}; "
                    "lower `kappa` or the caps, or serve the model with a longer context"
                )

    def stopped(self, rounds: Sequence[Round], stop: Stop) -> Outcome:
        """Answer from what there is: the plurality of the latest round that has a readable answer."""
        for round_ in reversed(rounds):
            complete = [draft for draft in round_.drafts if self.complete(draft)]
            if complete:
                return self.outcome(plurality(complete, self.fields), rounds, stop)
        return self.outcome(rounds[-1].drafts[0], rounds, stop if stop is Stop.BUDGET else Stop.NO_ANSWER)

    def complete(self, draft: Draft) -> bool:
        """Whether all of the task's outputs could be read out of a draft."""
        return all(name in draft.outputs for name in self.fields)

    def outcome(self, draft: Draft, rounds: Sequence[Round], stop: Stop) -> Outcome:
        """What the run returns when `draft` is its answer."""
        outputs = {name: draft.outputs.get(name) for name in self.fields}
        return Outcome(outputs, draft.solution, self.ledger, tuple(rounds), stop)
