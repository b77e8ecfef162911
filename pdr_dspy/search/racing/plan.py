"""The search method, as a generator: it yields requests, and is sent their answers.

    cohorts:    propose some candidates, race them over growing blocks of (question, seed), drop those that are
                confidently worse, and repeat until the trials or the tokens are used up; before each of the first
                cohorts, let a model write instructions if requested
    finalists:  the best few and the untouched student run again on fresh seeds
    confirm:    the best of those, and the student, run on questions that were not used for any choice

The plan is independent of models, files and executors. All of its decisions follow from the settings and the
answers: with equal answers they are equal, uninterrupted or after a kill, on one machine or on many.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pdr_dspy.evaluation.drafts import Drafts
from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.search.racing import elimination, pareto, worth
from pdr_dspy.search.racing.surrogate import Array, Surface, pool
from pdr_dspy.search.settings import SearchSettings, Stop
from pdr_dspy.search.space.candidate import Candidate


class Stage(StrEnum):
    """The purpose of a measurement; each stage has separate questions or seeds."""

    RACE = "race"
    FINAL = "final"
    CONFIRM = "confirm"


class Pair(NamedTuple):
    """One question under one seed: the unit of work."""

    question: int
    """Its index in the training questions, or in the confirmation's."""
    repeat: int = 0


class Cell(NamedTuple):
    """One program on one pair."""

    score: float
    sequential: float
    """Tokens."""
    total: float
    """Tokens."""
    failed: bool = False
    calls: tuple[tuple[str, int], ...] = ()
    """Address and tokens of every call, in order: a call that was paid for once is not paid for again."""
    cost: float | None = None
    """In the unit of the models' prices; None if a price is unknown."""
    one_pass: str = ""
    """The address of its request without its seed if the program is one pass; "" for any other program."""
    drafts: Drafts | None = None
    """The first-round drafts; None if some are unknown."""


class Proposed(NamedTuple):
    """A candidate and its origin."""

    origin: str
    candidate: Candidate
    free: bool = False
    """Whether it makes no call that a measured candidate has not made: it is no trial."""


class Tried(NamedTuple):
    """The results of a candidate, for proposals of others."""

    candidate: Candidate
    score: float
    """The pooled estimate, a fraction."""
    sequential: float
    total: float
    pairs: int
    cost: float | None = None


class Propose(NamedTuple):
    """Requests up to `wanted` new candidates, and up to `free` of those that cost no tokens. The answer is a sequence
    of `Proposed`, or the reason for which the search ends."""

    cohort: int
    wanted: int
    tried: tuple[Tried, ...]
    free: int = 0


class Write(NamedTuple):
    """Requests instructions that a model writes. The answer is the cost of its calls, as in `Cell.calls`, or the reason
    for which the search ends."""

    each: int
    """Maximum number for each role."""
    round: int
    """From 1."""
    tried: tuple[Tried, ...]
    """By number."""


class Measure(NamedTuple):
    """Requests cells. The answer is a mapping (arm, pair) -> Cell with all of them."""

    stage: Stage
    cohort: int
    arms: Mapping[int, Candidate]
    """By number; 0 is the untouched student."""
    pairs: tuple[Pair, ...]


Request = Propose | Write | Measure
Cells = Mapping[tuple[int, Pair], Cell]


