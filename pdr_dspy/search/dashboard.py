"""Additional content of a mirrored search for `optuna-dashboard`: notes, files, and the front as a plot.

All of it uses the public API of Optuna and of optuna-dashboard. Notes need the extra `dashboard`, the plot also plotly;
without them the study has neither.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdr_dspy.search.racing.pareto import front
from pdr_dspy.search.records import TrialRecord

if TYPE_CHECKING:
    import optuna

ARTIFACTS = "artifacts"
"""The folder beside the journal, for `optuna-dashboard --artifact-dir`."""
PLOT = "pdr-front"


def describe(
    study: optuna.Study,
    records: Sequence[TrialRecord],
    added: Mapping[int, optuna.Trial],
    *,
    folder: Path | None,
    files: Sequence[Path] = (),
) -> None:
    """Add notes, files and the plot to a study.

    Args:
        study: the study with the trials.
        records: of all trials.
        added: the newly added trials, by the number of their record.
        folder: the folder for files; None keeps none.
        files: of the whole search, such as `best.json`.
    """
    by_number = {record.number: record for record in records}
    if folder is not None:
        _keep_files(study, folder, files)
    with suppress(ImportError):
        import optuna_dashboard

        for number, trial in added.items():
            optuna_dashboard.save_note(trial, note_of(by_number[number]))
        body = note_of_search(records)
        if optuna_dashboard.get_note(study) != body:
            optuna_dashboard.save_note(study, body)
        if (figure := front_figure(records)) is not None:
            optuna_dashboard.save_plotly_graph_object(study, figure, graph_object_id=PLOT)


def note_of(record: TrialRecord) -> str:
    """The note of a trial, in Markdown: program, score with its interval, cost, and why it was dropped."""
    low, high = record.interval
    lines = [
        f"### {record.candidate}",
        "",
        "| | |",
        "|---|---|",
        f"| score | {record.score:.3f}, 95 % {low:.3f} to {high:.3f}, {record.runs} runs |",
        f"| estimate used for all choices | {record.pooled:.3f} ± {record.pooled_sd:.3f} |",
        f"| B_seq, mean | {record.sequential:,.0f} tokens |",
        f"| B_total, mean | {record.total:,.0f} tokens |",
        f"| paid, replayed from the store | {record.paid:,} and {record.saved:,} tokens |",
        f"| from | {record.origin} |",
    ]
    if record.failed:
        lines.append(f"| runs without an answer | {record.failed} |")
    if record.dropped:
        lines.append(f"| dropped | {record.dropped} |")
    for role, text in record.instructions.items():
        lines += ["", f"**Instructions of {role}**", "", *(f"> {line}" for line in text.splitlines())]
    if record.demos:
        counts = ", ".join(f"{len(demos)} of {role}" for role, demos in record.demos.items())
        lines += ["", f"Demonstrations: {counts}"]
    return "\n".join(lines) + "\n"


def note_of_search(records: Sequence[TrialRecord]) -> str:
    """The note of the study: the programs on the front of score and costs."""
    lines = ["## The front", "", "| trial | program | estimate | B_seq | B_total |", "|---|---|---|---|---|"]
    lines += [
        f"| {record.number} | {record.candidate} | {record.pooled:.3f} ± {record.pooled_sd:.3f} "
        f"| {record.sequential:,.0f} | {record.total:,.0f} |"
        for record in sorted(_front(records), key=lambda one: one.total)
    ]
    paid = sum(record.paid for record in records)
    return "\n".join([*lines, "", f"{len(records)} programs, {paid:,} tokens paid.", ""])


def front_figure(records: Sequence[TrialRecord]) -> Any:
    """Score against B_total and against B_seq, with intervals; None without plotly or without a measured trial."""
    measured = [record for record in records if record.state == "measured" and not isnan(record.pooled)]
    if not measured:
        return None
    try:
        from plotly.subplots import make_subplots
    except ImportError:
        return None
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=("B_total", "B_seq"))
    best = {record.number for record in _front(records)}
    for column, cost in enumerate(("total", "sequential"), start=1):
        for inside, name, colour in ((False, "measured", "#9aa0a6"), (True, "front", "#1a73e8")):
            shown = sorted(
                (record for record in measured if (record.number in best) is inside),
                key=lambda record: getattr(record, cost),
            )
            figure.add_scatter(
                x=[getattr(record, cost) for record in shown],
                y=[record.pooled for record in shown],
                error_y={"type": "data", "array": [1.96 * record.pooled_sd for record in shown], "thickness": 1},
                mode="lines+markers" if inside else "markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"color": colour, "size": 9 if inside else 6},
                text=[f"trial {record.number}: {record.candidate}" for record in shown],
                hovertemplate="%{text}<br>%{y:.3f} at %{x:,.0f} tokens<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="mean tokens of a run", row=1, col=column)
    figure.update_yaxes(title_text="score, 95 %", row=1, col=1)
    figure.update_layout(title="Score against cost", template="simple_white")
    return figure


def _front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The front by the estimate used for all choices."""
    fit = [record for record in records if record.state == "measured" and record.feasible and not isnan(record.pooled)]
    best = {one.number for one in front(record.model_copy(update={"score": record.pooled}) for record in fit)}
    return [record for record in fit if record.number in best]


def keep_record(trial: optuna.Trial, record: TrialRecord, folder: Path) -> None:
    """Store the record of a trial as a file; before the trial is finished, because Optuna accepts none later."""
    from optuna.artifacts import upload_artifact

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trial.json"
        path.write_text(json.dumps(json.loads(record.model_dump_json()), indent=1), encoding="utf-8")
        upload_artifact(artifact_store=_store(folder), file_path=str(path), study_or_trial=trial)


def _keep_files(study: optuna.Study, folder: Path, files: Sequence[Path]) -> None:
    """Add the files of the search that the study does not have in their current state."""
    from optuna.artifacts import get_all_artifact_meta, upload_artifact

    store = _store(folder)
    there = set()
    for meta in get_all_artifact_meta(study):
        with suppress(OSError), store.open_reader(meta.artifact_id) as reader:
            there.add((meta.filename, reader.read()))
    for file in files:
        if file.is_file() and (file.name, file.read_bytes()) not in there:
            upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study)


def _store(folder: Path) -> Any:
    from optuna.artifacts import FileSystemArtifactStore

    (folder / ARTIFACTS).mkdir(exist_ok=True)
    return FileSystemArtifactStore(str(folder / ARTIFACTS))
