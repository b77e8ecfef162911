"""Runs as logs of Inspect for its viewer: a lane for each round, drafts and workspaces as markdown.

Written through the public names of `inspect_ai` (the extra `view`), which defines the file format. Everything comes
from the run folder: figures from its rows, texts from `texts.jsonl` if they were kept. A call without its text is shown
with its figures. Inputs are shown by field; the prompt made from them is in no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdr_dspy.calls.ledger import JSON_PART, Call, Phase
from pdr_dspy.errors import MissingExtra, StoreError
from pdr_dspy.evaluation.records import Report, RoundRow, Row
from pdr_dspy.evaluation.run_folder import CONFIG, ROWS
from pdr_dspy.evaluation.texts import TEXTS, RoundTexts, RowTexts, read_texts
from pdr_dspy.reporting import evaluation_tables, search_tables
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.stored import store_errors

if TYPE_CHECKING:
    from inspect_ai.event import Event
    from inspect_ai.log import EvalLog, EvalSample

FOLDER = "inspect"
"""Folder of a run's logs, inside the run folder."""
DEPTH = 3
"""Levels below a folder that are searched for evaluations."""
DRAFTING = (Phase.DRAFT, Phase.REFINE)
UNKEPT = "(its text was not kept)"


def write_inspect_logs(source: str | Path, out: str | Path | None = None, *, markdown: bool = True) -> list[Path]:
    """Write a log for each evaluation in a run folder: that of `pdr eval`, each program of a comparison, each trial,
    finalist and confirmed program of a search.

    Args:
        source: the run folder.
        out: the folder of the logs; None is `inspect` in the run folder. Logs of the same names are replaced.
        markdown: False makes the viewer show all texts as plain text, for models whose output should not be rendered.

    Returns:
        The logs, first that of the folder's own evaluation.

    Raises:
        MissingExtra: `inspect_ai` is not installed.
        StoreError: the folder holds no evaluation with rows, or the logs cannot be written.
    """
    folder = local_path(source)
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise MissingExtra("inspect-ai", "view", "A log for Inspect's viewer") from error
    target = folder / FOLDER if out is None else local_path(out)
    named = _titles(folder)
    written = []
    for place in evaluations_in(folder):
        relative = place.relative_to(folder).as_posix()
        report = evaluation_tables.read_report(place)
        if not report.rows:
            continue
        name = folder.absolute().name if relative == "." else relative
        texts = read_texts(place / TEXTS, report.rows)
        created = datetime.fromtimestamp((place / ROWS).stat().st_mtime, UTC)
        log = inspect_log(report, texts, name=name, title=named.get(relative, ""), created=created, markdown=markdown)
        path = target / f"{name.replace('/', '-')}.eval"
        with store_errors(path):
            target.mkdir(parents=True, exist_ok=True)
            write_eval_log(log, path)
        written.append(path)
    if not written:
        raise StoreError(f"{folder} holds no evaluation with rows; `pdr eval`, `compare` and `optimize` write them")
    return written


def evaluations_in(folder: Path) -> Iterator[Path]:
    """The folders of evaluations at and below `folder`, by name; hidden folders and stores are left out."""
    level = [folder]
    for _ in range(DEPTH + 1):
        for place in level:
            if (place / CONFIG).exists() and (place / ROWS).exists():
                yield place
        level = sorted(below for place in level for below in _folders(place))


def _folders(place: Path) -> list[Path]:
    skipped = ("rollouts", FOLDER)
    try:
        return [one for one in place.iterdir() if one.name[0] != "." and one.name not in skipped and one.is_dir()]
    except OSError:
        return []


def _titles(folder: Path) -> dict[str, str]:
    """The programs of a search's evaluations, by their folders in it; empty if it is not a finished search."""
    if not (folder / "search.json").exists():
        return {}
    facts = search_tables.read_search(folder)
    names = search_tables.labels(facts.trials)
    titles = {f"{stage}/{number:04d}": name for number, name in names.items() for stage in ("trials", "final")}
    return {**titles, facts.places["student"]: facts.student.name, facts.places["winner"]: facts.winner.name}


