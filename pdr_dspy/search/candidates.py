"""What each cohort of a search is made of: baselines, presets, and candidates that a proposer draws from the space."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.records import Report
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import PRESETS, Schedule, preset
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.problem import Terms
from pdr_dspy.search.progress import Telling
from pdr_dspy.search.proposing import shared_instructions
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing import pareto
from pdr_dspy.search.racing.cost_model import SLACK, predict
from pdr_dspy.search.racing.plan import Cell, Plan, Propose, Proposed, Stage, Tried
from pdr_dspy.search.space.candidate import describe_candidate, program_with, read_candidate
from pdr_dspy.search.space.space import Candidate
from pdr_dspy.search.workers.worker import Worker

logger = logging.getLogger("pdr_dspy.search")


class Cohorts:
    """Answers what the plan of one search asks to try."""

    def __init__(self, terms: Terms, plan: Plan, telling: Telling) -> None:
        self.terms = terms
        self.plan = plan
        self.telling = telling
        self.searched = terms.space
        """The space that the user gave, with the proposed instructions once they are there."""
        self.proposals: Proposals | None = None
        """Instructions that a model wrote; None before that, and where none were asked for."""
        self.may_write = True
        """Whether this worker has the model that writes them."""
        self.proposer = self.make_proposer()

    def baselines(self) -> list[Proposed]:
        """What runs first: the untouched student, and one pass, whose costs tell what the others will cost."""
        own = self.terms.operator.schedule
        named = [Proposed("student", Candidate(own, {}))]
        single = Candidate(own.replace(widths=(1,), critique=False), {})
        if single in self.terms.space and (single.key != named[0].candidate.key or self.terms.mixed):
            named.append(Proposed("LongCoT", single))
        return named

    def presets(self) -> list[Proposed]:
        """Sequential Refinement and the presets: those that the space has."""
        own, space = self.terms.operator.schedule, self.terms.space
        named: dict[str, Schedule] = {}
        if max(space.rounds) > 1:
            named["SR"] = own.replace(widths=(1,) * min(3, max(space.rounds)), distiller="last", critique=False)
        for name in PRESETS:
            kept = own.model_dump(exclude={"widths", "distiller", "critique", "k"})
            named[name] = preset(name, **kept)
        return [Proposed(name, candidate) for name, s in named.items() if (candidate := Candidate(s, {})) in space]

    def propose(self, worker: Worker, request: Propose) -> Sequence[Proposed] | str:
        """The candidates of a cohort: those on the board, else new ones, which are put there."""
        name = f"propose/{request.cohort:03d}"
        text = worker.board.get(name)
        if text is None:
            spent = time.monotonic() - self.telling.started
            limit = self.terms.optimizer.time_limit
            if limit is not None and spent >= limit:
                return f"{spent:.0f} seconds went by, `time_limit` is {limit:g}"
            self.extend(worker)
            found = self.new(worker, request)
            described = [{"origin": one.origin, **describe_candidate(one.candidate)} for one in found]
            text = worker.board.put(name, json.dumps({"candidates": described}))
        self.extend(worker)  # where the candidates were there already
        try:
            described = json.loads(text)["candidates"]
            return [Proposed(one["origin"], read_candidate(one)) for one in described][: request.wanted]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the document {name!r} in {self.terms.named} is not of this search ({error})") from error

    def extend(self, worker: Worker) -> None:
        """Let a model write instructions, or read those that are there, and search the space with them."""
        terms = self.terms
        if not terms.optimizer.prompts or self.proposals is not None:
            return
        roles, count = shared_instructions.roles_of(terms.space), terms.optimizer.prompts

        def make() -> Proposals:
            self.telling.tell("proposing", f"{count} instructions each for {', '.join(roles)}")
            predictor = terms.operator.predictor(Role.DRAFT)
            lm = terms.optimizer.prompt_model or calls.serving(predictor)
            report = Report(rows=tuple(worker.of(Stage.RACE, 0)), name="student")
            return shared_instructions.write(
                terms.student,
                terms.train,
                report,
                space=terms.space,
                lm=lm,
                count=count,
                thinking_tokens=terms.operator.schedule.thinking_tokens,
                held_out=terms.held_out,
                seed=terms.optimizer.seed,
                store=worker.store,
            )

        if not self.may_write:
            logger.info("waiting for the instructions of %s, which this worker has not", terms.config["prompt_model"])
        self.proposals = shared_instructions.agreed(worker.board, make if self.may_write else None)
        made = [(call.key or f"prompts/{place}", call.tokens) for place, call in enumerate(self.proposals.ledger.calls)]
        self.plan.count(Cell(0.0, 0.0, 0.0, calls=tuple(made)))
        self.searched = shared_instructions.extended(terms.space, self.proposals)
        self.proposer = self.make_proposer()
        logger.info("%s", self.proposals)

    def new(self, worker: Worker, request: Propose) -> list[Proposed]:
        """Presets that were not tried, then what the proposer makes of what is known."""
        profile = worker.profile()
        refused: dict[str, bool] = {}
        fitting: dict[tuple[Any, ...], bool] = {}

        def dear(candidate: Candidate) -> bool:
            """Whether a candidate is surely over a limit, or no question fits the model's context with it."""
            if candidate.key not in refused:
                cost = predict(candidate.schedule, profile)
                over = cost is not None and any(v > SLACK - 1 for v in self.terms.limits.excess(*cost).values())
                if over:
                    logger.info("not run: %s would cost B_seq %d, B_total %d", candidate, *(cost or ()))
                refused[candidate.key] = over or not fits(candidate)
            return refused[candidate.key]

        def fits(candidate: Candidate) -> bool:
            """What decides is few numbers, and asking means counting tokens: ask once for each combination."""
            schedule = candidate.schedule
            caps = (
                schedule.draft_tokens,
                schedule.refine_cap,
                schedule.distill_cap,
                schedule.thinking_tokens,
                schedule.kappa,
            )
            shape = (schedule.rounds > 1, schedule.distiller, schedule.critique, caps, repr(candidate[1:]))
            if shape not in fitting:
                fitting[shape] = self.fits(candidate)
            return fitting[shape]

        seen = {known.candidate.key for known in request.tried[1 if self.terms.mixed else 0 :]}
        start = [one for one in self.presets() if one.candidate.key not in seen and not dear(one.candidate)]
        start = list({one.candidate.key: one for one in reversed(start)}.values())[::-1][: request.wanted]
        left = request.wanted - len(start)
        if not left:
            return start
        waiting = tuple(Tried(one.candidate, math.nan, math.nan, math.nan, 0) for one in start)
        known = request.tried if not self.terms.mixed else request.tried[1:]

        def price(candidate: Candidate) -> float | None:
            cost = predict(candidate.schedule, profile)
            return None if cost is None else cost.total

        more = self.proposer.propose(
            (*known, *waiting), left, cohort=request.cohort, surface=request.surface, dear=dear, cost=price
        )
        return [*start, *more]

    def fits(self, candidate: Candidate) -> bool:
        """Whether the shortest question fits the model's context under a candidate."""
        if not isinstance(self.terms.student, Operator):
            return True
        program = program_with(self.terms.student, candidate)
        assert isinstance(program, Operator)
        try:
            event_loop.run(lambda: program.preflight(self.terms.shortest()))
        except ConfigError as error:
            logger.warning("not run: %s cannot be: %s", candidate, error)
            return False
        return True

    def make_proposer(self) -> Proposer:
        """Draws candidates from the space as it is now."""
        optimizer = self.terms.optimizer
        costs = pareto.COSTS if optimizer.pareto else ()
        return Proposer(
            self.searched, limits=self.terms.limits, costs=costs, seed=optimizer.seed, sampler=optimizer.sampler
        )
