"""`pdr compare`: a program against the baselines, at the tokens that it spends itself.

Matched B_total: majority voting over as many single passes as cost what the program costs, and SR with as many rounds.
Matched B_seq: SR with as many rounds as cost what the program's critical path costs. A single pass ends where it ends.
All share seeds and one store: the single pass is the program's first draft, the vote is over its first-round drafts and
more of them, so differences are not those of luck, and what two of them ask is asked once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import dspy
import typer

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Ledger, Phase
from pdr_dspy.calls.request import Sampling
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.evaluate import Job, save_json, summarise
from pdr_dspy.cli.program_files import find, operator_of
from pdr_dspy.cli.report import write_page
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.operators.loop import Round, Stop, plurality
from pdr_dspy.operators.modules import Operator
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.roles import Role

MOST_PASSES = 64
MOST_ROUNDS = 16


class Line(NamedTuple):
    """One line of the table."""

    report: Report
    folder: str
    """Where its rows are, below the run folder."""
    matched: str = ""
    """What it has in common with the first line: B_seq, B_total or nothing."""


COLUMNS = ("program", "matched", "score", "95 % interval", "B_seq", "B_total", "calls", "first minus this", "p")


def compare(job: Job, against: Sequence[str], *, trusted: bool, as_json: bool, display: Display) -> None:
    """Evaluate the program, then its baselines, and print the table."""
    others = [find(name, task=None if name.endswith(".py") else _task_file(job), trusted=trusted) for name in against]
    job.check_folder("compare")
    with Rollouts(job.run_dir / "rollouts") as store, job.serving(display):
        lines = measure(job, [(other.name, other.program) for other in others], store, display)
    facts = summary(lines)
    save_json(job.run_dir / "report.json", facts)
    if as_json:
        typer.echo(json.dumps(facts["lines"]))
    else:
        display.table("", *table(lines), text=2)
    page = write_page(job.run_dir, None, display)
    display.say(f"rows: {job.run_dir}/*/rows.jsonl" + (f"; report: {page}" if page else ""))


def table(lines: Sequence[Line]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns and rows for people."""
    return COLUMNS, [_row(line, lines[0]) for line in lines]


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """The same as JSON."""
    return {"command": "compare", "lines": [_plain(line, lines[0]) for line in lines]}


def measure(job: Job, others: Sequence[tuple[str, dspy.Module]], store: Rollouts, display: Display) -> list[Line]:
    """The program first, then its baselines, then `others`. Uses DSPy's current LM."""
    operator = operator_of(job.target.program)
    base = operator_of(job.target.task.build()) if job.target.task is not None else operator

    def run(program: dspy.Module, name: str, folder: str, matched: str = "") -> Line:
        report = job.evaluate(program, name, display, run_dir=job.run_dir / folder, store=store)
        return Line(report, folder, matched)

    main = run(job.target.program, job.target.name, "program")
    single = run(_single(base), "one pass", "one_pass")
    lines = [main, single]
    lines += _vote(
        lambda passes: run(Voting(base, passes), f"majority of {passes}", f"vote{passes}", "B_total"), *lines
    )
    probe_rounds = max(2, operator.schedule.rounds)
    probe = run(_refining(base, probe_rounds), f"SR x{probe_rounds}", f"sr{probe_rounds}")
    done = {probe_rounds: probe}
    matched: dict[int, list[str]] = {}
    for limit, tokens in (("B_seq", main.report.sequential), ("B_total", main.report.total)):
        rounds = rounds_for(probe.report, tokens)
        matched.setdefault(rounds, []).append(limit)
        if rounds not in done:
            done[rounds] = run(_refining(base, rounds), f"SR x{rounds}", f"sr{rounds}")
    lines += [done[rounds]._replace(matched=", ".join(limits)) for rounds, limits in matched.items()]
    return [*lines, *(run(program, name, f"other{position}") for position, (name, program) in enumerate(others))]