# --- one log ---------------------------------------------------------------------------------------------------------


def inspect_log(
    report: Report,
    texts: Mapping[tuple[str, int], RowTexts],
    *,
    name: str,
    title: str = "",
    created: datetime,
    markdown: bool = True,
) -> EvalLog:
    """One evaluation as a log: a sample for each row, score, B_seq and B_total as its columns.

    Args:
        report: with rows.
        texts: the kept texts, by (id, repeat).
        name: of the task.
        title: a description of the program.
        created: when the rows were written.
        markdown: see `write_inspect_logs`.
    """
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )
    from inspect_ai.viewer import TaskSamplesColumn, TaskSamplesView, ViewerConfig

    score = TaskSamplesColumn.score
    shown = ["sampleId", "epoch", "input", "target", "answer"]
    columns = [*(TaskSamplesColumn(id=one) for one in shown), *map(score, COLUMNS), TaskSamplesColumn(id="error")]
    columns += [TaskSamplesColumn(id=one, visible=False) for one in ("sampleStatus", "tokens")]  # B_total shows it
    samples = [_Sample(row, texts.get((row.id, row.repeat)), created).whole() for row in report.rows]
    low, high = report.interval
    means = {
        "score": {"mean": report.score, "low": low, "high": high},
        "B_seq": {"mean": report.sequential},
        "B_total": {"mean": report.total},
    }
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=created.isoformat(timespec="seconds"),
            task=name,
            task_display_name=f"{name}: {title}" if title else name,
            task_args={"program": title} if title else {},
            solver=title or None,
            dataset=EvalDataset(
                name=name, samples=len(report.by_question), sample_ids=list(report.by_question), shuffled=False
            ),
            model=", ".join(map(str, report.config.get("models", ()))) or "unknown",
            config=EvalConfig(epochs=max(row.repeat for row in report.rows) + 1),
            metadata={**report.config, "rows whose texts were kept": len(texts)},
            viewer=ViewerConfig(
                trust_content=None if markdown else False,
                task_samples_view=TaskSamplesView(name="runs", columns=columns, multiline=False),
            ),
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples) - report.failed,
            scores=[
                EvalScore(
                    name=column,
                    scorer=column,
                    scored_samples=len(samples),
                    metrics={name: EvalMetric(name=name, value=value) for name, value in figures.items()},
                )
                for column, figures in means.items()
            ],
        ),
        stats=EvalStats(
            started_at=created.isoformat(timespec="seconds"),
            completed_at=created.isoformat(timespec="seconds"),
            model_usage=_usage_by_model([call for row in report.rows for call in row.calls]),
        ),
        samples=samples,
    )


COLUMNS = ("score", "B_seq", "B_total")


