"""`pdr eval`, and the parts shared with other commands: the job, its examples, its run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import typer

from pdr_dspy import calls, datasets
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.data_option import DataOptions, read
from pdr_dspy.cli.display import Display, report_columns, report_rows
from pdr_dspy.cli.executor_option import check_reachable, executor_of
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import Target, find, schedule_of
from pdr_dspy.cli.run_folders import Kind, check_folder
from pdr_dspy.cli.wrong_answers import wrong_in_words
from pdr_dspy.errors import ServerError, StoreError
from pdr_dspy.evaluation.evaluator import check_examples, describe
from pdr_dspy.evaluation.evaluator import evaluate as run_evaluation
from pdr_dspy.evaluation.executors import Executor
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.run_folder import LOCK
from pdr_dspy.evaluation.texts import MAX_TEXT_BYTES
from pdr_dspy.reporting.evaluation_tables import program_row
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.locks import wait_for
from pdr_dspy.verifiers import Verifier

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM


@dataclass(frozen=True)
class Job:
    """A program, its examples, and the settings of its evaluation."""

    target: Target
    examples: list[dspy.Example]
    verifier: Verifier
    model: Model
    repeats: int
    seed: int
    budget: Budget | None
    run_dir: Path
    judge: EndpointLM | None = None
    """The model that the verifier calls."""
    texts: int = MAX_TEXT_BYTES
    """Maximum bytes of questions, drafts and workspaces kept for people."""
    ray: str | None = None
    """The Ray cluster whose machines run the rows; None is this process."""
    executor: Executor | None = None
    """The executor of that cluster, once it was joined."""

    @classmethod
    def of(
        cls,
        target: str,
        *,
        task: str | None,
        data: str | None,
        verifier: str | None,
        split: str | None,
        limit: int | None,
        repeats: int,
        seed: int,
        model: Model,
        budget: Budget | None,
        run_dir: Path | None,
        kind: str,
        trusted: bool = False,
        judge_base: str | None = None,
        judge_model: str | None = None,
        texts: int | None = None,
        ray: str | None = None,
        metric: str | None = None,
        fields: Sequence[str] = (),
    ) -> Job:
        """The job, after all checks that are possible before a model is started."""
        check_reachable(model, ray)
        options = DataOptions(data, metric, verifier, fields, judge_base, judge_model)
        found = find(target, task=task, trusted=trusted)
        graded = read(found, options, split=split, limit=limit)
        examples, grader = graded.examples, graded.verifier
        check_examples(found.program, examples, grader)
        if run_dir is None:
            about = [found.name, datasets.fingerprint(examples), seed, model.answering(), repr(budget)]
            about += [grader.describe(), fingerprint(found.program)]  # edited ones have a folder of their own
            digest = hashlib.sha256((json.dumps(about) + _content(found)).encode()).hexdigest()[:8]
            run_dir = Path("runs") / f"{kind}-{found.name}-{digest}"
        return cls(
            found, examples, grader, model, repeats, seed, budget, run_dir, graded.lm,
            MAX_TEXT_BYTES if texts is None else texts * 2**20, ray,
        )  # fmt: skip

    @contextmanager
    def serving(self, display: Display) -> Iterator[None]:
        """Inside, the program's model is available, and the judge's if the verifier calls one; both are checked."""
        with self.model.serving(schedule_of(self.target.program), display):
            if self.judge is None:
                yield
                return
            try:
                self.judge.check_sync()
                yield
            finally:
                self.judge.close()

    def evaluate(
        self,
        program: dspy.Module,
        name: str,
        display: Display,
        *,
        store: Rollouts,
        repeats: int | None = None,
        run_dir: Path | None = None,
    ) -> Report:
        """Evaluate `program` with the settings of this job."""
        repeats = repeats or self.repeats
        with (
            display.rows(name, len(self.examples) * repeats) as progress,
            calls.session(on_response=display.counted),
        ):
            report = run_evaluation(
                program,
                self.examples,
                self.verifier,
                repeats=repeats,
                seed=self.seed,
                budget=self.budget,
                run_dir=run_dir or self.run_dir,
                store=store,
                max_in_flight=self.model.in_flight,
                max_text_bytes=self.texts,
                name=name,
                progress=progress,
                executor=self.executor,
            )
        if report.stopped is not None:
            raise ServerError(f"{report.stopped}. Finished rows are kept in {self.run_dir}; the same command resumes")
        return report

    def check_folder(self, kind: Kind) -> None:
        """Check the run folder before a model is started; the parts that depend on the model are checked later."""
        config = describe(
            self.target.program,
            self.examples,
            check_examples(self.target.program, self.examples, self.verifier),
            self.verifier,
            repeats=self.repeats,
            seed=self.seed,
            budget=self.budget,
        )
        later = ("models", "repeats")  # more repeats of the same evaluation only add rows
        check_folder(self.run_dir, kind, config={key: value for key, value in config.items() if key not in later})

    def wait(self, folder: Path, display: Display) -> None:
        """Return when no process works in a folder: a model started now would only wait."""
        try:
            wait_for(folder / LOCK, on_wait=display.say)
        except OSError as error:
            raise StoreError(f"the run folder {folder} cannot be used: {error.strerror or error}") from error

    def replace(self, **changes: Any) -> Job:
        """This job with some fields changed."""
        return replace(self, **changes)


def evaluate(job: Job, *, as_json: bool, display: Display) -> None:
    """Run, grade, print."""
    job.check_folder("eval")
    job.wait(job.run_dir, display)
    with executor_of(job.ray) as executor, Rollouts(job.run_dir / "rollouts") as store, job.serving(display):
        job = job.replace(executor=executor)
        report = job.evaluate(job.target.program, job.target.name, display, store=store)
    summary = summarise(report)
    save_json(job.run_dir / "report.json", {"command": "eval", "reports": [summary]})
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        display.table("", report_columns([report]), report_rows([report]))
        if job.repeats > 1:
            display.out.print(
                f"pass@{job.repeats} {report.pass_at(job.repeats):.3f}, "
                f"majority@{job.repeats} {report.majority_at(job.repeats):.3f}"
            )
    row = program_row(report)
    shares = {"ended by their cap": row.truncated, "cancelled": row.cancelled, "sent more than once": row.retried}
    if any(shares.values()):
        display.say(f"calls {', '.join(f'{what}: {share:.1%}' for what, share in shares.items() if share)}")
    if report.unlabelled:
        others = ", ".join(f"{how} {count}" for how, count in report.how.items() if how != "label")
        display.say(f"answers found by other means than their label: {report.unlabelled:.1%} ({others})")
    if report.unclear:
        display.say(f"answers that were stated and could not be read: {report.unclear}")
    for wrong in wrong_in_words(job.target.program, report.rows):
        display.say(wrong)
    display.say(f"rows: {job.run_dir / 'rows.jsonl'}")
    for failed in failures_in_words(report.rows):
        display.say(failed)
    if report.failed or report.failed_rounds:
        display.say("the same command tries failed rows again")
        raise typer.Exit(1)


def summarise(report: Report) -> dict[str, Any]:
    """The figures of a report as JSON."""
    row = program_row(report)
    return {
        "name": report.name,
        "score": report.score,
        "interval": list(report.interval),
        "sequential": report.sequential,
        "total": report.total,
        **({} if report.cost is None else {"cost": report.cost}),
        "calls": report.calls,
        "paid": report.paid,
        "paid_before": report.paid_before,
        "reused": report.reused,
        "rows": len(report.rows),
        "failed": report.failed,
        "failed_rounds": report.failed_rounds,
        "unchecked": report.unchecked,
        "ungraded": report.ungraded,
        "damaged": report.damaged,
        "truncated": row.truncated,
        "cancelled": row.cancelled,
        "retried": row.retried,
        "how": report.how,
        "unlabelled": report.unlabelled,
        "unclear": report.unclear,
        "config": report.config,
    }


def save_json(path: Path, value: Any) -> None:
    """Write a small JSON file in one step."""
    store_whole(path, json.dumps(value, indent=1))


def _content(target: Target) -> str:
    return "" if target.artifact is None else hashlib.sha256(target.artifact.read_bytes()).hexdigest()
