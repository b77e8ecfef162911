"""Instruction candidates for the roles of a program, written by a model that reads the task, the role and failures.

    proposals = propose(student, trainset, failures=failures_of(student, trainset, report), lm=lm)
    space = space.extend(instructions=proposals.instructions)

Reasons against DSPy's `GroundedProposer` (3.4.1, tried on a PDR of three roles): it takes no failures, only scores of
earlier instructions; it describes a role by the source code of the program's class, which for an operator is a
constructor without any information on workspaces and rounds; its summary of the data set reads training questions with
their answers, in calls of its own that no ledger records (22 calls for 6 texts and 30 questions); and it neither bounds
nor compares nor checks its results. MIPROv2 and COPRO, which write their texts that way, and GEPA, which does reflect
on failures, run on operators unchanged: `feedback` turns a verifier into GEPA's metric.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Ledger, Phase
from pdr_dspy.calls.predict import Reply
from pdr_dspy.calls.request import Sampling
from pdr_dspy.errors import ConfigError, DataError, EndpointError
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.question import TEMPLATE_TOKENS
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.prompts.form import label
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, derive, signature_of
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.proposing.failures import Failure, start_of
from pdr_dspy.search.proposing.instruction_checks import Known, form_of, refusal, tidied
from pdr_dspy.verifiers.function import as_verifier

QUESTIONS, FAILURES = 3, 3
"""Training questions and failures in one call's prompt; fewer if the model's context is short."""

TIPS = {
    "plain": "Write what you would want to be told if you had to do this work well.",
    "short": "Be brief: three or four sentences, nothing that goes without saying.",
    "checks": "Name concrete checks that would have caught the failures below, or failures like them.",
    "order": "Lay down an order of work, one numbered step to a line.",
    "pitfalls": "Warn of the mistakes that are typical here, and say what to do instead.",
    "doubt": "Say when to trust what is given, when to doubt it, and how to tell.",
}
"""One tip for each call, for variety."""

WRITER = """\
You improve the instructions that a language model works by. A program solves a task in several calls. Each call has a
role, and each role has instructions of its own. Write better instructions for the one role that is described below.
Write to the model that will read them. Keep everything that the task demands, since your text replaces the current one.
Say how to work, not what the answers are: name no answer, and copy no question. Leave out the form of the reply, which
the program adds. Write at most {words} words."""

WORK = {
    Role.DRAFT: "It solves the problem from nothing. Several drafts are made side by side, and none sees another.",
    Role.REFINE: "It reads the problem and a workspace that was made from earlier attempts at it: notes about them, "
    "some of them whole, or only the last one. The workspace may be wrong. It writes a complete solution of its own.",
    Role.DISTILL: "It reads the problem and all attempts of a round, and writes notes. The next attempts are made with "
    "these notes and without the attempts. It adds no solution of its own.",
    Role.SELECT: "It reads the problem and all attempts of a round, and picks those that the next attempts will read. "
    "How many it picks is said elsewhere: name no number.",
    Role.CRITIQUE: "It reads the problem and one solution, and lists the flaws for the call that will revise it. It "
    "writes no new solution.",
}
"""The work of each role in the loop, for a reader without knowledge of it."""


class Proposal(BaseModel):
    """One instruction candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    text: str
    tokens: int
    """Tokens of `text`, as the model that will read it counts them."""
    tip: str
    """The key in `TIPS` of the writer's tip."""


