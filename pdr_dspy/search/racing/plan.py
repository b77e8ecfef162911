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
from collections.abc import Generator, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.search.racing import elimination, pareto
from pdr_dspy.search.racing.arms import Arm, Finalist, Found
from pdr_dspy.search.racing.requests import Cell, Cells, Measure, Pair, Propose, Proposed, Request, Stage, Write
from pdr_dspy.search.racing.standing import Standing
from pdr_dspy.search.racing.stopping import StoppingRule
from pdr_dspy.search.settings import SearchSettings, Stop


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
        self.margin = margin
        self.standing = Standing(settings)
        self.stopping = StoppingRule(
            self.standing, stop=stop, price=price, trials=trials, max_tokens=max_tokens, questions=questions
        )
        self.seen: set[str] = set()
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
            estimates=self.standing.estimates(),
            finalists=self.describe(finalists, chosen),
            chosen=chosen,
            confirmation=confirmed,
            stopped="; ".join(filter(None, (stopped, enough))),
            prior_weight=None if self.settings.prior is None else self.standing.surface().weight,
            tied=tied,
            paid=self.paid,
            saved=self.saved,
        )

    @property
    def arms(self) -> list[Arm]:
        """Every program so far, in the order of their numbers."""
        return self.standing.arms

    @property
    def trials_begun(self) -> int:
        """The number of candidates so far, without those that repeat calls of others."""
        return self.standing.trials_begun

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
                written: tuple[tuple[str, int], ...] | str = yield Write(writing.count, cohort, self.standing.tried())
                if isinstance(written, str):
                    return written
                self.count(written)
                if self.max_tokens is not None and self.paid >= self.max_tokens:
                    return f"{self.paid} tokens were paid, `max_tokens` is {self.max_tokens}"
            answer: Sequence[Proposed] | str = yield Propose(
                cohort, count, self.standing.tried(), self.settings.race.free
            )
            if isinstance(answer, str):
                return answer
            if (enough := self.stopping.not_worth(answer)) is not None:
                return enough
            yield from self.race(cohort, self.enter(cohort, answer))
            if all(one.free for one in answer) and cohort >= rounds:  # further texts would be further candidates
                return "every candidate was tried or costs too much"
        return f"{self.trials_begun} trials were measured"

    def enter(self, cohort: int, proposed: Sequence[Proposed]) -> list[Arm]:
        """The new arms of a cohort."""
        new = [
            Arm(len(self.arms) + place, own.origin, own.candidate, cohort, own.free)
            for place, own in enumerate(proposed)
        ]
        self.standing.arms += new
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
            if arm.dropped is None and arm.number not in runs and self.standing.allowed(arm)
        }
        # The leader is chosen by the pooled estimate: the best on these pairs would be the luckiest of many.
        leader = next((arm.number for arm in self.standing.best(self.arms) if arm.number in rivals), None)
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
            if (enough := self.stopping.enough(finalists, repeat)) is not None:
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
                rivals = {arm.number: runs[arm.number] for arm in finalists if self.standing.allowed(arm)}
                questions = [pair.question for pair in done]
                dropped = elimination.beaten(runs, rivals, questions, level=levels[repeat], keep=0.0, pareto=False)
                finalists = [arm for arm in finalists if arm.number not in dropped or arm.number == 0]
        return entered, None

    def finalists(self) -> list[Arm]:
        """The student and, after it, the best few others."""
        if self.settings.objective == "front":
            estimates = self.standing.estimates()
            points = [_Point(arm.number, estimates[arm.number][0], arm.sequential, arm.total) for arm in self.arms]
            chosen = [self.arms[point.number] for point in pareto.front(points)]
            chosen.sort(key=lambda arm: -estimates[arm.number][0])
        else:
            chosen = [arm for arm in self.arms if arm.dropped is None]
        ordered = [
            *self.standing.best(chosen),
            *self.standing.best(self.arms),
        ]  # dropped ones only if there are too few others
        picked = list(dict.fromkeys(arm.number for arm in ordered if arm.number != 0))[: self.settings.final.programs]
        return [self.arms[0], *(self.arms[number] for number in picked)]

    def choose(self, finalists: Sequence[Arm]) -> tuple[int | None, tuple[int, ...]]:
        """The cheapest of the finalists whose pooled estimates are at most the margin below the best; None if none is
        within the limits. And the others of them."""
        ordered = self.standing.best(finalists)
        if not ordered:
            return None, ()
        estimates = self.standing.estimates()
        least = estimates[ordered[0].number][0] - self.margin - 1e-9
        tied = [arm for arm in ordered if estimates[arm.number][0] >= least]
        costs = [arm.cost for arm in tied]
        prices = [cost if cost is not None and None not in costs else 0.0 for cost in costs]
        place = min(range(len(tied)), key=lambda i: (prices[i], tied[i].total, tied[i].sequential, i))
        return tied[place].number, tuple(arm.number for arm in tied if arm is not tied[place])

    def describe(self, finalists: Sequence[Arm], chosen: int | None) -> tuple[Finalist, ...]:
        """The finalists for the report, the chosen one first."""
        estimates = self.standing.estimates()
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


class _Point(NamedTuple):
    number: int
    score: float
    sequential: float
    total: float
