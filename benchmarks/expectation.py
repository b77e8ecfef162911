"""The expectation of the simulated reasoner: `benchmarks.reasoner`'s `World.cell`, vectorised over many runs.

Arrays have a row for each draft (or candidate) and a column for each run of a question. Every stage has its own random
generator, so that schedules are compared on common random numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.law import (
    CRITIQUE_LENGTH,
    CUT_LOSS,
    LEAST,
    RIGHT,
    SLIP,
    Plan,
    Questions,
    Traits,
    Truth,
    select_length,
    summary_length,
)
from pdr_dspy.prompts.roles import Role

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def expected(traits: Traits, plan: Plan, questions: Questions, samples: int, seed: int) -> Truth:
    """Mean score, B_seq and B_total of `samples` runs of each question; the score of a last round of one draft is its
    probability, that of a vote is 0 or 1."""
    return _Many(traits, plan, questions, samples, seed).run()


class _Many:
    def __init__(self, traits: Traits, plan: Plan, questions: Questions, samples: int, seed: int) -> None:
        self.traits, self.plan, self.seed = traits, plan, seed
        self.difficulty = np.repeat(questions.difficulty, samples).astype(np.float32)
        self.runs = len(self.difficulty)
        plausible = np.repeat(questions.plausible, samples, axis=0).astype(np.float32)
        none = np.zeros((self.runs, 1), np.float32)
        self.plausible = np.concatenate([none, plausible, none], axis=1)  # by code; slips in the last column
        self.edges = np.cumsum(np.repeat(questions.attraction, samples, axis=0), axis=1).astype(np.float32)
        self.greedy = np.repeat(questions.greedy, samples, axis=0).astype(np.float32)
        self.place = np.arange(self.runs)
        self.odds = 0.0

    def run(self) -> Truth:
        schedule, caps, prompts = self.plan.schedule, self.plan.caps, self.plan.prompts
        sequential = np.zeros(self.runs, np.float32)
        total = np.zeros(self.runs, np.float32)
        fallback = np.zeros(self.runs, bool)
        reads: _Reads | None = None
        for number, width in enumerate(schedule.widths, start=1):
            role = Role.DRAFT if reads is None else Role.REFINE
            rng = np.random.default_rng([self.seed, number, 0])
            uniform = rng.random((5, width, self.runs), dtype=np.float32)
            length = self.lengths(role, rng.standard_normal((width, self.runs), dtype=np.float32))
            tokens = np.minimum(length, caps[role])
            spent = tokens + prompts[role] + (0 if reads is None else reads.tokens)
            sequential += spent.max(axis=0)
            total += spent.sum(axis=0)
            right = self.chance(role)
            last = number == schedule.rounds
            if last and schedule.final == "refine":
                done = self.in_time(role, caps[role])
                good = right if reads is None else self.final(reads, right)
                score = done * good + (1 - done) * fallback
                return Truth(float(score.mean()), float(sequential.mean()), float(total.mean()))
            answer = self.afresh(uniform)
            if reads is not None:
                answer = self.adopted(reads, uniform[0], answer)
            answer = np.where(length > caps[role], 0, answer).astype(np.int32)
            fallback = np.where(answer.any(axis=0), _plurality(answer) == RIGHT, fallback)
            if last:  # a vote
                return Truth(float(fallback.mean()), float(sequential.mean()), float(total.mean()))
            reads, path, cost = self.distil(number, answer, tokens)
            sequential += path
            total += cost
        raise AssertionError("a schedule has a last round")

    # --- drafts ---

    def lengths(self, role: Role, normal: Floats) -> Ints:
        """Tokens of solutions before any cap."""
        return (np.exp(self.middle(role) + self.traits.scatter * normal)).astype(np.int32) + LEAST

    def middle(self, role: Role) -> Floats:
        """Log of the median length."""
        shorter = math.log(self.traits.shorter) if role is Role.REFINE else 0.0
        return self.traits.length + shorter + self.traits.stretch * self.difficulty

    def in_time(self, role: Role, cap: int) -> Floats:
        """Probability that a solution ends before its cap."""
        z = (math.log(max(cap - LEAST + 1, 1)) - self.middle(role)) / self.traits.scatter
        return _cdf(z)

    def chance(self, role: Role) -> Floats:
        """Probability that a solution from scratch is right."""
        temperature, shift = self.plan.schedule.temperature, self.plan.effects[role]
        logit = self.traits.ability - self.traits.spread * self.difficulty + shift - 0.6 * (temperature - 0.8) ** 2
        self.sampled = 1 / (1 + np.exp(-logit))
        if temperature >= 1:
            return self.sampled
        still = (1 - temperature) ** 2
        return still * (self.greedy[:, 0] < self.sampled) + (1 - still) * self.sampled

    def afresh(self, uniform: Floats) -> Ints:
        """Answers of solutions from scratch."""
        first, which = uniform[1], uniform[2]
        if self.plan.schedule.temperature < 1:
            still = uniform[3] < (1 - self.plan.schedule.temperature) ** 2
            first = np.where(still, self.greedy[:, 0], first)
            which = np.where(still, self.greedy[:, 1], which)
        slip = SLIP + (uniform[4] * 65536).astype(np.int32)
        wrong = np.where(
            which < self.edges[:, 0],
            2,
            np.where(which < self.edges[:, 1], 3, np.where(which < self.edges[:, 2], 4, slip)),
        )
        return np.where(first < self.sampled, RIGHT, wrong).astype(np.int32)

    # --- reading ---

    def looks(self, answer: Ints, sight: float | Floats, noise: Floats) -> Floats:
        """Evidence for each candidate; 0 for a candidate without an answer."""
        signal = np.where(answer == RIGHT, np.float32(0.5), np.float32(-0.5)) * sight + noise
        signal += self.plausible[self.place, np.minimum(answer, SLIP)]
        return np.where(answer > 0, sight * signal, 0).astype(np.float32)

    def weights(self, answer: Ints, seen: Floats) -> Floats:
        """Weight of each candidate's answer, in the row of its first candidate; 0 elsewhere."""
        n = answer.shape[-2]
        out = np.zeros_like(seen)
        for i in range(n):
            same = answer == answer[..., i : i + 1, :]
            score = np.where(same, seen, 0).sum(axis=-2)
            first = (answer[..., i, :] > 0) & ~same[..., :i, :].any(axis=-2)
            out[..., i, :] = np.where(first, np.exp(np.minimum(score, 60)), 0)
        return out

    def final(self, reads: _Reads, right: Floats) -> Floats:
        """Probability that a refinement is right; `right` is that of solving afresh."""
        weights = reads.weights[0]
        fresh = math.exp(self.traits.afresh)
        good = np.where(reads.answers[0] == RIGHT, weights, 0).sum(axis=0)
        return (good + fresh * right) / (fresh + weights.sum(axis=0))

    def adopted(self, reads: _Reads, uniform: Floats, fresh: Ints) -> Ints:
        """Answers of refinements: an answer of the workspace, or a new one."""
        sums = np.cumsum(reads.weights, axis=1)
        left = uniform * (sums[:, -1] + math.exp(self.traits.afresh))
        place = (left[:, None, :] >= sums).sum(axis=1)
        n = reads.answers.shape[1]
        picked = np.take_along_axis(reads.answers, np.minimum(place, n - 1)[:, None, :], axis=1)[:, 0]
        return np.where(place < n, picked, fresh).astype(np.int32)

    # --- between rounds ---

    def distil(self, number: int, answer: Ints, tokens: Ints) -> tuple[_Reads, Floats, Floats]:
        """The inputs of the next round, and the tokens of the distill stage along the path and in total."""
        schedule, plan, traits = self.plan.schedule, self.plan, self.traits
        width = schedule.widths[number]
        count = len(answer)
        rng = np.random.default_rng([self.seed, number, 1])
        nothing = np.zeros(self.runs, np.float32)
        sight = traits.sight * (1 + plan.effects[Role.REFINE] / 2)
        blocks = tokens + np.where(answer == 0, 6, 3)
        everything = blocks.sum(axis=0)

        def call(role: Role, calls: int, length: float) -> tuple[Ints, Floats]:
            normal = rng.standard_normal((calls, self.runs), dtype=np.float32)
            wanted = np.rint(length * np.exp(0.3 * normal)).astype(np.int32) + 4
            made = np.minimum(wanted, plan.caps[role])
            return wanted, (made + plan.prompts[role]).astype(np.float32)

        if schedule.distiller == "last":
            size = np.where(tokens > schedule.kappa, schedule.kappa - 4, tokens)
            share = np.where(tokens > schedule.kappa, (schedule.kappa - 9) / tokens, 1).astype(np.float32)
            noise = rng.standard_normal((2, 1, self.runs), dtype=np.float32)
            seen = np.where(answer > 0, traits.vote, 0) + self.looks(answer, sight * share, noise[0])
            spent, extra = nothing, nothing
            if schedule.critique:
                wanted, cost = call(Role.CRITIQUE, 1, CRITIQUE_LENGTH)
                strength = traits.sight * (1 + plan.effects[Role.CRITIQUE])
                verdict = _credits(self.looks(answer, strength * share, noise[1]))
                seen = seen + np.where(wanted > plan.caps[Role.CRITIQUE], 0, verdict)
                spent = (cost + size)[0]
                extra = cost[0] - plan.prompts[Role.CRITIQUE]
            weights = self.weights(answer, seen.astype(np.float32))
            return _Reads(answer[None], weights[None], size + extra), spent, spent
        if schedule.distiller == "summary":
            noise = rng.standard_normal((count, self.runs), dtype=np.float32)
            strength = traits.sight * (1 + plan.effects[Role.DISTILL]) / (1 + traits.crowd * (count - 1))
            seen = np.where(answer > 0, traits.vote, 0) + self.looks(answer, strength, noise)
            weights = self.weights(answer, seen.astype(np.float32))
            credits = _credits(traits.notes * np.log(np.maximum(weights, 1e-12)))
            wanted, cost = call(Role.DISTILL, 1, summary_length(count))
            kept = np.minimum(np.minimum(wanted, plan.caps[Role.DISTILL]), schedule.kappa)
            order = np.argsort(np.where(weights > 0, -credits, np.inf), axis=0, kind="stable")[:6]
            claims = np.minimum((kept - 1) // 4, 6)
            held = np.take_along_axis(credits, order, axis=0)
            there = (np.take_along_axis(weights, order, axis=0) > 0) & (np.arange(len(order))[:, None] < claims)
            said = np.where(there, np.take_along_axis(answer, order, axis=0), 0).astype(np.int32)
            own = rng.standard_normal((width, len(order), self.runs), dtype=np.float32)
            checked = held + self.looks(np.broadcast_to(said, own.shape), sight * traits.brief, own)
            each = np.where(said > 0, np.exp(checked), 0).astype(np.float32)
            spent = cost[0] + everything
            return _Reads(np.broadcast_to(said, own.shape), each, kept.astype(np.float32)), spent, spent
        k = min(schedule.k, count)
        calls = {"random_k": 0, "topk": 1, "topk_per_sample": width}[schedule.distiller]
        rows = max(calls, 1) if schedule.distiller != "random_k" else width
        picks = np.argsort(rng.random((rows, count, self.runs), dtype=np.float32), axis=1)[:, :k]
        path, cost = nothing, nothing
        if calls:
            wanted, spent = call(Role.SELECT, calls, select_length(count))
            spent = spent + everything
            path, cost = spent.max(axis=0), spent.sum(axis=0)
            strength = traits.sight * (1 + plan.effects[Role.SELECT]) / (1 + traits.crowd * (count - 1))
            noise = rng.standard_normal((calls, count, self.runs), dtype=np.float32)
            looks = np.where(answer > 0, self.looks(np.broadcast_to(answer, noise.shape), strength, noise), -99)
            best = np.argsort(-looks, axis=1, kind="stable")[:, :k]
            picks = np.where((wanted > plan.caps[Role.SELECT])[:, None], picks, best)
        if rows < width:
            picks = np.broadcast_to(picks, (width, k, self.runs))
        admitted = np.take_along_axis(np.broadcast_to(answer, (width, count, self.runs)), picks, axis=1)
        text = np.take_along_axis(np.broadcast_to(tokens, (width, count, self.runs)), picks, axis=1)
        share, size = _fitted(text, np.where(admitted == 0, 6, 3), schedule.kappa)
        noise = np.random.default_rng([self.seed, number, 2]).standard_normal(text.shape, dtype=np.float32)
        seen = self.looks(admitted, sight / (1 + traits.crowd * (k - 1)) * share, noise)
        seen = seen + np.where(admitted > 0, np.float32(traits.vote), np.float32(0))
        return _Reads(admitted, self.weights(admitted, seen), size), path, cost


class _Reads:
    """The inputs of the next round's drafts: (draft, candidate, run)."""

    def __init__(self, answers: Ints, weights: Floats, tokens: Floats | Ints) -> None:
        self.answers, self.weights, self.tokens = answers, weights, tokens


def _credits(score: Floats) -> Floats:
    """A log weight as it is written in a text: in eighths, from -6.25 to 6.125."""
    return np.clip(np.rint(8 * score), -50, 49).astype(np.float32) / 8


def _fitted(tokens: Ints, heading: Ints, kappa: int) -> tuple[Floats, Floats]:
    """Share of each solution that kappa leaves, and the tokens of the workspace."""
    sizes = tokens + heading
    n = sizes.shape[1]
    everything = sizes.sum(axis=1)
    fits = everything <= kappa
    ordered = np.sort(sizes, axis=1)
    left = np.full(everything.shape, kappa - 2 * n)
    level = np.zeros(everything.shape, np.int64)
    found = np.zeros(everything.shape, bool)
    for position in range(n):
        share = left // (n - position)
        here = ~found & (ordered[:, position] > share)
        level = np.where(here, np.maximum(share, 1), level)
        found |= here
        left = np.where(found, left, left - ordered[:, position])
    level = np.where(found, level, np.maximum(left, 1))
    whole = fits[:, None] | (sizes <= level[:, None])
    cut = np.maximum(level[:, None] - CUT_LOSS - heading - 4, 0) / tokens
    shown = np.where(whole, sizes, level[:, None] - 4).sum(axis=1)
    return np.where(whole, 1.0, cut).astype(np.float32), shown.astype(np.float32)


def _plurality(answer: Ints) -> Ints:
    votes = np.stack([(answer == row).sum(axis=0) for row in answer])
    votes = np.where(answer > 0, votes, -1)
    return np.take_along_axis(answer, votes.argmax(axis=0)[None], axis=0)[0]


def _cdf(z: Floats) -> Floats:
    """The standard normal distribution function, to 1e-7 (Abramowitz and Stegun 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = tail * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return np.where(z > 0, 1 - tail, tail)
