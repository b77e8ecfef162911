"""LongCoT, SR and PDR: one loop, `improve`, and three named settings of it.

    C(0) = {};  for r = 1..R:  S(r) = { s_i <- M(x, C(r-1)) }, i = 1..M_r;   C(r) <- D(x, S(r)), |C(r)| <= kappa

(arXiv 2510.01123, section 3.) LongCoT is widths (1,). SR is widths (1, ..., 1) with the last solution as its state. PDR
is any widths that end in 1, with a distiller. An operator holds exactly the predictors that it calls, as plain
attributes, so that every DSPy optimizer tunes what is used and nothing else. `forward` never writes to `self`.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple, Self

import dspy
from dspy.predict.parameter import Parameter
from dspy.utils.exceptions import ContextWindowExceededError
from pydantic import BaseModel, ConfigDict

from pdr_dspy import agreement, calls, distillers, portal, stages, tracing
from pdr_dspy.budget import Budget, Call, Ledger, Phase
from pdr_dspy.calls import Reply, Sampling
from pdr_dspy.errors import BudgetTooSmall, ConfigError, RoundFailed
from pdr_dspy.schedule import MAX_WIDTH, Schedule, preset
from pdr_dspy.signatures import Role, check_task, derive, label, render, signature_of
from pdr_dspy.workspace import Draft, Workspace, candidates, sheltered

_DRAFTING = ((Role.DRAFT, Phase.DRAFT), (Role.REFINE, Phase.REFINE))
_STATED_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,40}(\d[\d,]*)", re.IGNORECASE)
"""The limit in a server's refusal; vLLM, llama.cpp and OpenAI name it in their own words."""
HEADING = "Candidate 100 (unfinished):\n"
"""At least as long as any heading above a candidate."""
TEMPLATE_TOKENS = 24
"""Room for a chat template's own tokens around a system and a user message."""
_NO_LIMIT = Budget()


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