class Refused(BaseModel):
    """A reply without a usable candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    reason: str
    text: str = ""
    """The beginning of the reply."""
    tip: str


class Proposals(BaseModel):
    """The proposals of a model, with their cost; JSON both ways, for storing them with a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    proposals: tuple[Proposal, ...] = ()
    refused: tuple[Refused, ...] = ()
    ledger: Ledger = Ledger()
    """The writer's calls, as `Phase.PROPOSE`: they are not on the path of any program."""
    model: str = ""
    seed: int = 0
    shown: tuple[str, ...] = ()
    """Identities of the questions that the writer saw: do not use them to confirm a search."""

    @property
    def instructions(self) -> dict[str, tuple[str, ...]]:
        """Role to texts, as taken by `Space(instructions=...)` and `Space.extend(instructions=...)`."""
        roles = dict.fromkeys(proposal.role for proposal in self.proposals)
        return {role.value: tuple(own.text for own in self.proposals if own.role is role) for role in roles}

    def __str__(self) -> str:
        head = (
            f"{len(self.proposals)} proposals by {self.model}, {len(self.refused)} refused, {self.ledger.total} tokens"
        )
        kept = [
            f"{proposal.role} ({proposal.tip}, {proposal.tokens} tokens): {proposal.text}"
            for proposal in self.proposals
        ]
        return "\n".join([head, *kept, *(f"{one.role} ({one.tip}) refused: {one.reason}" for one in self.refused)])


