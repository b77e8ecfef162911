"""One question with its schedule and predictors: its prompts, their sizes, and the caps of its calls.

Everything here is known before a call is made. Sizes are upper bounds: they decide whether a stage fits the model's
context and the budget before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls import fallback
from pdr_dspy.calls.request import Sampling
from pdr_dspy.errors import PromptTooLong
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.content import media_count, prompt_text
from pdr_dspy.prompts.form import form_of, label
from pdr_dspy.prompts.render import most_bytes, render
from pdr_dspy.prompts.roles import Role, signature_of

TEMPLATE_TOKENS = 24
"""Tokens reserved for a chat template around a system and a user message."""
MEDIA_TOKENS = 1024
"""Tokens reserved for an image or another attachment: about what models use for an image of a million pixels. Only the
server knows the exact number."""
HEADING = "Candidate 100 (unfinished):\n"
"""At least as long as any heading above a candidate."""

Stage = Sequence[tuple[Role, Mapping[str, Any]]]
"""Concurrent calls: the role of each, and its inputs besides the task's."""


@dataclass(frozen=True)
class Question:
    """A question, and the calls that answer it."""

    task: type[dspy.Signature]
    schedule: Schedule
    predictors: Mapping[Role, dspy.Predict]
    """The predictor of every role that the schedule calls."""
    inputs: Mapping[str, Any]

    @cached_property
    def lm(self) -> dspy.LM:
        """The model of the drafts. Raises ConfigError if none is set."""
        return calls.serving(self.predictors[Role.DRAFT])

    @cached_property
    def example(self) -> str:
        """The question's identity."""
        return calls.identity(self.inputs)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Names of the task's output fields."""
        return form_of(self.task).outputs

    @cached_property
    def headings(self) -> tuple[str, ...]:
        """The labels of the task's inputs; solutions are quoted so that they cannot pass for one."""
        return tuple(label(name) for name in self.task.input_fields)

    def lm_of(self, role: Role) -> dspy.LM:
        """The model of a role."""
        return calls.serving(self.predictors[role])

    async def context(self, role: Role = Role.DRAFT) -> int | None:
        """The context length of a role's model, in tokens; None if its server does not report it."""
        return (await calls.capabilities(self.lm_of(role))).context_length

    async def count(self, texts: Sequence[str], role: Role | None = None) -> list[int]:
        """Tokens of each text, as the model of a role counts them; None is the role that reads workspaces."""
        reader = role or (Role.REFINE if Role.REFINE in self.predictors else Role.DRAFT)
        counts, _ = await calls.count_tokens(self.lm_of(reader), texts)
        return counts

    def cap(self, role: Role) -> int:
        """Maximum output tokens of a role's calls, thinking included."""
        schedule = self.schedule
        if role is Role.DRAFT:
            return schedule.draft_tokens + schedule.thinking_tokens
        own = schedule.refine_cap if role is Role.REFINE else schedule.distill_cap
        return own + schedule.thinking_tokens

    def sampling(self, role: Role) -> Sampling:
        """Cap and temperature of a role's calls."""
        schedule = self.schedule
        temperature = schedule.temperature
        if role not in (Role.DRAFT, Role.REFINE) and schedule.distill_temperature is not None:
            temperature = schedule.distill_temperature
        return Sampling(
            self.cap(role),
            temperature,
            schedule.top_p,
            schedule.thinking_tokens,
            json_fallback=schedule.json_fallback and role in (Role.DRAFT, Role.REFINE),
        )

    async def most(self, stage: Stage) -> list[int]:
        """The maximum tokens that each call of a stage can cost."""
        sizes = await self.prompt_sizes(stage)
        budgets = {role: (await calls.capabilities(self.lm_of(role))).thinking_budget for role, _ in stage}
        fallbacks = {role: await self.fallback(role) for role in {role for role, _ in stage}}
        return [
            self.sampling(role).most(size, continued=budgets[role] == "continue", fallback=fallbacks[role])
            for size, (role, _) in zip(sizes, stage, strict=True)
        ]

    async def fallback(self, role: Role) -> int:
        """The maximum tokens that a fallback request for JSON adds to the turn that it reads again; 0 if there will be
        none."""
        predictor = self.predictors[role]
        about = await calls.capabilities(calls.serving(predictor))
        return fallback.most_tokens(signature_of(predictor), about, self.sampling(role))

    async def prompt_sizes(self, stage: Stage) -> list[int]:
        """Tokens of the prompt of each call of a stage."""
        keys = [(role, tuple(sorted(values.items()))) for role, values in stage]
        prompts = {key: self._prompt(key[0], dict(key[1])) for key in dict.fromkeys(keys)}  # siblings share one
        sizes: dict[Any, int] = {}
        for model in {id(self.lm_of(role)): role for role, _ in prompts}.values():
            own = [key for key in prompts if self.lm_of(key[0]) is self.lm_of(model)]
            counts = await self.count([prompts[key][0] for key in own], model)
            sizes |= {key: n + MEDIA_TOKENS * prompts[key][1] for key, n in zip(own, counts, strict=True)}
        return [sizes[key] + TEMPLATE_TOKENS for key in keys]

    def most_tokens(self, role: Role, values: Mapping[str, Any]) -> int:
        """A bound on `prompt_sizes` without any request: a token stands for at least one byte of text."""
        text, media = self._prompt(role, values)
        return TEMPLATE_TOKENS + MEDIA_TOKENS * media + len(text.encode("utf-8", "replace"))

    def _surely_fits(self, role: Role, tokens: int) -> bool:
        """Whether the prompt fits by a rough bound, for which it is not rendered."""
        predictor = self.predictors[role]
        most = most_bytes(signature_of(predictor), predictor.demos, self.inputs)
        return most is not None and TEMPLATE_TOKENS + most <= tokens

    def _prompt(self, role: Role, values: Mapping[str, Any]) -> tuple[str, int]:
        """The text of a prompt, and the number of its images and other attachments."""
        predictor = self.predictors[role]
        messages = render(signature_of(predictor), predictor.demos, {**self.inputs, **values})
        return prompt_text(messages), media_count(messages)

    async def room(self, drafts: Sequence[Draft]) -> int | None:
        """Tokens that the model's context leaves for the candidates of a distill call; None if they fit anyway."""
        role = self.schedule.distill_by.role
        context = None if role is None else await self.context(role)
        if context is None or role is None:
            return None
        texts = [f"{draft.solution}\n{draft.result}" for draft in drafts]
        shown = "\n\n".join(f"{HEADING}{text}" for text in texts)
        quoting = sum(2 * len(text.splitlines()) + text.count("<") + text.count("[") for text in texts)  # `sheltered`
        if self.most_tokens(role, {"candidates": shown}) + quoting + self.cap(role) <= context:
            return None
        (prompt,) = await self.prompt_sizes([(role, {})])
        return max(context - prompt - self.cap(role), 0)

    async def check_context(self) -> None:
        """Raise PromptTooLong if caps, kappa and prompt do not fit the context, where the server reports it."""
        close: dict[Role, int] = {}
        """The contexts of the roles whose prompts have to be counted."""
        for role in self.predictors:
            context = None if role is Role.CRITIQUE else await self.context(role)
            if context is not None:
                rest = context - self.schedule.kappa - self.cap(role)
                if not self._surely_fits(role, rest) and self.most_tokens(role, {}) > rest:
                    close[role] = context
        if not close:
            return
        sizes = await self.prompt_sizes([(role, {}) for role in close])
        for (role, context), prompt in zip(close.items(), sizes, strict=True):
            cap = self.cap(role)
            kappa = 0 if role is Role.DRAFT else self.schedule.kappa  # a distiller should read at least as much
            if prompt + kappa + cap > context:
                raise PromptTooLong(
                    f"a {role} call may need {prompt} (prompt) + {kappa} (`kappa`) + {cap} (its cap, thinking "
                    f"included) = {prompt + kappa + cap} tokens, but the model's context is {context}; "
                    "lower `kappa` or the caps, or serve the model with a longer context"
                )