@dataclass
class _Sample:
    """Builds a sample from one row. Its times begin with the log's: rows do not record when they ran."""

    row: Row
    texts: RowTexts | None
    begin: datetime

    def __post_init__(self) -> None:
        self.events: list[Event] = []
        self.open: list[str] = []
        """The open spans, the innermost last."""
        self.at = 0.0
        """Seconds since the beginning."""

    @property
    def question(self) -> str:
        """The inputs, by field if there are several."""
        given = {} if self.texts is None else self.texts.inputs
        if len(given) == 1:
            return next(iter(given.values()))
        return "\n\n".join(f"**{field}**\n\n{text}" for field, text in given.items()) or f"{self.row.id} {UNKEPT}"

    def whole(self) -> EvalSample:
        """The sample."""
        from inspect_ai.event import ScoreEvent
        from inspect_ai.log import EvalError, EvalSample
        from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
        from inspect_ai.scorer import Score

        row = self.row
        calls: dict[int, list[Call]] = {}
        for call in row.calls:
            if not call.sent:
                continue
            calls.setdefault(0 if call.phase is Phase.JUDGE else call.round, []).append(call)
        judged = calls.pop(0, [])
        with self.span("solvers"):
            before: Sequence[str] = ()
            for number in sorted(calls.keys() | set(range(1, len(row.rounds) + 1))):
                before = self.round(number, calls.get(number, []), before)
        solution = (self.texts.solution if self.texts is not None else "") or row.answer or ""
        score = Score(value=row.score, answer=row.answer, explanation=row.detail or row.error)
        with self.span("scorers"):
            for call in judged:
                self.call(call, self.question, "")
            self.add(ScoreEvent, score=score, target=row.gold or "", scorer="score")
        model = next((call.model for call in row.calls), "")
        failed = None if row.error is None else EvalError(message=row.error, traceback=row.error, traceback_ansi="")
        return EvalSample(
            id=row.id,
            epoch=row.repeat + 1,
            input=self.question,
            target=row.gold or "",
            messages=[
                ChatMessageUser(content=self.question),
                *([ChatMessageAssistant(content=solution)] if solution else []),
            ],
            output=ModelOutput.from_content(model, solution) if row.error is None else ModelOutput(model=model),
            scores={"score": score, "B_seq": Score(value=row.sequential), "B_total": Score(value=row.total)},
            metadata={
                "stop": row.stop,
                "seed": row.seed,
                "lost in": evaluation_tables.loss_of(row),
                "calls": row.sent,
                "calls reused": sum(call.reused for call in row.calls if call.sent),
                "tokens paid": row.paid,
                **({"failed rounds": list(row.failed_rounds)} if row.failed_rounds else {}),
                "texts kept": self.texts is not None,
            },
            events=self.events,
            model_usage=_usage_by_model(row.calls),
            started_at=self.time(0.0),
            completed_at=self.time(self.at),
            total_time=row.seconds,
            working_time=row.seconds,
            error=failed,
        )

    def round(self, number: int, calls: Sequence[Call], before: Sequence[str]) -> Sequence[str]:
        """The events of one round, whose drafts read the workspaces `before`; returns the workspaces that it made."""
        from inspect_ai.event import InfoEvent

        round_texts = (
            self.texts.rounds[number - 1] if self.texts is not None and number <= len(self.texts.rounds) else None
        )
        graded = self.row.rounds[number - 1] if number <= len(self.row.rounds) else None
        drafting = [call for call in calls if call.phase in DRAFTING]
        first = [call for call in drafting if not call.part]
        taken = sorted((call for call in first if call.fate != "left"), key=lambda call: call.index)
        places = {(call.phase, call.index): place for place, call in enumerate(taken)}
        drafts = f"{len(taken)} draft{'s' * (len(taken) != 1)}"
        with self.span(f"round {number}: {drafts}" if drafting else f"round {number}", "agent"):
            begin, end = self.at, self.at
            for call in drafting:  # concurrent
                self.at = begin
                place = places.get((call.phase, call.index))
                read = before[call.index] if call.index < len(before) else ""
                with self.span(_named(call), "draft"):
                    self.draft(call, place, read, round_texts, graded)
                end = max(end, self.at)
            self.at = end
            for call in calls:
                if call.phase not in DRAFTING:
                    self.call(call, self.question, "")
            sizes = () if graded is None else graded.workspace_tokens
            kept = () if round_texts is None else round_texts.workspaces
            for place, tokens in enumerate(sizes):
                sources = graded.sources[place] if graded is not None and place < len(graded.sources) else ()
                text = kept[place] if place < len(kept) else UNKEPT
                made_of = ", ".join(str(source + 1) for source in sources) or "none"
                head = f"**Workspace{f' {place + 1}' * (len(sizes) > 1)}**, {tokens} tokens, of drafts {made_of}"
                self.add(InfoEvent, source="workspace", data=f"{head}\n\n{text or '(empty)'}")
        return kept

    def draft(
        self, call: Call, place: int | None, read: str, round_texts: RoundTexts | None, graded: RoundRow | None
    ) -> None:
        """The events of one draft: its call, the verifier's score and the result of the program's check."""
        from inspect_ai.event import InfoEvent, ScoreEvent
        from inspect_ai.scorer import Score

        texts = (
            round_texts.drafts[place]
            if round_texts is not None and place is not None and place < len(round_texts.drafts)
            else None
        )
        given = f"{self.question}\n\n**Workspace**\n\n{read}" if read else self.question
        self.call(call, given, texts.text if texts is not None and not call.part else "")
        if call.part or place is None or graded is None or place >= len(graded.drafts):
            return
        row = graded.drafts[place]
        if row.score is not None:
            score = Score(value=row.score, answer=row.answer)
            self.add(ScoreEvent, score=score, target=self.row.gold or "", intermediate=True, scorer="verifier")
        check = None if texts is None else texts.check
        if check is not None:
            value = f"{check.value:.2f} of 1" if check.value is not None else f"failed: {check.failure}"
            parts = [f"**Check** {value}", check.detail, check.feedback]
            self.add(InfoEvent, source="check", data="\n\n".join(part for part in parts if part))

    def call(self, call: Call, given: str, text: str) -> None:
        """The event of one call."""
        from inspect_ai.event import ModelEvent
        from inspect_ai.model import ChatMessageUser, GenerateConfig, ModelOutput

        begin = self.at
        self.at += max(call.seconds, 0.001)  # a replayed call takes no time but keeps its position
        output = ModelOutput.from_content(call.model, text or UNKEPT, stop_reason=_stop_reason(call))
        output = output.model_copy(update={"usage": _usage(call), "time": call.seconds})
        self.add(
            ModelEvent,
            at=begin,
            model=call.model,
            role=str(call.phase),
            input=[ChatMessageUser(content=given)],
            tools=[],
            tool_choice="none",
            config=GenerateConfig(max_tokens=call.cap, seed=call.seed),
            output=output,
            retries=call.tries - 1,
            error=call.failure,
            cache="read" if call.reused else None,
            completed=self.begin + timedelta(seconds=self.at),
            working_time=call.seconds,
            metadata={"part": call.part, "finish": call.finish, "reused": call.reused, "fate": call.fate or None},
        )

    def add(self, event: Any, *, at: float | None = None, **fields: Any) -> None:
        """Append an event, in the innermost span."""
        at = self.at if at is None else at
        span = self.open[-1] if self.open else None
        self.events.append(
            event(timestamp=self.begin + timedelta(seconds=at), working_start=at, span_id=span, **fields)
        )

    @contextmanager
    def span(self, name: str, kind: str | None = None) -> Iterator[None]:
        """Group the events added inside in a separate span."""
        from inspect_ai.event import SpanBeginEvent, SpanEndEvent

        above = self.open[-1] if self.open else None
        own = f"{self.row.id}/{self.row.repeat}/{len(self.events)}"
        self.open.append(own)
        self.add(SpanBeginEvent, id=own, name=name, type=kind, parent_id=above)
        yield
        self.add(SpanEndEvent, id=own)
        self.open.pop()

    def time(self, seconds: float) -> str:
        """A time within the sample."""
        return (self.begin + timedelta(seconds=seconds)).isoformat()


_PARTS = {1: " continued", JSON_PART: " asked for JSON"}


def _named(call: Call) -> str:
    notes = [note for note, holds in (("cut", call.truncated), ("cancelled", call.cancelled)) if holds]
    notes += ["failed"] if call.failure else []
    what = f"{call.phase} {call.index + 1}{_PARTS.get(call.part, '')}"
    return f"{what} ({', '.join(notes)})" if notes else what


def _usage(call: Call) -> Any:
    from inspect_ai.model import ModelUsage

    usage = call.usage
    if usage.input is None and usage.output is None:
        return None
    fresh = (usage.input or 0) - (usage.cached or 0)
    return ModelUsage(
        input_tokens=fresh,
        output_tokens=usage.output or 0,
        total_tokens=call.tokens,
        input_tokens_cache_read=usage.cached,
        reasoning_tokens=usage.reasoning,
    )


def _usage_by_model(calls: Sequence[Call]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for call in calls:
        usage = _usage(call)
        if usage is not None:
            found[call.model] = found[call.model] + usage if call.model in found else usage
    return found


def _stop_reason(call: Call) -> Any:
    known = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter", "continued": "max_tokens"}
    return known.get(call.finish, "unknown")
