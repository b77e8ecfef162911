"""How the solutions of a round become the workspaces of the next (arXiv 2510.01123, section 3 and figure 2b).

A distiller is given the drafts of a round and how many drafts the next one has, and returns that many workspaces (the
same object where they are shared) with the calls it made. Candidates are shuffled with the stage's seed, so neither the
order in which drafts finished nor their indices can matter. kappa is enforced here, by `workspace.fit`, always.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.calls.predict import Reply
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import DistillerName, Schedule
from pdr_dspy.operators.workspace import Count, Draft, Workspace, candidates, fit, shown
from pdr_dspy.prompts.roles import Role
from pdr_dspy.text.quoting import sheltered


class Distilled(NamedTuple):
    """What a distiller returns."""

    workspaces: tuple[Workspace, ...]
    """One for each draft of the next round."""
    calls: tuple[Call, ...] = ()


Ask = Callable[[Role, Phase, Sequence[Mapping[str, Any]]], Awaitable[list[Reply]]]
"""Make calls of a role, side by side; inputs beside the task's own."""


@dataclass(frozen=True)
class Round:
    """What a distiller works on."""

    drafts: tuple[Draft, ...]
    """Those of the round that have text, in the order of their indices."""
    next_width: int
    schedule: Schedule
    seed: int
    ask: Ask
    count: Count
    room: int | None = None
    """Tokens that the model's context leaves for candidates in a distill call; None where it is not known."""
    oracle: Callable[[Mapping[str, Any]], float] | None = None
    headings: tuple[str, ...] = ()
    """Labels of the task's inputs, for which no solution may pass."""

    def rng(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, the same in every run with this seed."""
        return random.Random(hashlib.sha256(f"{self.seed}|{purpose}".encode()).digest())

    def shuffled(self, purpose: str) -> list[Draft]:
        """The drafts in an order that says nothing about how they came."""
        order = list(self.drafts)
        self.rng(purpose).shuffle(order)
        return order

    async def admit(self, drafts: Sequence[Draft]) -> Workspace:
        """A workspace of these solutions, cut to kappa; empty when there are none."""
        blocks = candidates(drafts, self.headings)
        return await self.workspace(blocks, drafts, keep="end")

    async def workspace(
        self, blocks: Sequence[str], drafts: Sequence[Draft], *, keep: Literal["start", "end"]
    ) -> Workspace:
        """Texts made of these drafts as a workspace, cut to kappa; a tally of the whole round, where the schedule wants
        one, comes first and stays whole if it fits."""
        kappa, head = self.schedule.kappa, tally(self.drafts) if self.schedule.tally else ""
        text, tokens, cut = await fit(blocks, kappa, self.count, keep=keep)
        if head and text:
            (room,) = await self.count([f"{head}\n\n"])
            while room < kappa:  # two texts together may count for more than both alone
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


Distiller = Callable[[Round], Awaitable[Distilled]]


async def summary(round_: Round) -> Distilled:
    """D^S: one call writes a summary of all solutions, shared by all drafts of the next round.

    A summary that the model could not write leaves the solutions themselves, cut to kappa.
    """
    order = round_.shuffled("summary")
    (reply,) = await round_.ask(Role.DISTILL, Phase.DISTILL, [{"candidates": await _shown(round_, order)}])
    if reply.call.failure is not None:
        workspace = await round_.admit(order)
    else:
        notes = sheltered(reply.text, round_.headings)
        workspace = await round_.workspace([notes], order, keep="start")
        workspace = workspace.model_copy(update={"cut": workspace.cut or reply.call.truncated})
    return Distilled((workspace,) * round_.next_width, reply.calls)


async def topk(round_: Round) -> Distilled:
    """D^E, shared: the model checks all solutions and picks k, the same for all drafts of the next round."""
    order = round_.shuffled("topk")
    (reply,) = await round_.ask(Role.SELECT, Phase.SELECT, [{"candidates": await _shown(round_, order)}])
    chosen, made = _picked(round_, reply, order)
    return Distilled((await round_.admit(chosen),) * round_.next_width, made)


async def topk_per_sample(round_: Round) -> Distilled:
    """D^E, per sample: one independent pick of k for each draft of the next round, each over its own order."""
    orders = [round_.shuffled(f"topk {index}") for index in range(round_.next_width)]
    asked = [{"candidates": await _shown(round_, order)} for order in orders]
    replies = await round_.ask(Role.SELECT, Phase.SELECT, asked)
    picked = [_picked(round_, reply, order) for reply, order in zip(replies, orders, strict=True)]
    workspaces = [await round_.admit(chosen) for chosen, _ in picked]
    return Distilled(tuple(workspaces), tuple(call for _, made in picked for call in made))


async def random_k(round_: Round) -> Distilled:
    """D^R: each draft of the next round reads its own random k; no call."""
    k = min(round_.schedule.k, len(round_.drafts))
    subsets = [round_.rng(f"random {index}").sample(list(round_.drafts), k) for index in range(round_.next_width)]
    return Distilled(tuple([await round_.admit(subset) for subset in subsets]))


async def last(round_: Round) -> Distilled:
    """Sequential Refinement: the previous solution is the state, not a candidate among others."""
    draft = round_.drafts[-1]
    solution = shown(draft, round_.headings)
    text, tokens, cut = await fit([solution], round_.schedule.kappa, round_.count, keep="end")
    workspace = Workspace(text=text, tokens=tokens, sources=(draft.index,), cut=cut)
    return Distilled((workspace,) * round_.next_width)


async def oracle_correct(round_: Round) -> Distilled:
    """Analysis: only solutions that the verifier accepts (figure 6). With none the next draft starts afresh."""
    return await _judged(round_, right=True)


async def oracle_incorrect(round_: Round) -> Distilled:
    """Analysis: only solutions that the verifier rejects (figure 6)."""
    return await _judged(round_, right=False)


async def oracle_random(round_: Round) -> Distilled:
    """Analysis, the control: as many solutions as `oracle_correct` would admit, drawn at random."""
    right, _ = await _split(round_)
    workspaces = []
    for index in range(round_.next_width):
        drawn = round_.rng(f"oracle {index}").sample(list(round_.drafts), min(len(right), round_.schedule.k))
        workspaces.append(await round_.admit(drawn))
    return Distilled(tuple(workspaces))


BY_NAME: dict[DistillerName, Distiller] = {
    "summary": summary,
    "topk": topk,
    "topk_per_sample": topk_per_sample,
    "random_k": random_k,
    "last": last,
    "oracle_correct": oracle_correct,
    "oracle_incorrect": oracle_incorrect,
    "oracle_random": oracle_random,
}
ROLES: dict[DistillerName, Role] = {"summary": Role.DISTILL, "topk": Role.SELECT, "topk_per_sample": Role.SELECT}
"""The role whose predictor a distiller calls; the others call none."""


ANSWERS = 8
"""Different answers that a tally lists."""
LONGEST = 80
"""Characters of an answer in a tally."""


def tally(drafts: Sequence[Draft]) -> str:
    """How often each answer came up, the most common first; equal texts but for case and spaces are one answer."""
    said: dict[str, str] = {}
    votes: Counter[str] = Counter()
    for draft in drafts:
        values = [str(value) for value in draft.outputs.values()]
        answer = "" if draft.truncated else _COUNTED.sub("", " ".join(" | ".join(values).split()))[:LONGEST].strip()
        told = sheltered(answer) or "no answer"
        votes[told.casefold()] += 1
        said.setdefault(told.casefold(), told)
    listed = [f"{said[key]} ({count} of {len(drafts)})" for key, count in votes.most_common(ANSWERS)]
    return f"Answers of all attempts: {', '.join(listed)}"


_COUNTED = re.compile(r"\(\d+ of \d+\)")
"""A count that an answer brings with it would be one of the tally's."""


async def _shown(round_: Round, order: Sequence[Draft]) -> str:
    """All solutions as a distiller reads them: whole, unless the model's context is too small for them."""
    blocks = candidates(order, round_.headings)
    if round_.room is None:
        return "\n\n".join(blocks)
    text, _, _ = await fit(blocks, round_.room, round_.count, keep="end")
    return text


def _picked(round_: Round, reply: Reply, order: Sequence[Draft]) -> tuple[list[Draft], tuple[Call, ...]]:
    """The drafts that a Select reply names; a random k, and a failure on the record, when it names none."""
    k = min(round_.schedule.k, len(order))
    named = reply.reading.outputs.get("selected")
    if not named and reply.text and not reply.call.truncated:
        bare = re.fullmatch(r"[\[\](){}\s\d,;.&]+", reply.text)  # nothing but the numbers
        form = r"\b(\d{1,3})\b" if bare else r"(?i)candidates?\s*#?\s*(\d{1,3})\b"
        named = [int(number) for number in re.findall(form, reply.text)]
    numbers = list(dict.fromkeys(n for n in named or () if 1 <= n <= len(order)))[:k]
    if numbers:
        return [order[number - 1] for number in numbers], reply.calls
    failure = reply.call.failure or "it named no candidate; a random choice stands in"
    subset = round_.rng(f"fallback {reply.call.index}").sample(list(order), k)
    return subset, reply._replace(call=reply.call.model_copy(update={"failure": failure})).calls


async def _split(round_: Round) -> tuple[list[Draft], list[Draft]]:
    if round_.oracle is None:
        raise ConfigError(
            f'`Schedule(distiller="{round_.schedule.distiller}")` needs the gold answer: run it with '
            "`evaluate(program, examples, verifier)`, which lets it look"
        )
    right: list[Draft] = []
    wrong: list[Draft] = []
    for draft in round_.drafts:
        score = await asyncio.to_thread(round_.oracle, draft.outputs)  # grading may take a while; the loop goes on
        (right if score >= 0.5 else wrong).append(draft)
    return right, wrong


async def _judged(round_: Round, *, right: bool) -> Distilled:
    accepted, rejected = await _split(round_)
    pool = accepted if right else rejected
    workspaces = []
    for index in range(round_.next_width):
        drawn = round_.rng(f"oracle {index}").sample(pool, min(len(pool), round_.schedule.k))
        workspaces.append(await round_.admit(drawn))
    return Distilled(tuple(workspaces))