class Voting(Operator):
    """Single passes side by side; the most common answer is the answer (self-consistency, arXiv 2203.11171)."""

    def __init__(self, base: Operator, passes: int) -> None:
        super().__init__(base.task, _single(base).schedule)
        self.draft = base.predictor(Role.DRAFT)
        self.passes = passes

    async def aforward(
        self, *, budget: Budget | None = None, seed: int | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Ask `passes` times. A budget is not looked at: the number of passes is the budget."""
        del budget
        schedule = self.schedule
        replies = await calls.ask(
            self.predictor(Role.DRAFT),
            [inputs] * self.passes,
            phase=Phase.DRAFT,
            round_number=1,
            example=calls.identity(inputs),
            sampling=Sampling(
                schedule.draft_tokens + schedule.thinking_tokens,
                schedule.temperature,
                schedule.top_p,
                schedule.thinking_tokens,
            ),
            run_seed=seed,
        )
        fields = tuple(self.task.output_fields)
        drafts = [
            Draft(
                round=1,
                index=index,
                solution=reply.text,
                outputs={name: value for name, value in reply.reading.outputs.items() if name in fields},
                truncated=reply.call.truncated,
                failure=reply.call.failure,
            )
            for index, reply in enumerate(replies)
        ]
        ledger = Ledger(calls=tuple(call for reply in replies for call in reply.calls))
        if not any(draft.ok for draft in drafts):
            raise RoundFailed(f"all {self.passes} passes failed, the first with: {drafts[0].failure}", ledger)
        complete = [draft for draft in drafts if all(name in draft.outputs for name in fields)]
        chosen = plurality(complete, fields) if complete else drafts[0]
        return dspy.Prediction(
            **{name: chosen.outputs.get(name) for name in fields},
            solution=chosen.solution,
            ledger=ledger,
            rounds=(Round(drafts=tuple(drafts)),),
            stop=Stop.DONE if complete else Stop.NO_ANSWER,
        )


def _vote(run: Callable[[int], Line], main: Line, single: Line) -> list[Line]:
    """The vote that costs about what the program costs. A server that reads a shared prompt once makes further passes
    cheaper than the first, so what a pass costs is measured, not taken from the single one."""
    target, first = main.report.total, single.report.total
    passes = round(target / max(first, 1.0))
    found: list[Line] = []
    for _ in range(3):
        passes = min(MOST_PASSES, passes)
        if passes < 2:
            break
        found = [run(passes)]
        further = (found[0].report.total - first) / (passes - 1)
        better = min(MOST_PASSES, 1 + round((target - first) / max(further, 1.0)))
        if better == passes:
            break
        passes = better
    return found


def rounds_for(probe: Report, tokens: float) -> int:
    """How many rounds of SR cost about `tokens`, from what its first and its later rounds cost in `probe`."""
    drafts = [call.tokens for row in probe.rows for call in row.calls if call.phase is Phase.DRAFT]
    later = [call.tokens for row in probe.rows for call in row.calls if call.phase is not Phase.DRAFT]
    if not drafts or not later:
        return 2
    rounds = 1 + round((tokens - fmean(drafts)) / fmean(later))
    return max(2, min(MOST_ROUNDS, rounds))


def _row(line: Line, first: Line) -> list[str]:
    report = line.report
    low, high = report.interval
    cells = [report.name, line.matched, f"{report.score:.3f}", f"[{low:.3f}, {high:.3f}]"]
    cells += [f"{report.sequential:,.0f}", f"{report.total:,.0f}", f"{report.calls:.1f}"]
    if line is first:
        return [*cells, "", ""]
    difference = paired(first.report.per_question, report.per_question)
    low, high = difference.interval
    return [*cells, f"{difference.difference:+.3f} [{low:+.3f}, {high:+.3f}]", f"{difference.p_value:.3f}"]


def _plain(line: Line, first: Line) -> dict[str, Any]:
    plain = {**summarise(line.report), "folder": line.folder, "matched": line.matched}
    if line is not first:
        difference = paired(first.report.per_question, line.report.per_question)
        plain |= {"difference": difference.difference, "difference_interval": list(difference.interval)}
        plain["p_value"] = difference.p_value
    return plain


def _single(program: Operator) -> Operator:
    return program.with_schedule(program.schedule.replace(widths=(1,), distiller="last", critique=False))


def _refining(program: Operator, rounds: int) -> Operator:
    return program.with_schedule(program.schedule.replace(widths=(1,) * rounds, distiller="last", critique=False))


def _task_file(job: Job) -> str | None:
    return None if job.target.task is None else job.target.task.name