@dataclass
class Arm:
    """One program in the search."""

    number: int
    origin: str
    candidate: Candidate
    cohort: int
    free: bool = False
    """Whether it is no trial, since it repeats calls of others."""
    race: dict[Pair, Cell] = field(default_factory=dict)
    final: dict[Pair, Cell] = field(default_factory=dict)
    dropped: str | None = None
    """Why it was dropped from the race; None if it ran the complete race."""
    paid: int = 0
    """Tokens of its calls in the race that no earlier program had made."""
    saved: int = 0
    """Tokens of its calls in the race that an earlier program had made."""

    _means: tuple[int, tuple[float, float, float]] = field(default=(-1, (0.0, 0.0, 0.0)), repr=False, compare=False)
    """Means for a number of cells, cached: a choice among all programs reads them again and again."""

    @property
    def score(self) -> float:
        """Mean score over the pairs that it ran, a fraction."""
        return self._mean()[0]

    @property
    def sequential(self) -> float:
        """Mean B_seq, in tokens."""
        return self._mean()[1]

    @property
    def total(self) -> float:
        """Mean B_total, in tokens."""
        return self._mean()[2]

    @property
    def cost(self) -> float | None:
        """Mean cost in the unit of the models' prices; None if a price is unknown."""
        costs = [cell.cost for cell in self.race.values()]
        known = [cost for cost in costs if cost is not None]
        return fmean(known) if known and len(known) == len(costs) else None

    def _mean(self) -> tuple[float, float, float]:
        if self._means[0] != len(self.race):  # cells are added, and never change
            cells = self.race.values()
            found = (fmean(c.score for c in cells), fmean(c.sequential for c in cells), fmean(c.total for c in cells))
            self._means = (len(self.race), found)
        return self._means[1]


class Finalist(NamedTuple):
    """A program that was run again on fresh seeds."""

    number: int
    race: float
    """The score by which it was selected, a fraction: biased upwards, since the luckiest are selected."""
    fresh: float
    """Its score on the same questions with fresh seeds."""
    pooled: float
    """The estimate from both, shrunk towards the other programs: used for the choice among finalists."""
    interval: Interval
    """95 % interval of `pooled`."""
    sequential: float
    total: float


@dataclass(frozen=True)
class Found:
    """The result of the search."""

    arms: tuple[Arm, ...]
    """All arms in the order of their numbers; the student first."""
    estimates: Mapping[int, tuple[float, float]]
    """Pooled score and its standard deviation, by number."""
    finalists: tuple[Finalist, ...]
    """The chosen one first; includes the student's fresh runs."""
    chosen: int | None
    """The number of the confirmed program; None if none is within the limits."""
    confirmation: Mapping[int, Mapping[Pair, Cell]]
    """Cells on the held-out questions, for the chosen program and the student."""
    stopped: str
    """Why no more candidates were tried, and why finalists ran fewer times again than they could."""
    prior_weight: float | None
    """The weight that the scores gave to what earlier searches learnt; None without a prior."""
    tied: tuple[int, ...]
    """Other finalists within the limits whose estimates are at most the margin below the best, or above the chosen
    one's."""
    paid: int
    """Tokens of all calls of the search, each counted once."""
    saved: int
    """Tokens of calls that an earlier program of the search had made."""


