"""`pdr compare`: a program against the baselines, at its own tokens.

Matched B_total: majority voting over as many single passes as cost the same as the program, for outputs of free text
also the one of them that is most like the others, the best of as many by each of the program's checks, and SR with as
many rounds.
Matched B_seq: SR with as many rounds as cost the same as the program's critical path. A single pass is not matched.
All share seeds and one store: the single pass is the program's first draft, and the vote is over its first-round drafts
and further ones, so that differences are not due to sampling, and shared calls are made once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import typer

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.evaluate import Job, save_json, summarise
from pdr_dspy.cli.executor_option import executor_of
from pdr_dspy.cli.program_files import build, find
from pdr_dspy.cli.report import write_page
from pdr_dspy.evaluation.drafts import over_drafts
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.statistics import Paired, paired
from pdr_dspy.operators.nested import operators_of, replaced
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import AT_ONCE
from pdr_dspy.prompts.shapes import is_code, plain_kind
from pdr_dspy.prompts.values import is_text
from pdr_dspy.runtime import store_whole

MOST_PASSES = 64
MOST_ROUNDS = 16


class Line(NamedTuple):
    """One line of the table."""

    report: Report
    folder: str
    """The folder of its rows, below the run folder."""
    matched: str = ""
    """The cost that matches the first line: B_seq, B_total or nothing."""


COLUMNS = ("program", "matched", "score", "95 % interval", "B_seq", "B_total", "calls", "first minus this", "p")


def compare(job: Job, against: Sequence[str], *, trusted: bool, as_json: bool, display: Display) -> None:
    """Evaluate the program, then its baselines, and print the table."""
    others = [find(name, task=None if name.endswith(".py") else _task_file(job), trusted=trusted) for name in against]
    job.check_folder("compare")
    job.wait(job.run_dir / "program", display)
    with executor_of(job.ray) as executor, Rollouts(job.run_dir / "rollouts") as store, job.serving(display):
        job = job.replace(executor=executor)
        lines = measure(job, [(other.name, other.program) for other in others], store, display)
    facts = summary(lines)
    save_json(job.run_dir / "report.json", facts)
    if as_json:
        typer.echo(json.dumps(facts["lines"]))
    else:
        display.table("", *table(lines), text=2)
    for line in lines:
        for failed in failures_in_words(line.report.rows):
            display.say(f"{line.report.name}: {failed}")
    page = write_page(job.run_dir, None, display)
    display.say(f"rows: {job.run_dir}/*/rows.jsonl" + (f"; report: {page}" if page else ""))


def table(lines: Sequence[Line]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns and rows for people."""
    priced = any(line.report.cost is not None for line in lines)
    columns = (*COLUMNS[:6], "cost", *COLUMNS[6:]) if priced else COLUMNS
    return columns, [_row(line, lines[0], priced=priced) for line in lines]


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """The table as JSON."""
    return {"command": "compare", "lines": [_plain(line, lines[0]) for line in lines]}


