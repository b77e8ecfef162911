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

import itertools
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

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
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.proposing.failures import Failure
from pdr_dspy.search.proposing.instruction_checks import Known, form_of, refusal, tidied
from pdr_dspy.search.proposing.writer import Earlier, Job, Parent, Writer


class Proposal(BaseModel):
    """One instruction candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    text: str
    tokens: int
    """Tokens of `text`, as the model that will read it counts them."""
    tip: str
    """The key in `TIPS` of the writer's tip."""
    round: int = 1
    """The round of writing, from 1."""
    parent: int | None = None
    """The trial whose instructions it improves; None for the student's, outside of a search."""


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

    def __add__(self, later: Proposals) -> Proposals:
        """Those of two rounds together."""
        return Proposals(
            proposals=self.proposals + later.proposals,
            refused=self.refused + later.refused,
            ledger=self.ledger + later.ledger,
            model=later.model or self.model,
            seed=self.seed,
            shown=tuple(sorted({*self.shown, *later.shown})),
        )

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
    parents: Mapping[str, Sequence[Parent]] = MappingProxyType({}),
    earlier: Mapping[str, Sequence[Earlier]] = MappingProxyType({}),
    round: int = 1,
) -> Proposals:
    """Request instructions from `lm`, `count` calls for each role, and keep the usable ones.

    The prompt of each call has the task's fields, the work of the role, the schedule in words, the current instructions
    with their score, earlier texts with theirs, a few training questions without their answers, a few failures, and one
    tip; it has at most `writer.PROMPT_TOKENS` tokens. A reply is refused, with a reason, if the call failed, if it is
    truncated or too long, is not prose, repeats the reply form that `signatures.render` adds, copies a training
    question or reveals an answer, or is nearly equal to another or to the current text. There are no retries. Equal
    arguments make equal calls; inside `calls.session(store=...)` they are replayed.

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
        parents: by role, the programs whose instructions are improved, in turn; a role without any improves the
            student's, from its `failures`.
        earlier: by role, texts that were tried before, the best first.
        round: from 1; another round of the same seed draws other samples.

    Raises:
        ConfigError: an invalid argument, or a context too short for the shortest prompt.
        DataError: `trainset` is empty, or shares a question with `held_out`.
        EndpointError: every call failed.
    """
    operator = operator_of(student)
    chosen = _roles(operator, roles)
    for name, value in (("count", count), ("max_tokens", max_tokens), ("round", round)):
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
    writer = Writer(
        operator.task,
        questions,
        lm,
        max_tokens=max_tokens,
        earlier=earlier,
        hidden=hidden,
        draw=random.Random(seed if round == 1 else f"{seed}|{round}"),
    )
    own = Parent(student, failures)
    jobs = [
        Job(role, tip, parent)
        for role in chosen
        for tip, parent in zip(writer.tips(count), itertools.cycle(parents.get(role.value) or (own,)), strict=False)
    ]
    sampling = Sampling(max_tokens + thinking_tokens, temperature)
    reads = operator.predictor(Role.DRAFT).lm or dspy.settings.lm
    reader: dspy.LM = reads if isinstance(reads, dspy.LM) else lm

    async def write() -> tuple[list[Reply], list[int]]:
        prompts = await writer.prompts(jobs, sampling.cap)
        with dspy.context(adapter=None):  # this library's prompt form, independent of the user's adapter
            replies = await calls.ask(
                writer.predictor,
                prompts,
                site=calls.CallSite(Phase.PROPOSE, round, "instructions", seed),
                sampling=sampling,
            )
        sizes, _ = await calls.count_tokens(reader, [tidied(reply.text) for reply in replies])
        return replies, sizes

    replies, sizes = event_loop.run(write)
    if all(reply.call.finish == "error" for reply in replies):
        raise EndpointError(
            f"every call that writes instructions failed at {lm.model}: {replies[0].call.failure}; start that model, "
            "name another as `prompt_model` (`--prompt-model`), or search without `prompts`"
        )
    known = Known.of(trainset, questions, operator.task)
    kept: list[Proposal] = []
    refused: list[Refused] = []
    for job, reply, size in zip(jobs, replies, sizes, strict=True):
        text, role = tidied(reply.text), job.role
        current = job.parent.signature(role)
        before = [own.signature(role).instructions, *(one.text for one in earlier.get(role.value, ()))]
        reason = refusal(
            text,
            reply.call,
            tokens=size,
            max_tokens=max_tokens,
            form=form_of(current),
            known=known,
            own=current.instructions,
            others=[*before, *(proposal.text for proposal in kept if proposal.role is role)],
        )
        if reason is None:
            given = {"role": role, "text": text, "tokens": size, "tip": job.tip}
            kept.append(Proposal(**given, round=round, parent=job.parent.trial))
        else:
            refused.append(Refused(role=role, reason=reason, text=reply.text[:300], tip=job.tip))
    return Proposals(
        proposals=tuple(kept),
        refused=tuple(refused),
        ledger=Ledger(calls=tuple(reply.call for reply in replies)),
        model=lm.model,
        seed=seed,
        shown=tuple(sorted(writer.shown)),
    )


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