class Plan:
    """One search. `run` is the generator; the attributes are its state."""

    def __init__(
        self,
        settings: SearchSettings,
        *,
        questions: int,
        held_out: int,
        trials: int = 30,
        max_tokens: int | None = None,
        stop: Stop = "trials",
        price: float = 0.01,
        margin: float = 0.0,
    ) -> None:
        """
        Args:
            settings: of the search; its space is not used.
            questions: number of training questions.
            held_out: number of questions of the confirmation.
            trials: candidates to measure, the student and the baselines included.
            max_tokens: no cohort is started after this many paid tokens.
            stop, price, margin: as in `RunOptions`.
        """
        self.settings = settings
        self.questions = questions
        self.held_out = held_out
        self.trials = trials
        self.max_tokens = max_tokens
        self.stop = stop
        self.price = price
        self.margin = margin
        self.arms: list[Arm] = []
        """In the order of their numbers."""
        self.seen: set[str] = set()
        self._expected: float | None = None
        """The expected gain of the cohort before."""
        self._pooled: tuple[tuple[tuple[int, int], ...], Surface] | None = None
        self.paid = 0
        """Tokens of all calls so far, each counted once."""
        self.saved = 0
        """Tokens of calls that an earlier program had made."""
        order = list(range(questions))
        random.Random(f"{settings.seed}|order").shuffle(order)
        self.order = tuple(Pair(question, repeat) for repeat in range(settings.race.repeats) for question in order)
        self.looks = elimination.looks(len(self.order), settings.race.first, settings.race.eta)

    def run(self, baselines: Sequence[Proposed]) -> Generator[Request, Any, Found]:
        """Search. `baselines` race first, beginning with the untouched student.

        Yields requests and is sent their answers; returns the result.
        """
        stopped = yield from self.explore(baselines)
        finalists, enough = yield from self.rerun()
        chosen, tied = self.choose(finalists)
        confirmed = yield from self.confirm(chosen)
        return Found(
            arms=tuple(self.arms),
            estimates=self.estimates(),
            finalists=self.describe(finalists, chosen),
            chosen=chosen,
            confirmation=confirmed,
            stopped="; ".join(filter(None, (stopped, enough))),
            prior_weight=None if self.settings.prior is None else self.surface().weight,
            tied=tied,
            paid=self.paid,
            saved=self.saved,
        )

    # --- the race ---

    def explore(self, baselines: Sequence[Proposed]) -> Generator[Request, Any, str]:
        """Run the cohorts; return why there are no more."""
        yield from self.race(0, self.enter(0, baselines))
        for cohort in range(1, self.trials):
            count = min(self.settings.race.cohort, self.trials - self.trials_begun)
            if count <= 0:
                break
            if self.max_tokens is not None and self.paid >= self.max_tokens:
                return f"{self.paid} tokens were paid, `max_tokens` is {self.max_tokens}"
            writing = self.settings.instructions
            rounds = writing.rounds if writing.count else 0
            if cohort <= rounds:
                written: tuple[tuple[str, int], ...] | str = yield Write(writing.count, cohort, self.tried())
                if isinstance(written, str):
                    return written
                self.count(written)
                if self.max_tokens is not None and self.paid >= self.max_tokens:
                    return f"{self.paid} tokens were paid, `max_tokens` is {self.max_tokens}"
            answer: Sequence[Proposed] | str = yield Propose(cohort, count, self.tried(), self.settings.race.free)
            if isinstance(answer, str):
                return answer
            if (enough := self.not_worth(answer)) is not None:
                return enough
            yield from self.race(cohort, self.enter(cohort, answer))
            if all(one.free for one in answer) and cohort >= rounds:  # further texts would be further candidates
                return "every candidate was tried or costs too much"
        return f"{self.trials_begun} trials were measured"

    @property
    def trials_begun(self) -> int:
        """The number of candidates so far, without those that repeat calls of others."""
        return sum(not arm.free for arm in self.arms)

    # --- the value of going on ---

    def not_worth(self, proposed: Sequence[Proposed]) -> str | None:
        """Why a cohort is not raced; None if it is."""
        trials = sum(not one.free for one in proposed)
        if self.stop != "worth" or not trials:
            return None
        allowed = [arm.number for arm in self.arms if self.allowed(arm)]
        scores, candidates = self._all_scores()
        new = [one.candidate for one in proposed]
        gain = worth.of_cohort(scores, candidates, new, allowed, self._expected_of([*candidates, *new]))
        # A proposal may be poor by chance: the one before counts, too.
        before, self._expected = self._expected, gain
        expected = gain if before is None else (gain + before) / 2
        price = self._price(trials * self._paid_each())
        return None if expected >= price else self._below(f"the next {_count(trials, 'trial')}", expected, price)

    def enough(self, finalists: Sequence[Arm], done: int) -> str | None:
        """Why finalists, which ran `done` times again, do not run once more; None if they do."""
        if self.stop != "worth" or not done:  # without any fresh run the reported score would be the luckiest of many
            return None
        again, allowed = [arm.number for arm in finalists], [arm.number for arm in finalists if self.allowed(arm)]
        tokens = self.questions * sum(arm.total for arm in finalists)
        left, gain = self.settings.final.repeats - done, 0.0
        scores, candidates = self._all_scores()
        gains = worth.of_repeats(scores, candidates, again, allowed, left, self._expected_of(candidates))
        for times, expected in enumerate(gains, start=1):  # several may be worth it where one is not
            if expected is None or expected >= self._price(times * tokens):
                return None
            gain = expected
        what = f"more runs of the finalists after {_count(done, 'time')}"
        return self._below(what, gain, self._price(left * tokens))

    def _price(self, tokens: float) -> float:
        """The gain in score for which these tokens would be paid."""
        budget = self.trials * self._paid_each()
        if self.max_tokens is not None:
            budget = min(budget, self.max_tokens)
        return self.price * tokens / max(budget, 1.0)

    @staticmethod
    def _below(what: str, gain: float, price: float) -> str:
        return f"{what} would gain an expected {gain:.5f} in score, below the price of {price:.5f}"

    def _paid_each(self) -> float:
        """Mean tokens that a trial's race paid."""
        return sum(arm.paid for arm in self.arms) / max(self.trials_begun, 1)

    # --- the cohorts ---

    def enter(self, cohort: int, proposed: Sequence[Proposed]) -> list[Arm]:
        """The new arms of a cohort."""
        new = [
            Arm(len(self.arms) + place, own.origin, own.candidate, cohort, own.free)
            for place, own in enumerate(proposed)
        ]
        self.arms += new
        return new

    def race(self, cohort: int, new: Sequence[Arm]) -> Generator[Request, Any, None]:
        """Run a cohort over growing blocks; an arm that is confidently worse, or over a limit, stops running."""
        done = 0
        levels = elimination.levels(self.settings.race.alpha, [look / len(self.order) for look in self.looks])
        for look, (end, level) in enumerate(zip(self.looks, levels, strict=True)):
            alive = [arm for arm in new if arm.dropped is None]
            if not alive:
                return
            block = self.order[done:end]
            cells: Cells = yield Measure(Stage.RACE, cohort, {arm.number: arm.candidate for arm in alive}, block)
            self.take(alive, block, cells)
            done = end
            if look + 1 < len(self.looks):
                self.drop(alive, self.order[:end], level)

    def take(self, arms: Sequence[Arm], pairs: Sequence[Pair], cells: Cells) -> None:
        """Keep the cells of a block, and attribute each call to the first program that made it."""
        for arm in arms:
            for pair in pairs:
                cell = cells[arm.number, pair]
                arm.race[pair] = cell
                paid, saved = self.count(cell.calls)
                arm.paid += paid
                arm.saved += saved

    def count(self, calls: Iterable[tuple[str, int]]) -> tuple[int, int]:
        """Tokens of the calls that had not been made before, and of those that had."""
        paid = saved = 0
        for address, tokens in calls:
            if address in self.seen:
                saved += tokens
            else:
                self.seen.add(address)
                paid += tokens
        self.paid += paid
        self.saved += saved
        return paid, saved

    def drop(self, alive: Sequence[Arm], pairs: Sequence[Pair], level: float) -> None:
        """Drop arms from the race by their results on these pairs."""
        settings = self.settings
        runs = {arm.number: elimination.Run([arm.race[pair] for pair in pairs]) for arm in alive}
        for arm in alive:
            over = elimination.over(runs[arm.number], settings.limits)
            if over is not None and arm.number > 0:
                arm.dropped = f"over the limit on {over} after {len(pairs)} runs"
        left = [arm for arm in alive if arm.dropped is None]
        rivals = {arm.number: runs[arm.number] for arm in left}
        rivals |= {
            arm.number: elimination.Run([arm.race[pair] for pair in pairs])
            for arm in self.arms
            if arm.dropped is None and arm.number not in runs and self.allowed(arm)
        }
        # The leader is chosen by the pooled estimate: the best on these pairs would be the luckiest of many.
        leader = next((arm.number for arm in self.best(self.arms) if arm.number in rivals), None)
        for number, rival in elimination.beaten(
            {arm.number: runs[arm.number] for arm in left},
            rivals,
            [pair.question for pair in pairs],
            level=level,
            keep=1 / settings.race.eta,
            pareto=settings.objective == "front",
            leader=leader,
        ).items():
            if number > 0:
                self.arms[number].dropped = f"worse than trial {rival} after {len(pairs)} runs"

    def allowed(self, arm: Arm) -> bool:
        """Whether an arm is within the limits, on average."""
        return self.settings.limits.allow(arm)

    # --- estimates ---

    def tried(self) -> tuple[Tried, ...]:
        """All arms, for the proposal of others."""
        estimates = self.estimates()
        return tuple(
            Tried(arm.candidate, estimates[arm.number][0], arm.sequential, arm.total, len(arm.race), arm.cost)
            for arm in self.arms
        )

    def estimates(self) -> dict[int, tuple[float, float]]:
        """Pooled score and standard deviation of every program, from the race and the fresh seeds together."""
        surface = self.surface()
        return {
            arm.number: (float(mean), float(sd))
            for arm, mean, sd in zip(self.arms, surface.mean, surface.sd, strict=True)
        }

    def surface(self) -> Surface:
        """All scores so far, pooled."""
        state = tuple((len(arm.race), len(arm.final)) for arm in self.arms)
        if self._pooled is None or self._pooled[0] != state:
            self._pooled = (state, self._pool())
        return self._pooled[1]

    def _pool(self) -> Surface:
        scores, candidates = self._all_scores()
        return pool(scores, candidates, self._expected_of(candidates))

    def _expected_of(self, candidates: Sequence[Candidate]) -> Array | None:
        """What earlier searches expect of some programs; None without a prior."""
        return None if self.settings.prior is None else self.settings.prior.means(candidates)

    def _all_scores(self) -> tuple[list[dict[tuple[int, int], float]], list[Candidate]]:
        offset = self.settings.race.repeats  # fresh seeds count as further repeats of the same questions
        race, final = (scores_of([arm.race for arm in self.arms]), scores_of([arm.final for arm in self.arms]))
        scores = [
            {
                **{(pair.question, pair.repeat): score for pair, score in own.items()},
                **{(pair.question, offset + pair.repeat): score for pair, score in fresh.items()},
            }
            for own, fresh in zip(race, final, strict=True)
        ]
        return scores, [arm.candidate for arm in self.arms]

    def best(self, arms: Iterable[Arm]) -> list[Arm]:
        """The arms within the limits, the best first."""
        estimates = self.estimates()
        allowed = [arm for arm in arms if self.allowed(arm)]
        return sorted(allowed, key=lambda arm: (-estimates[arm.number][0], arm.total, arm.sequential, arm.number))

    # --- finalists and confirmation ---

    def rerun(self) -> Generator[Request, Any, tuple[list[Arm], str | None]]:
        """Run the best few on fresh seeds, always including the student; return them, and why they ran fewer times than
        they could, if they did."""
        repeats = self.settings.final.repeats
        finalists = self.finalists()
        entered = list(finalists)
        if not repeats:
            return entered, None
        levels = elimination.levels(self.settings.race.alpha, [(repeat + 1) / repeats for repeat in range(repeats)])
        for repeat in range(repeats):
            if (enough := self.enough(finalists, repeat)) is not None:
                return entered, enough
            pairs = tuple(Pair(question, repeat) for question in range(self.questions))
            asked = {arm.number: arm.candidate for arm in finalists}
            cells: Cells = yield Measure(Stage.FINAL, repeat, asked, pairs)
            for arm in finalists:
                arm.final |= {pair: cells[arm.number, pair] for pair in pairs}
                for pair in pairs:
                    self.count(cells[arm.number, pair].calls)
            if repeat + 1 < repeats and self.settings.objective == "score":
                done = [Pair(q, r) for r in range(repeat + 1) for q in range(self.questions)]
                runs = {arm.number: elimination.Run([arm.final[pair] for pair in done]) for arm in finalists}
                rivals = {arm.number: runs[arm.number] for arm in finalists if self.allowed(arm)}
                questions = [pair.question for pair in done]
                dropped = elimination.beaten(runs, rivals, questions, level=levels[repeat], keep=0.0, pareto=False)
                finalists = [arm for arm in finalists if arm.number not in dropped or arm.number == 0]
        return entered, None

    def finalists(self) -> list[Arm]:
        """The student and, after it, the best few others."""
        if self.settings.objective == "front":
            estimates = self.estimates()
            points = [_Point(arm.number, estimates[arm.number][0], arm.sequential, arm.total) for arm in self.arms]
            chosen = [self.arms[point.number] for point in pareto.front(points)]
            chosen.sort(key=lambda arm: -estimates[arm.number][0])
        else:
            chosen = [arm for arm in self.arms if arm.dropped is None]
        ordered = [*self.best(chosen), *self.best(self.arms)]  # dropped ones only if there are too few others
        picked = list(dict.fromkeys(arm.number for arm in ordered if arm.number != 0))[: self.settings.final.programs]
        return [self.arms[0], *(self.arms[number] for number in picked)]

    def choose(self, finalists: Sequence[Arm]) -> tuple[int | None, tuple[int, ...]]:
        """The cheapest of the finalists whose pooled estimates are at most the margin below the best; None if none is
        within the limits. And the others of them."""
        ordered = self.best(finalists)
        if not ordered:
            return None, ()
        estimates = self.estimates()
        least = estimates[ordered[0].number][0] - self.margin - 1e-9
        tied = [arm for arm in ordered if estimates[arm.number][0] >= least]
        costs = [arm.cost for arm in tied]
        prices = [cost if cost is not None and None not in costs else 0.0 for cost in costs]
        place = min(range(len(tied)), key=lambda i: (prices[i], tied[i].total, tied[i].sequential, i))
        return tied[place].number, tuple(arm.number for arm in tied if arm is not tied[place])

    def describe(self, finalists: Sequence[Arm], chosen: int | None) -> tuple[Finalist, ...]:
        """The finalists for the report, the chosen one first."""
        estimates = self.estimates()
        ordered = sorted(finalists, key=lambda arm: (arm.number != chosen, -estimates[arm.number][0], arm.number))
        found = []
        for arm in ordered:
            mean, sd = estimates[arm.number]
            fresh = fmean(cell.score for cell in arm.final.values()) if arm.final else float("nan")
            interval = Interval(max(0.0, mean - 1.96 * sd), min(1.0, mean + 1.96 * sd))
            costs = [*arm.race.values(), *arm.final.values()]
            sequential, total = (float(np.mean([getattr(c, name) for c in costs])) for name in pareto.COSTS)
            found.append(Finalist(arm.number, arm.score, fresh, mean, interval, sequential, total))
        return tuple(found)

    def confirm(self, chosen: int | None) -> Generator[Request, Any, dict[int, dict[Pair, Cell]]]:
        """Run the chosen arm and the student on the confirmation's questions."""
        if chosen is None:
            return {}
        arms = {number: self.arms[number].candidate for number in dict.fromkeys((0, chosen))}
        repeats = range(self.settings.confirm.repeats)
        pairs = tuple(Pair(question, repeat) for repeat in repeats for question in range(self.held_out))
        cells: Cells = yield Measure(Stage.CONFIRM, 0, arms, pairs)
        for number in arms:
            for pair in pairs:
                self.count(cells[number, pair].calls)
        return {number: {pair: cells[number, pair] for pair in pairs} for number in arms}


def scores_of(arms: Sequence[Mapping[Pair, Cell]]) -> list[dict[Pair, float]]:
    """The scores of some programs. That of one pass is the mean over the most drafts that any of them made of the same
    request on the same pair: the same expectation, with less noise, at no more tokens."""
    known: dict[tuple[Pair, str], Drafts] = {}
    for cells in arms:
        for pair, cell in cells.items():
            if cell.drafts is not None:
                place = (pair, cell.drafts.prompt)
                known[place] = max(known.get(place, cell.drafts), cell.drafts, key=lambda drafts: len(drafts.scores))
    return [
        {
            pair: known[pair, cell.one_pass].mean if (pair, cell.one_pass) in known else cell.score
            for pair, cell in cells.items()
        }
        for cells in arms
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class _Point(NamedTuple):
    number: int
    score: float
    sequential: float
    total: float
