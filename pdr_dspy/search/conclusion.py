"""How a search ends: its records, its confirmation, the program that is returned, and the rows on disk."""

from __future__ import annotations

import json
import logging

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.evaluator import describe as describe_evaluation
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.search import optuna_mirror
from pdr_dspy.search.candidates import Cohorts
from pdr_dspy.search.problem import Terms
from pdr_dspy.search.progress import Telling
from pdr_dspy.search.racing.confirmation import Confirmation, judge
from pdr_dspy.search.racing.plan import Found, Stage
from pdr_dspy.search.records import TrialRecord, record
from pdr_dspy.search.result import SearchResult, attach, estimated_front, program_of, write
from pdr_dspy.search.space.prompt_axes import questions_in
from pdr_dspy.search.workers.worker import SEEDS, Worker

logger = logging.getLogger("pdr_dspy.search")


class Conclusion:
    """What follows from the runs of one search."""

    def __init__(self, terms: Terms, worker: Worker, cohorts: Cohorts, telling: Telling) -> None:
        self.terms = terms
        self.worker = worker
        self.cohorts = cohorts
        self.telling = telling

    def of(self, found: Found) -> SearchResult:
        """The program that is returned and all that was found, written to the run folder where there is one.

        Raises:
            ConfigError: no schedule is within the limits.
            StoreError: the run folder cannot be written.
        """
        terms = self.terms
        self.telling.records = self.recorded(found)
        whole = [trial for trial in self.telling.records if trial.state == "measured"]
        if found.chosen is None:
            raise ConfigError(
                f"no schedule is within `max_sequential={terms.limits.sequential}`, `max_total={terms.limits.total}`: "
                f"the least that was measured is {min(t.sequential for t in whole):.0f} sequential and "
                f"{min(t.total for t in whole):.0f} total tokens ({found.stopped}); raise the limit or lower the caps"
            )
        best = self.telling.records[found.chosen]
        confirmation = self.confirmed(best)
        keep_winner = confirmation.kept == "winner"
        program = program_of(terms.student, best) if keep_winner else terms.student.deepcopy()
        result = SearchResult(
            program=program,
            student=terms.student,
            trials=tuple(self.telling.records),
            best=best,
            finalists=found.finalists,
            front=tuple(estimated_front(self.telling.records)),
            confirmation=confirmation,
            limits=terms.limits,
            stopped=found.stopped,
            paid=found.paid,
            saved=found.saved,
            proposals=self.cohorts.proposals,
            rows={
                t.number: [row for at in (Stage.RACE, Stage.FINAL) for row in self.worker.of(at, t.number)]
                for t in self.telling.records
            },
        )
        if terms.folder is not None:
            self.write_rows(found)
            about = {"fingerprint": terms.config["examples"], "questions": len(terms.train)}
            write(
                result,
                terms.folder,
                terms.config,
                terms.confirmed_in,
                verifier=terms.optimizer.verifier,
                data=about,
            )
            optuna_mirror.mirror(
                terms.folder if terms.optimizer.storage is None else terms.optimizer.storage,
                terms.optimizer.study,
                self.telling.records,
                space=self.cohorts.searched,
                limits=terms.limits,
                costs=self.cohorts.proposer.costs,
            )
        attach(program, result)
        logger.info("%s; %s", found.stopped, confirmation.verdict)
        return result

    def recorded(self, found: Found) -> list[TrialRecord]:
        """Every trial, with its runs on fresh seeds where it has any."""
        finalists = {finalist.number: finalist for finalist in found.finalists}
        return [
            record(
                arm,
                self.worker.of(Stage.RACE, arm.number),
                found.estimates[arm.number],
                self.terms.limits,
                finalist=finalists.get(arm.number),
            )
            for arm in found.arms
        ]

    def report(self, stage: Stage, number: int, name: str) -> Report:
        """The evaluation of one program in one stage."""
        rows = self.worker.of(stage, number)
        examples = [example for _, example in self.terms.sets[stage]]
        program = self.terms.student if number == 0 else program_of(self.terms.student, self.telling.records[number])
        config = describe_evaluation(
            program,
            examples,
            [name for name, _ in self.terms.sets[stage]],
            self.terms.optimizer.verifier,
            repeats=max((row.repeat for row in rows), default=0) + 1,
            seed=self.terms.optimizer.seed + SEEDS[stage],
            budget=None,
        )
        return Report(rows=tuple(sorted(rows, key=lambda row: (row.repeat, row.id))), name=name, config=config)

    def confirmed(self, best: TrialRecord) -> Confirmation:
        """The best trial and the student on the questions of the confirmation, and which of them is kept."""
        student = self.report(Stage.CONFIRM, 0, str(self.terms.operator.schedule))
        same = best.number == 0
        winner = student if same else self.report(Stage.CONFIRM, best.number, str(best.candidate))
        difference = paired(winner.per_question, student.per_question)
        kept, verdict = judge(
            winner,
            student,
            difference,
            self.terms.limits,
            same=same,
            seen=self.terms.seen,
            prompted=len(self.prompted()),
            accept=self.terms.optimizer.accept,
        )
        self.telling.tell("confirmed", verdict)
        return Confirmation(winner, student, difference, not self.terms.seen, kept, verdict)

    def prompted(self) -> set[str]:
        """Questions of the confirmation that demonstrations of the space show, or that a writer was shown."""
        shown = questions_in(self.terms.operator.task, self.terms.space.demos)
        shown |= set(self.cohorts.proposals.shown if self.cohorts.proposals is not None else ())
        return shown & self.terms.confirmed_questions

    def write_rows(self, found: Found) -> None:
        """The rows of every trial, finalist and confirmed program, as `evaluate` writes them."""
        assert self.terms.folder is not None
        chosen = found.chosen or 0
        places = [(Stage.RACE, trial.number, f"trials/{trial.number:04d}") for trial in self.telling.records]
        places += [(Stage.FINAL, one.number, f"final/{one.number:04d}") for one in found.finalists]
        places += [(Stage.CONFIRM, 0, f"{self.terms.confirmed_in}/student")]
        if chosen:
            places.append((Stage.CONFIRM, chosen, f"{self.terms.confirmed_in}/{chosen:04d}"))
        for stage, number, place in places:
            report = self.report(stage, number, place)
            folder = self.terms.folder / place
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / "config.json", json.dumps(report.config, indent=1))
                write_whole(folder / "rows.jsonl", "".join(_line(row) for row in report.rows))
            except OSError as error:
                raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error


def _line(row: Row) -> str:
    return row.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace").decode() + "\n"