def measure(
    job: Job,
    others: Sequence[tuple[str, dspy.Module]],
    store: Rollouts,
    display: Display,
    *,
    most_passes: int = MOST_PASSES,
    most_rounds: int = MOST_ROUNDS,
    few: int | None = None,
) -> list[Line]:
    """The program first, then its baselines, then `others`. Uses DSPy's current LM.

    Args:
        job: the program, its questions and its settings.
        others: further programs and their names.
        store: of the calls.
        display: shows progress.
        most_passes: limit on the passes that a vote or best-of-N may use to match the program's tokens.
        most_rounds: likewise for the rounds of SR.
        few: only so many questions, the first ones, for SR and `others`, whose calls nothing else shares; their names
            say so, and their differences are those on these questions. None is all.
    """
    own = operators_of(job.target.program, job.target.name)
    base = job.target.program if job.target.task is None else build(job.target.task)
    parts = operators_of(base, job.target.name).values()
    each = " at each operator" if len(parts) > 1 else ""

    def run(program: dspy.Module, name: str, folder: str, matched: str = "") -> Line:
        report = job.evaluate(program, name, display, run_dir=job.run_dir / folder, store=store)
        return Line(report, folder, matched)

    def run_few(program: dspy.Module, name: str, folder: str) -> Line:
        if few is None or few >= len(job.examples):
            return run(program, name, folder)
        name, folder, part = f"{name}, {few} questions", f"{folder}_of_{few}", job.replace(examples=job.examples[:few])
        return Line(part.evaluate(program, name, display, run_dir=job.run_dir / folder, store=store), folder)

    main = run(job.target.program, job.target.name, "program")
    single = run(_single(base), "one pass", "one_pass")
    lines = [main, single]
    kinds: list[Callable[[int], Line]] = [
        lambda passes: run(_voting(base, passes), f"majority of {passes}{each}", f"vote{passes}", "B_total")
    ]
    if any(_is_free(field.annotation) for one in parts for field in one.task.output_fields.values()):  # the same calls
        kinds.append(
            lambda passes: run(_most_alike(base, passes), f"medoid of {passes}{each}", f"medoid{passes}", "B_total")
        )
    kinds += [
        lambda drafts, check=check: run(
            _best(base, drafts, check), f"best of {drafts} by {check}", f"best{drafts}_{check}", "B_total"
        )
        for check in dict.fromkeys(check for one in parts for check in one.checks)
    ]
    # A round of independent drafts is matched by as many passes: no other number has to be tried.
    wide = {one.schedule.widths[0] if one.schedule.rounds == 1 else None for one in own.values()}
    width = wide.pop() if len(wide) == 1 else None
    for kind in kinds:
        lines += _several(kind, main, single, width, most_passes)
    probe_rounds = max(2, *(one.schedule.rounds for one in own.values()))
    probe = run_few(_refining(base, probe_rounds), f"SR x{probe_rounds}{each}", f"sr{probe_rounds}")
    done = {probe_rounds: probe}
    matched: dict[int, list[str]] = {}
    for limit, tokens in (("B_seq", main.report.sequential), ("B_total", main.report.total)):
        wanted = rounds_for(probe.report, tokens)
        rounds = min(wanted, max(most_rounds, probe_rounds))
        matched.setdefault(rounds, []).extend([limit] if rounds == wanted else [])
        if rounds not in done:
            done[rounds] = run_few(_refining(base, rounds), f"SR x{rounds}{each}", f"sr{rounds}")
    lines += [done[rounds]._replace(matched=", ".join(limits)) for rounds, limits in matched.items()]
    lines[1] = _over_drafts(single, lines, job.run_dir)
    return [*lines, *(run_few(program, name, f"other{position}") for position, (name, program) in enumerate(others))]


def _several(run: Callable[[int], Line], main: Line, single: Line, passes: int | None, most: int) -> list[Line]:
    """As many concurrent passes as cost about the same as the program, at most `most`; `passes` is a first guess, None
    the quotient of both costs. A server that reads a shared prompt once makes further passes cheaper than the first,
    so the cost of a pass is measured, not derived from the single one."""
    target, first = main.report.total, single.report.total
    passes = round(target / max(first, 1.0)) if passes is None else passes
    found: list[Line] = []
    for _ in range(3):
        passes = min(most, passes)
        if passes < 2:
            break
        found = [run(passes)]
        further = (found[0].report.total - first) / (passes - 1)
        better = 1 + round((target - first) / max(further, 1.0))
        if passes == most < better:
            found = [found[0]._replace(matched="")]
        if min(most, better) == passes:
            break
        passes = better
    return found


def rounds_for(probe: Report, tokens: float) -> int:
    """How many rounds of SR cost about `tokens`, from the costs of its first and its later rounds in `probe`; of SR at
    each operator, if there are several."""
    made = [row.calls for row in probe.rows if row.calls]
    calls = [call for own in made for call in own if call.sent]
    first = _per_turn([call for call in calls if call.phase is Phase.DRAFT])
    later = _per_turn([call for call in calls if call.phase is not Phase.DRAFT])
    if not first or not later:
        return 2
    runs = sum(call.phase is Phase.DRAFT and not call.part for call in calls) / len(made)  # of operators, of a question
    rounds = 1 + round((tokens / runs - first) / later)
    return max(2, min(MOST_ROUNDS, rounds))


