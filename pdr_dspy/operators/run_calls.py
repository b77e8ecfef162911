"""The calls of a run: sent, put on its ledger, and reserved beforehand against its budgets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.account import Share
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Call, Ledger, Phase
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.errors import BudgetTooSmall
from pdr_dspy.operators.listening import how_streamed
from pdr_dspy.operators.question import Question, Stage
from pdr_dspy.prompts.roles import Role

_STATED_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,40}(\d[\d,]*)", re.IGNORECASE)
"""The context length in a server's refusal, as vLLM, llama.cpp and OpenAI write it."""


class RunCalls:
    """The calls of one run so far, and how to make further ones."""

    def __init__(self, question: Question, seed: int, budget: Budget, share: Share | None = None) -> None:
        """
        Args:
            question: provides prompts, predictors and caps.
            seed: the run seed.
            budget: the run's own limits.
            share: its share of the session's account; None without an account.
        """
        self.question = question
        self.seed = seed
        self.ledger = Ledger()
        self._budget = budget
        self._share = share
        self._under_way: list[tuple[Sequence[tuple[Role, Phase]], int]] = []
        """Role and phase of the calls that have begun and are not on the ledger yet, with their round."""

    # --- calls

    def site(self, phase: Phase, number: int) -> calls.CallSite:
        """The site of the calls of a phase of a round."""
        return calls.CallSite(phase, number, self.question.example, self.seed)

    async def ask(
        self,
        role: Role,
        site: calls.CallSite,
        values: Sequence[Mapping[str, Any]],
        *,
        output_format: OutputFormat | None = None,
    ) -> list[Reply]:
        """Call the model of a role, concurrently for each mapping of inputs besides the task's own."""
        question, sampling = self.question, self.question.sampling(role)
        replies = await calls.ask(
            question.predictors[role],
            [{**question.inputs, **own} for own in values],
            site=site,
            sampling=sampling if output_format is None else sampling._replace(output_format=output_format),
            streamed="" if dspy.settings.send_stream is None else how_streamed(question.schedule, role, site.round),
        )
        if all(reply.call.failure is None for reply in replies):
            return replies
        return [await self.explained(role, own, reply) for own, reply in zip(values, replies, strict=True)]

    async def explained(self, role: Role, values: Mapping[str, Any], reply: Reply) -> Reply:
        """A call that the server refused for its length, with an explanation and a remedy."""
        failure = reply.call.failure
        if failure is None or not failure.startswith(dspy.ContextWindowExceededError.__name__):
            return reply
        question = self.question
        (prompt,) = await question.prompt_sizes([(role, values)])
        stated = _STATED_CONTEXT.search(failure)
        context = stated[1].replace(",", "") if stated else await question.context()
        beyond = f"the model's context{'' if context is None else f' of {context} tokens'} is too small"
        holds = {Role.DRAFT: "", Role.REFINE: f", its workspace up to `kappa={question.schedule.kappa}`"}
        reads = holds.get(role, ", the solutions of the round in it")
        remedy = {Role.DRAFT: "the caps", Role.REFINE: "`kappa` or the caps"}.get(role, "the caps or the widths")
        why = (
            f"{beyond} for a {role} prompt of about {prompt} tokens{reads}, and {question.cap(role)} for the "
            f"answer; lower {remedy}, or serve the model with a longer context ({failure})"
        )
        return reply._replace(call=reply.call.model_copy(update={"failure": why}))

    # --- ledger

    def begin(self, asked: Sequence[tuple[Role, Phase]], number: int) -> None:
        """Note the roles and phases of concurrent calls of a round, before they are sent."""
        self._under_way.append((asked, number))

    def end(self, made: Iterable[Call]) -> None:
        """Put the calls that were begun on the ledger."""
        self.record(made)
        self._under_way.clear()

    def record(self, made: Iterable[Call]) -> None:
        """Put further calls on the ledger, such as those of a check."""
        self.ledger += made

    def record_cancelled(self) -> None:
        """Put the calls under way on the ledger, after the run was cancelled: their cost is unknown."""
        if not self._under_way:
            return
        cancelled: list[Call] = []
        for asked, number in self._under_way:
            index: Counter[Phase] = Counter()
            for role, phase in asked:
                lm, cap = calls.serving(self.question.predictors[role]), self.question.cap(role)
                place = {"phase": phase, "round": number, "index": index[phase], "price": calls.price_of(lm)}
                cancelled.append(Call(**place, model=lm.model, cap=cap, finish="cancelled", fate="left"))
                index[phase] += 1
        self.end(cancelled)

    def close(self, result: Any) -> None:
        """End the run, with its result or None: the calls under way are recorded, and the account is settled."""
        self.record_cancelled()
        if self._share is not None:
            self._share.close(self.ledger, result)

    # --- budgets

    async def preflight(self) -> None:
        """Check the context and the worst case of the first round, before anything is spent.

        Raises ConfigError or BudgetTooSmall.
        """
        question = self.question
        await question.check_context()
        schedule = question.schedule
        width = schedule.widths[0]
        most = await self._most([(Role.DRAFT, {})] * width)
        if most is not None and not self._reserve(most, schedule.waves(width)):
            asked_again = " or set `json_fallback=False`," if await question.fallback(Role.DRAFT) else ""
            raise BudgetTooSmall(
                f"{self._limits()} is below the worst case of the first round of {schedule}: {sum(most)} "
                f"tokens; raise it,{asked_again} or lower `draft_tokens` or the first width"
            )

    async def affords(self, stage: Stage, *, waves: int = 1) -> bool:
        """Reserve tokens: whether the worst case of a stage fits on top of those spent."""
        most = await self._most(stage)
        return most is None or self._reserve(most, waves)

    @property
    def total_is_bounded(self) -> bool:
        """Whether this run has a limit on total tokens."""
        shared = None if self._share is None else self._share.account.budget.total
        return self._budget.total is not None or shared is not None

    @property
    def _limited_share(self) -> Share | None:
        """Its share of an account with a limit."""
        return None if self._share is None or self._share.account.budget.unlimited else self._share

    async def _most(self, stage: Stage) -> list[int] | None:
        """The maximum tokens of each call of a stage; None if nothing has to be reserved."""
        if not stage or (self._budget.unlimited and self._limited_share is None):
            return None
        return await self.question.most(stage)

    def _reserve(self, most: Sequence[int], waves: int) -> bool:
        sequential, total, shared = waves * max(most), sum(most), self._limited_share
        return self._budget.allows(self.ledger, sequential=sequential, total=total) and (
            shared is None or shared.allows(self.ledger, sequential=sequential, total=total)
        )

    def _limits(self) -> str:
        """The budgets of this run, as code."""
        own = [] if self._budget.unlimited else [f"`{self._budget!r}`"]
        shared = self._limited_share
        if shared is not None:
            others = len(shared.account.runs) > 1
            own.append(f"{'what is left of ' if others else ''}`{shared.account.budget!r}`")
        return " or ".join(own)