class ScheduleParameter(Parameter):
    """Holds an operator's schedule so that DSPy's `save` and `load` keep it, at any depth.

    Below a parent module DSPy loads each parameter by itself, from a list made before the first: a schedule that calls
    other roles than the one it replaces finds no predictors there, and is refused.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def reset(self) -> None:
        """Nothing: a tuned schedule survives `reset_copy()`, as learned code does in `dspy.Flex`."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        return self.schedule.model_dump(mode="json")

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Take over a saved schedule. Raises ConfigError when it calls other roles than the present one."""
        saved = Schedule(**state)
        if roles_of(saved) != roles_of(self.schedule):
            raise ConfigError(
                f"the saved program's operator {saved} calls {', '.join(roles_of(saved))}, and the one here "
                f"({self.schedule}) {', '.join(roles_of(self.schedule))}; a nested `load` can neither add predictors "
                "nor take them away. Give the operator the saved schedule first (`with_schedule`), or save the program "
                "with `pdr_dspy.save(program, path)` and load it with `pdr_dspy.load(path, program=...)`"
            )
        self.schedule = saved
        return self


def roles_of(schedule: Schedule) -> tuple[Role, ...]:
    """The roles that a schedule calls, which are the predictors that its operator holds."""
    roles = [Role.DRAFT]
    if schedule.rounds > 1:
        roles.append(Role.REFINE)
        if schedule.distiller in distillers.ROLES:
            roles.append(distillers.ROLES[schedule.distiller])
        if schedule.critique:
            roles.append(Role.CRITIQUE)
    return tuple(roles)


class Operator(dspy.Module):
    """A task signature under a schedule. Use `LongCoT`, `SR` or `PDR`.

    Calling it takes the task's inputs by keyword, and optionally `budget=Budget(...)` and `seed=int`. It returns a
    `dspy.Prediction` with the task's outputs first, then `solution` (the text of the draft that was taken), `ledger`
    (a `Ledger`: `.sequential`, `.total`, `.calls`), `rounds` (a tuple of `Round`) and `stop` (a `Stop`).

    Equal inputs and seed make equal calls: ask again with another `seed` for another sample.

    Raises:
        ConfigError: an input is missing or unknown, no language model is set, or the caps, kappa and the prompt do not
            fit the model's context.
        BudgetTooSmall: not even the first round fits the budget.
        RoundFailed: every draft of a round failed; `error.ledger` has what was spent.
    """

    def __init__(self, signature: str | type[dspy.Signature], schedule: Schedule) -> None:
        super().__init__()
        self.task = check_task(signature)
        self.tuned = ScheduleParameter(schedule)
        for role, role_signature in self.role_signatures(self.task, schedule).items():
            setattr(self, role.value, dspy.Predict(role_signature))

    @property
    def schedule(self) -> Schedule:
        """The schedule that it runs under."""
        return self.tuned.schedule

    @staticmethod
    def role_signatures(task: type[dspy.Signature], schedule: Schedule) -> dict[Role, type[dspy.Signature]]:
        """The signatures of exactly those predictors that this schedule calls."""
        last = schedule.distiller == "last"
        return {
            role: derive(task, role, k=schedule.k, last=last, critique=schedule.critique) for role in roles_of(schedule)
        }

    def with_schedule(
        self,
        schedule: Schedule,
        *,
        instructions: Mapping[str, str] | None = None,
        demos: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> Self:
        """A copy that runs under another schedule.

        Predictors of roles that both schedules use keep their instructions, demonstrations and LM; Select and Refine
        only while their default instructions would stay the same or were tuned. `instructions` (role to text) and
        `demos` (role to demonstrations, each a mapping of fields) replace what is given.

        Raises ConfigError for an unknown role in `instructions` or `demos`.
        """
        for name, given in (("instructions", instructions), ("demos", demos)):
            unknown = set(given or ()) - {role.value for role in Role}
            if unknown:
                raise ConfigError(f"`{name}` names the role {sorted(unknown)[0]!r}; the roles are {', '.join(Role)}")
        new = copy.deepcopy(self)
        old = {name: predictor for name, predictor in new.__dict__.items() if isinstance(predictor, dspy.Predict)}
        defaults = self.role_signatures(self.task, self.schedule)
        for name in old:
            delattr(new, name)
        new.tuned = ScheduleParameter(schedule)
        for role, signature in self.role_signatures(self.task, schedule).items():
            predictor = dspy.Predict(signature)
            predictor.lm = old[Role.DRAFT].lm  # a role that is new uses the model that the program was given
            before = old.get(role.value)
            if before is not None and role in defaults:
                if signature_of(before).instructions != defaults[role].instructions:
                    predictor.signature = signature.with_instructions(signature_of(before).instructions)
                predictor.demos = before.demos
                predictor.lm = before.lm
            if instructions and role.value in instructions:
                predictor.signature = signature.with_instructions(instructions[role.value])
            if demos and role.value in demos:
                predictor.demos = [dspy.Example(**demo) for demo in demos[role.value]]
            setattr(new, role.value, predictor)
        return new

    def load_state(self, state: dict[str, Any], **options: Any) -> Any:
        """As `dspy.Module.load_state`; the predictors follow the schedule that is loaded."""
        if "tuned" in state:
            fresh = self.with_schedule(Schedule(**state["tuned"]))
            for name in [name for name, value in self.__dict__.items() if isinstance(value, dspy.Predict)]:
                delattr(self, name)
            vars(self).update(vars(fresh))
        return super().load_state(state, **options)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program; see the class."""
        return portal.run(lambda: self.aforward(**inputs))

    async def aforward(
        self, *, budget: Budget | None = None, seed: int | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Run the program on the caller's event loop; see the class."""
        taken = self.task.input_fields
        unknown = [name for name in inputs if name not in taken]
        missing = [name for name, info in taken.items() if name not in inputs and info.is_required()]
        if unknown or missing:
            raise ConfigError(
                f"`{type(self).__name__}` takes the inputs {', '.join(taken)}; "
                + (f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is not one of them")
            )
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigError(
                f"`{type(self).__name__}()(budget={budget!r})` must be a `Budget(sequential=..., total=...)` in tokens"
            )
        outcome = await improve(self, inputs, budget=budget or _NO_LIMIT, seed=seed)
        return dspy.Prediction(
            **outcome.outputs,
            solution=outcome.solution,
            ledger=outcome.ledger,
            rounds=outcome.rounds,
            stop=outcome.stop,
        )

    def predictor(self, role: Role) -> dspy.Predict:
        """The predictor of a role that the schedule calls."""
        return getattr(self, role.value)


class LongCoT(Operator):
    """One pass: a single draft is the answer.

    >>> LongCoT("question -> answer", draft_tokens=4096)
    """

    def __init__(self, signature: str | type[dspy.Signature], **settings: Any) -> None:
        """`settings` are fields of `Schedule` other than its widths."""
        super().__init__(signature, _schedule(settings, widths=(1,)))


class SR(Operator):
    """Sequential Refinement: one solution, improved for `rounds` rounds, each reading only the one before it.

    >>> SR("question -> answer", rounds=4, critique=True)
    """

    def __init__(
        self, signature: str | type[dspy.Signature], *, rounds: int = 3, critique: bool = False, **settings: Any
    ) -> None:
        """
        Args:
            signature: the task.
            rounds: drafts in all, the first included; at least 1.
            critique: list the flaws of the solution in a call of its own before each refinement (error analysis).
            settings: other fields of `Schedule`, such as `draft_tokens` or `kappa`.
        """
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ConfigError(f"`SR(rounds={rounds!r})` must be a whole number of at least 1")
        super().__init__(
            signature, _schedule(settings, widths=(1,) * rounds, distiller="last", critique=critique and rounds > 1)
        )


class PDR(Operator):
    """Parallel-Distill-Refine: rounds of parallel drafts, each round distilled into the workspace of the next.

    >>> PDR("question -> answer", Schedule(widths=(8, 4, 1), distiller="topk", k=2))
    >>> PDR("question -> answer", "fast", draft_tokens=512)
    """

    def __init__(
        self, signature: str | type[dspy.Signature], schedule: Schedule | str | None = None, **settings: Any
    ) -> None:
        """
        Args:
            signature: the task.
            schedule: a Schedule, or the name of a preset (`fast`, `balanced`, `quality`, `paper`).
            settings: fields of `Schedule` that replace those of `schedule`.
        """
        if isinstance(schedule, str):
            chosen = preset(schedule, **settings)
        elif isinstance(schedule, Schedule):
            chosen = schedule.replace(**settings) if settings else schedule
        elif schedule is None:
            chosen = Schedule(**settings)
        else:
            raise ConfigError(f"`PDR(schedule={schedule!r})` must be a Schedule or the name of a preset")
        super().__init__(signature, chosen)


def _schedule(settings: Mapping[str, Any], **fixed: Any) -> Schedule:
    clash = [name for name in fixed if name in settings]
    if clash:
        raise ConfigError(
            f"`{clash[0]}` is fixed by this operator; use `PDR(signature, Schedule(...))` to set it freely"
        )
    return Schedule(**{**settings, **fixed})


# --- the loop --------------------------------------------------------------------------------------------------------


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
    with tracing.program(type(program).__name__, str(program.schedule), lambda: run.ledger) as told:
        await run.check()
        outcome = await _rounds(run)
        told(outcome.stop)
    return outcome


async def _rounds(run: _Run) -> Outcome:
    program, schedule = run.program, run.schedule
    rounds: list[Round] = []
    workspaces: tuple[Workspace, ...] = ()
    for number, planned in enumerate(schedule.widths, start=1):
        width = len(workspaces) or planned  # a round may have been given drafts that the one before it saved
        with tracing.round_(number, width, lambda: run.ledger):
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


async def check(program: Operator, inputs: Mapping[str, Any], budget: Budget) -> None:
    """What can be known of a run before its first call: that it fits the model's context and the budget.

    Raises ConfigError or BudgetTooSmall, as the run itself would.
    """
    await _Run(program, inputs, "", 0, budget).check()


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
            parts.append(stages.Part(self.program.predictor(role), phase, self.sampling(role), inputs, places))

        known: dict[int, agreement.Done] = {}

        def ends(replies: Sequence[Reply | None]) -> tuple[int, ...] | None:
            for place, reply in enumerate(replies):
                if reply is not None and place not in known:
                    vote = agreement.vote(reply.reading.outputs, self.fields)
                    known[place] = agreement.Done(reply.call.failure is None, vote)
            done = [known.get(place) for place in range(len(replies))]
            return agreement.ended(done, quorum=schedule.quorum, agree=schedule.agree)

        replies = await stages.ask_until(
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
        votes = [agreement.vote(draft.outputs, self.fields) for draft in drafts]
        enough = agreement.agreed(votes, self.schedule.agree) == len(votes)
        return width - len(drafts) if enough else 0

    async def distill(self, number: int, drafts: tuple[Draft, ...], next_width: int) -> tuple[Workspace, ...] | None:
        """The workspaces of the next round; None when the budget does not reach for them."""
        usable = tuple(draft for draft in drafts if draft.ok)
        distiller = self.schedule.distiller
        if not await self.affords(self._distill_stage(number, usable, next_width)):
            return None
        made: list[Call] = []

        async def ask(role: Role, phase: Phase, values: Sequence[Mapping[str, Any]]) -> list[Reply]:
            return await self.ask(role, phase, values, round_number=number)

        round_ = distillers.Round(
            drafts=usable,
            next_width=next_width,
            schedule=self.schedule,
            seed=calls.seed_for(self.run_seed, self.example, Phase.DISTILL, number),
            ask=ask,
            count=self.count,
            room=await self.room(usable),
            oracle=calls.current().oracle,
            headings=self.headings,
        )
        distilled = await distillers.BY_NAME[distiller](round_)
        made.extend(distilled.calls)
        if self.schedule.critique:
            workspace = distilled.workspaces[0]
            (reply,) = await ask(Role.CRITIQUE, Phase.CRITIQUE, [{"workspace": workspace.text}])
            made.extend(reply.calls)
            self.flaws = sheltered(reply.text, self.headings)
        self.ledger += made
        return distilled.workspaces

    def _distill_stage(
        self, number: int, drafts: Sequence[Draft], next_width: int
    ) -> list[tuple[Role, Mapping[str, Any]]]:
        """The distill calls to come, with all solutions as their candidates: an upper bound of what they will read."""
        count = self.schedule.distill_calls(number - 1)
        if not count:
            return []
        everything = "\n\n".join(candidates([(draft.solution, draft.truncated) for draft in drafts], self.headings))
        if self.schedule.critique:
            return [(Role.CRITIQUE, {"workspace": everything})]
        role = distillers.ROLES[self.schedule.distiller]
        count = next_width if self.schedule.distiller == "topk_per_sample" else count
        return [(role, {"candidates": everything})] * count

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
        role = distillers.ROLES.get(self.schedule.distiller)
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
        roles = [Role.DRAFT]
        if self.schedule.rounds > 1:
            roles.append(Role.REFINE)
            if self.schedule.distiller in distillers.ROLES:
                roles.append(distillers.ROLES[self.schedule.distiller])
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


def plurality(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The first draft of the most common answer; of equally common ones, the one that came up first."""
    answers = [agreement.vote(draft.outputs, fields) for draft in drafts]
    votes = Counter(answers)
    return max(zip(drafts, answers, strict=True), key=lambda draft: votes[draft[1]])[0]