def _per_turn(calls: Sequence[Call]) -> float:
    """Mean tokens of a turn, all its requests together; 0 if there is none."""
    turns = sum(not call.part for call in calls)
    return sum(call.tokens for call in calls) / turns if turns else 0.0


def _over_drafts(single: Line, lines: Sequence[Line], run_dir: Path) -> Line:
    """The single pass over as many drafts of other programs as possible, with a separate folder, which the report
    reads."""
    report = max((over_drafts(single.report, line.report) for line in lines), key=lambda report: len(report.rows))
    if report is single.report:
        return single
    width = len(report.rows) // len(single.report.rows)
    folder = run_dir / f"{single.folder}_over_{width}"
    store_whole(folder / "rows.jsonl", "".join(f"{row.model_dump_json()}\n" for row in report.rows))
    store_whole(folder / "config.json", json.dumps(report.config, indent=1))
    return Line(report, folder.name)


def _row(line: Line, first: Line, *, priced: bool) -> list[str]:
    report = line.report
    low, high = report.interval
    cells = [report.name, line.matched, f"{report.score:.3f}", f"[{low:.3f}, {high:.3f}]"]
    cost = "" if report.cost is None else f"{report.cost:.4g}"
    cells += [f"{report.sequential:,.0f}", f"{report.total:,.0f}", *([cost] if priced else []), f"{report.calls:.1f}"]
    if line is first:
        return [*cells, "", ""]
    difference = _difference(first.report, report)
    low, high = difference.interval
    return [*cells, f"{difference.difference:+.3f} [{low:+.3f}, {high:+.3f}]", f"{difference.p_value:.3f}"]


def _difference(first: Report, second: Report) -> Paired:
    """First minus second, paired by question, on the questions of the second."""
    there = second.by_question
    common = first.model_copy(update={"rows": tuple(row for row in first.rows if row.id in there)})
    return paired(common.per_question, second.per_question)


def _plain(line: Line, first: Line) -> dict[str, Any]:
    plain = {**summarise(line.report), "folder": line.folder, "matched": line.matched}
    if line is not first:
        difference = _difference(first.report, line.report)
        plain |= {"difference": difference.difference, "difference_interval": list(difference.interval)}
        plain["p_value"] = difference.p_value
    return plain


def _single(program: dspy.Module) -> dspy.Module:
    return _plainly(program, widths=(1,))


def _voting(program: dspy.Module, passes: int) -> dspy.Module:
    return _plainly(program, widths=(passes,), final="vote")


def _most_alike(program: dspy.Module, passes: int) -> dspy.Module:
    return _plainly(program, widths=(passes,), final="medoid")


def _is_free(kind: Any) -> bool:
    """Whether equal answers of a field's type are rare: text or code."""
    return is_text(kind) or is_code(plain_kind(kind))


def _best(program: dspy.Module, drafts: int, check: str) -> dspy.Module:
    return _plainly(program, widths=(drafts,), final="best", check=check)


def _refining(program: dspy.Module, rounds: int) -> dspy.Module:
    return _plainly(program, widths=(1,) * rounds)


def _plainly(program: dspy.Module, **shape: Any) -> dspy.Module:
    """The program with a schedule of this shape at each operator, without a check unless the shape names one; an
    operator that lacks that check makes one pass."""
    plain = {"distiller": "last", "critique": False, "final": "refine", "check": None, "keep": False, "stop_at": None}
    plain |= AT_ONCE  # without `stop_at` and `agree` there are no waves

    def changed(_: str, operator: Operator) -> Operator:
        own = shape if shape.get("check") in (None, *operator.checks) else {"widths": (1,)}
        return operator.with_schedule(operator.schedule.replace(**plain | own))

    return replaced(program, changed)


def _task_file(job: Job) -> str | None:
    return None if job.target.task is None else job.target.task.name