def propose(
    student: dspy.Module,
    trainset: Sequence[dspy.Example],
    *,
    failures: Sequence[Failure] = (),
    lm: dspy.LM,
    roles: Sequence[str] | None = None,
    count: int = 4,
    max_tokens: int = 512,
    thinking_tokens: int = 0,
    temperature: float = 1.0,
    held_out: Sequence[dspy.Example] = (),
    seed: int = 0,
) -> Proposals:
    """Request instructions from `lm`, `count` calls for each role, and keep the usable ones.

    The prompt of each call has the task's fields and the current instructions, the work of the role, a few training
    questions without their answers, a few failures and one tip. A reply is refused, with a reason, if the call failed,
    if it is truncated or too long, is not prose, repeats the reply form that `signatures.render` adds, copies a
    training question or reveals an answer, or is nearly equal to another or to the student's own. There are no retries.
    Equal arguments make equal calls; inside `calls.session(store=...)` they are replayed.

    Args:
        student: an operator, or a module whose operators have one task. It is not changed.
        trainset: the questions of the search's trials. If `PDROptimizer` is to split it, split it first (see
            `search.confirmation.split`), so that no question of the confirmation is shown.
        failures: of the student; see `failures_of`.
        lm: the writer.
        roles: the roles to write for; None is those that the student's schedule calls.
        count: calls for each role.
        max_tokens: the maximum length of a text, in tokens of the model that will read it.
        thinking_tokens: additional tokens for a thinking writer's thought.
        temperature: of the writer.
        held_out: questions that must not be shown; failures on them are left out.
        seed: of the samples, and of the combinations of questions, failures and tips.

    Raises:
        ConfigError: an invalid argument, or a context too short for the shortest prompt.
        DataError: `trainset` is empty, or shares a question with `held_out`.
        EndpointError: every call failed.
    """
    operator = operator_of(student)
    chosen = _roles(operator, roles)
    for name, value in (("count", count), ("max_tokens", max_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`propose({name}={value!r})` must be a whole number of at least 1")
    if not isinstance(lm, dspy.BaseLM):
        raise ConfigError(f"`propose(lm={lm!r})` must be a dspy.LM, e.g. `serving.connect(model, api_base)`")
    if not trainset:
        raise DataError("`propose(trainset=[])` is empty; the writer needs questions")
    hidden = {calls.identity(inputs_of(student, example)) for example in held_out}
    questions = [inputs_of(student, example) for example in trainset]
    if any(calls.identity(inputs) in hidden for inputs in questions):
        raise DataError("`propose(trainset=..., held_out=...)` share a question; give the questions of the trials only")
    usable = [failure for failure in failures if failure.id not in hidden]
    writer = _Writer(operator, questions, usable, lm, max_tokens, random.Random(seed))
    jobs = [(role, tip) for role in chosen for tip in writer.tips(count)]
    sampling = Sampling(max_tokens + thinking_tokens, temperature)

    async def write() -> tuple[list[Reply], list[int]]:
        prompts = await writer.prompts(jobs, sampling.cap)
        with dspy.context(adapter=None):  # this library's prompt form, independent of the user's adapter
            replies = await calls.ask(
                writer.predictor,
                prompts,
                site=calls.CallSite(Phase.PROPOSE, 1, "instructions", seed),
                sampling=sampling,
            )
        sizes, _ = await calls.count_tokens(writer.reader, [tidied(reply.text) for reply in replies])
        return replies, sizes

    replies, sizes = event_loop.run(write)
    if all(reply.call.finish == "error" for reply in replies):
        raise EndpointError(f"every call of `propose` failed at {lm.model}: {replies[0].call.failure}")
    known = Known.of(trainset, questions, operator.task)
    kept: list[Proposal] = []
    refused: list[Refused] = []
    for (role, tip), reply, size in zip(jobs, replies, sizes, strict=True):
        text = tidied(reply.text)
        own = _signature(operator, role)
        reason = refusal(
            text,
            reply.call,
            tokens=size,
            max_tokens=max_tokens,
            form=form_of(own),
            known=known,
            own=own.instructions,
            others=[proposal.text for proposal in kept if proposal.role is role],
        )
        if reason is None:
            kept.append(Proposal(role=role, text=text, tokens=size, tip=tip))
        else:
            refused.append(Refused(role=role, reason=reason, text=reply.text[:300], tip=tip))
    return Proposals(
        proposals=tuple(kept),
        refused=tuple(refused),
        ledger=Ledger(calls=tuple(reply.call for reply in replies)),
        model=lm.model,
        seed=seed,
        shown=tuple(sorted(writer.shown)),
    )


def feedback(verifier: Any) -> Any:
    """A verifier as the metric of `dspy.GEPA`: five arguments, and a text besides the score.

    The text has the verdict, the gold answer, and for a role that reads a workspace or candidates the hint that these
    are earlier attempts. For `dspy.BetterTogether(metric=...)` use the verifier itself.
    """

    verifier = as_verifier(verifier)

    def metric(
        example: dspy.Example,
        prediction: dspy.Prediction,
        trace: Any = None,
        pred_name: Any = None,
        pred_trace: Any = None,
    ) -> dspy.Prediction:
        del trace
        score = verifier(example, prediction)
        gold = example.get(getattr(verifier, "gold", None) or "answer")
        words = [f"The program's answer scored {float(score):g}.", str(getattr(score, "detail", "") or "")]
        words += [f"Right is: {gold}."] if gold is not None and float(score) < 1 else []
        role = str(pred_name or "").rpartition(".")[2]
        if role in set(Role):
            words.append(f"This call's role is {role}. {WORK[Role(role)]}")
        del pred_trace
        return dspy.Prediction(score=float(score), feedback=" ".join(word for word in words if word))

    return metric


def operator_of(student: dspy.Module) -> Operator:
    """The operator whose task the instructions are for. Raises ConfigError for none, or for different tasks."""
    found = operators_in(student) if isinstance(student, dspy.Module) else {}
    if not found:
        raise ConfigError(f"`propose(student={type(student).__name__}())` holds no LongCoT, SR or PDR")
    first = next(iter(found.values()))
    if any(not operator.task.equals(first.task) for operator in found.values()):
        raise ConfigError(
            f"`propose(student={type(student).__name__}())` has operators with different tasks ({', '.join(found)}), "
            "and instructions would be given to all of them; propose for each operator separately"
        )
    return first


def _roles(operator: Operator, roles: Sequence[str] | None) -> list[Role]:
    if roles is None:
        return [role for role in Role if isinstance(operator.__dict__.get(role.value), dspy.Predict)]
    unknown = [role for role in roles if role not in set(Role)]
    if isinstance(roles, str) or unknown or not roles:
        raise ConfigError(f"`propose(roles={roles!r})` must list some of the roles {', '.join(Role)}")
    return [Role(role) for role in dict.fromkeys(roles)]


def _signature(operator: Operator, role: Role) -> type[dspy.Signature]:
    """The signature of a role; its default if the operator's schedule does not call it."""
    found = operator.__dict__.get(role.value)
    schedule = operator.schedule
    last = schedule.rounds > 1 and schedule.distill_by.chain
    return signature_of(found) if found is not None else derive(operator.task, role, k=schedule.k, last=last)


class _Writer:
    """Composes the prompts."""

    def __init__(
        self,
        operator: Operator,
        questions: Sequence[Mapping[str, Any]],
        failures: Sequence[Failure],
        lm: dspy.LM,
        max_tokens: int,
        draw: random.Random,
    ) -> None:
        self.operator = operator
        self.questions = questions
        self.failures = failures
        self.draw = draw
        self.shown: set[str] = set()
        fields = "task, role, current_instructions, questions, failures, advice -> solution"
        signature = dspy.ensure_signature(fields, WRITER.format(words=max(max_tokens * 3 // 5, 1)))
        self.predictor = dspy.Predict(cast("type[dspy.Signature]", signature))
        self.predictor.lm = lm
        self.lm = lm
        own = operator.predictor(Role.DRAFT).lm or dspy.settings.lm
        self.reader: dspy.LM = own if isinstance(own, dspy.LM) else lm

    def tips(self, count: int) -> list[str]:
        """As many tips as calls, in an order given by the seed, each equally often."""
        names: list[str] = []
        while len(names) < count:
            names += self.draw.sample(list(TIPS), len(TIPS))
        return names[:count]

    async def prompts(self, jobs: Sequence[tuple[Role, str]], cap: int) -> list[dict[str, str]]:
        """The writer's inputs for each call, with fewer questions and failures if the context is short."""
        drawn = [(role, tip, self._sample(self.questions, QUESTIONS), self._failures(role)) for role, tip in jobs]
        context = (await calls.capabilities(self.lm)).context_length
        for most in range(max(QUESTIONS, FAILURES), -1, -1):
            prompts = [
                self._inputs(role, tip, questions[:most], failures[:most]) for role, tip, questions, failures in drawn
            ]
            if context is None or max(await self._sizes(prompts)) + cap <= context:
                self.shown = {calls.identity(one) for _, _, some, _ in drawn for one in some[:most]}
                self.shown |= {one.id for _, _, _, some in drawn for one in some[:most] if one.id}
                return prompts
        raise ConfigError(
            f"`propose(max_tokens=...)`: the writer {self.lm.model} has a context of {context} tokens, too short for "
            f"the shortest prompt and a reply of {cap}; lower `max_tokens`, or use a model with a longer context"
        )

    async def _sizes(self, prompts: Sequence[Mapping[str, str]]) -> list[int]:
        texts = []
        for inputs in prompts:
            with dspy.context(adapter=None):
                messages = render(signature_of(self.predictor), [], inputs)
            texts.append(prompt_text(messages))
        counts, _ = await calls.count_tokens(self.lm, texts)
        return [size + TEMPLATE_TOKENS for size in counts]

    def _sample(self, items: Sequence[Any], most: int) -> list[Any]:
        return self.draw.sample(list(items), min(most, len(items)))

    def _failures(self, role: Role) -> list[Failure]:
        """For roles after the first draft, failures with a right earlier attempt come first."""
        drawn = self._sample(self.failures, len(self.failures))
        if role is not Role.DRAFT:
            drawn.sort(key=lambda failure: not failure.right)
        return drawn[:FAILURES]

    def _inputs(
        self, role: Role, tip: str, questions: Sequence[Mapping[str, Any]], failures: Sequence[Failure]
    ) -> dict[str, str]:
        signature = _signature(self.operator, role)
        shown = [
            json.dumps({key: start_of(str(value), 600) for key, value in one.items()}, ensure_ascii=False)
            for one in questions
        ]
        return {
            "task": _task(self.operator.task),
            "role": f"{role}. {WORK[role]}",
            "current_instructions": signature.instructions,
            "questions": "\n".join(shown) or "(none)",
            "failures": "\n\n".join(failure.describe(workspace=role is not Role.DRAFT) for failure in failures)
            or "(none known)",
            "advice": TIPS[tip],
        }


def _task(task: type[dspy.Signature]) -> str:
    def listed(fields: Mapping[str, Any]) -> str:
        described = []
        for name, field in fields.items():
            desc = (field.json_schema_extra or {}).get("desc") or ""
            described.append(label(name) + ("" if desc in ("", f"${{{name}}}") else f" ({desc})"))
        return ", ".join(described)

    return f"{task.instructions}\nGiven: {listed(task.input_fields)}. Wanted: {listed(task.output_fields)}."
