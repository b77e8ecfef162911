"""A picker that is no language model: logistic regression over cheap features of drafts, without any check.

    python -m studies.picker                      # the table, of studies/features; needs scikit-learn
    python -m studies.picker --run-dir FOLDER     # the features anew, of a study's run folder

No program is run and no token generated: what is known of a draft is how it agrees with its siblings, its length, how
its answer was found and whether it is Python. See plans/picker.md.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pdr_dspy.cli.ending import guarded
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.statistics import paired, resamples, score_interval
from pdr_dspy.evaluation.texts import TEXTS, RowTexts, read_texts
from pdr_dspy.reporting.evaluation_tables import read_report
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.text.code import programs
from pdr_dspy.verifiers import RIGHT
from studies.expectation import best_of, by_check, by_vote
from studies.study import ROOT, ROWS, shown
from studies.verification import OUT, SOURCE, load

FEATURES = ROOT / "features"
"""One file of figures for each study and model; no text."""
AGREEMENT = ("read", "votes", "similar", "tokens", "truncated", "labelled")
"""Of any task: an answer was read; share of siblings with the same answer; mean likeness to their texts; output tokens
over the cap; cut off by it; the answer stood where it was asked for."""
SYNTAX = ("parses", "same_tree", "returns", "prints", "lines")
"""Of Python: it parses; share of siblings that are the same program but for names and docstrings; has a return; prints;
its lines over 50."""


def features(row: Row, texts: RowTexts) -> list[dict[str, float]]:
    """Of each draft of the first round. All lie in [0, 1] or close by."""
    drafts, written = row.rounds[0].drafts, [draft.text for draft in texts.rounds[0].drafts]
    calls = {call.index: call for call in row.calls if call.phase == "draft"}
    prompt = "\n".join(texts.inputs.values())
    codes = [next(iter(programs(text, prompt)), "") for text in written]
    trees = [_tree(code) for code in codes]
    made = []
    for place, draft in enumerate(drafts):
        others = [number for number in range(len(drafts)) if number != place]
        call, tree = calls[place], trees[place]
        likeness = [difflib.SequenceMatcher(None, written[place], written[o], autojunk=False).ratio() for o in others]
        kinds = set() if tree is None else {type(node).__name__ for node in ast.walk(tree)}
        printed = tree is not None and any(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            for node in ast.walk(tree)
        )
        shape = None if tree is None else _shape(tree)
        made.append(
            {
                "read": float(draft.answer is not None),
                "votes": fmean(draft.answer is not None and drafts[o].answer == draft.answer for o in others),
                "similar": fmean(likeness),
                "tokens": (call.usage.output or 0) / (call.cap or 1),
                "truncated": float(draft.truncated),
                "labelled": float(any(how in ("label", "json") for how in draft.how.values())),
                "parses": float(tree is not None),
                "same_tree": fmean(
                    shape is not None and (other := trees[o]) is not None and _shape(other) == shape for o in others
                ),
                "returns": float("Return" in kinds),
                "prints": float(printed),
                "lines": len(codes[place].splitlines()) / 50,
            }
        )
    return made


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code) if code.strip() else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Anonymous(ast.NodeTransformer):
    """Names in the order in which they come up, and no docstrings."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.names.setdefault(node.id, f"v{len(self.names)}"), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self.names.setdefault(node.arg, f"v{len(self.names)}"))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        return self.generic_visit(ast.FunctionDef(node.name, node.args, body or [ast.Pass()], [], None, None))


def _shape(tree: ast.Module) -> str:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    try:
        return "\n".join(ast.dump(_Anonymous().visit(ast.parse(ast.unparse(node)))) for node in functions[-1:])
    except (RecursionError, ValueError):
        return ""


def write_features(folder: Path, name: str) -> Path:
    """The figures of a study's drafts, from its run folder, as one file."""
    report = read_report(folder / SOURCE.replace(" ", "_"), SOURCE)
    texts = read_texts(folder / SOURCE.replace(" ", "_") / TEXTS, report.rows)
    lines = []
    for row in sorted(report.rows, key=lambda row: row.id):
        if (row.id, row.repeat) in texts and row.rounds:
            found = features(row, texts[row.id, row.repeat])
            values = [[round(one[key], 4) for key in (*AGREEMENT, *SYNTAX)] for one in found]
            lines.append(json.dumps({"question": row.id, "features": values}) + "\n")
    path = FEATURES / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "".join(lines))
    return path


def read_features(path: Path) -> dict[str, NDArray[np.float64]]:
    """Of each question an array of drafts by features."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["question"]: np.array(row["features"], dtype=float) for row in rows}


def relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features of a question's drafts, and how far each is from the mean of its siblings: picks are made there."""
    return np.hstack([values, values - values.mean(axis=0)])


FOLDS, SEEDS = 8, 10


def cross_validated(
    make: Callable[[], Any], inputs: Mapping[str, NDArray[np.float64]], right: Mapping[str, NDArray[np.float64]]
) -> list[dict[str, NDArray[np.float64]]]:
    """Of each seed, each draft's chance of being right by a model that has not seen its question.

    Args:
        make: a new classifier, as scikit-learn has them.
        inputs: the features of each question's drafts.
        right: which of them are.
    """
    names = sorted(inputs)
    found = []
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(names))
        chances: dict[str, NDArray[np.float64]] = {}
        for fold in range(FOLDS):
            held = {names[place] for place in order[fold::FOLDS]}
            others = [name for name in names if name not in held]
            fitted = make().fit(
                np.vstack([inputs[name] for name in others]), np.concatenate([right[name] for name in others])
            )
            for name in held:
                chances[name] = fitted.predict_proba(inputs[name])[:, 1]
        found.append(chances)
    return found


def picked(chances: NDArray[np.float64], right: NDArray[np.float64], read: NDArray[np.bool_]) -> float:
    """Score of the likeliest draft that can be read; of equally likely ones the mean."""
    if not read.any():
        return 0.0
    values = np.where(read, chances, -1.0)
    return float(right[values >= values.max() - 1e-12].mean())


def calibration(runs: Sequence[Mapping[str, NDArray[np.float64]]], right: Mapping[str, NDArray[np.float64]]) -> str:
    """How far the chances are from what happens, on questions that were not learnt from."""
    chances = np.concatenate([run[name] for run in runs for name in sorted(right)])
    truth = np.concatenate([right[name] for _ in runs for name in sorted(right)])
    brier, base = float(((chances - truth) ** 2).mean()), float(truth.mean() * (1 - truth.mean()))
    bins = np.minimum((chances * 10).astype(int), 9)
    error = sum(
        float((bins == b).mean() * abs(chances[bins == b].mean() - truth[bins == b].mean())) for b in set(bins.tolist())
    )
    return f"Brier score {brier:.3f} (always the mean: {base:.3f}), calibration error {error:.3f} in ten bins"


def models() -> dict[str, tuple[Callable[[], Any], Sequence[int]]]:
    """By name, what makes a model, and the features that it reads."""
    from sklearn.ensemble import GradientBoostingClassifier  # pyright: ignore[reportMissingImports]
    from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]
    from sklearn.preprocessing import StandardScaler  # pyright: ignore[reportMissingImports]

    whole = len(AGREEMENT) + len(SYNTAX)
    general = list(range(len(AGREEMENT)))
    everything = list(range(whole))

    def logistic() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))

    def boosted() -> Any:
        return GradientBoostingClassifier(
            n_estimators=60, max_depth=2, learning_rate=0.1, subsample=0.8, random_state=0
        )

    return {
        "logistic, features of any task": (logistic, general),
        "logistic, and of Python": (logistic, everything),
        "gradient boosting, all features": (boosted, everything),
    }


def table(path: Path) -> str:
    """What each picker scores on questions that it has not seen, as Markdown."""
    study = load(ROWS / path.name)
    if study is None:
        return ""
    figures = read_features(path)
    names = sorted(set(figures) & set(study.questions))
    drafts = {name: study.questions[name] for name in names}
    right = {name: np.array([float(s >= RIGHT) for s in drafts[name].scores]) for name in names}
    read = {name: figures[name][:, 0] > 0 for name in names}
    one = [float(right[name].mean()) for name in names]
    most = [float(right[name].max()) for name in names]
    rows: dict[str, list[float]] = {
        "one pass": one,
        "any draft that can be read": [best_of(drafts[n].counts, len(right[n]), 0.5, 0.5) for n in names],
        "vote": [by_vote(drafts[name]) for name in names],
        "the most like its siblings": [picked(figures[name][:, 2], right[name], read[name]) for name in names],
    }
    notes = ""
    for name, (make, columns) in models().items():
        inputs = {question: relative(figures[question][:, columns]) for question in names}
        runs = cross_validated(make, inputs, right)
        rows[name] = [fmean(picked(run[q], right[q], read[q]) for run in runs) for q in names]
        notes += f"- {name}: {calibration(runs, right)}.\n"
    rows["the study's check"] = [by_check(drafts[name]) for name in names]
    rows["perfect pick: pass@8"] = most
    text = "| pick | score | minus one pass | minus vote | share of the gap to pass@8 |\n|---|--:|--:|--:|--:|\n"
    for name, scores in rows.items():
        low, high = score_interval(scores)
        against = (shown(paired(scores, other)) for other in (one, rows["vote"]))
        cells = [f"{fmean(scores):.3f} [{low:.2f}, {high:.2f}]", *against]
        text += f"| {name} | {' | '.join(cells)} | {_share(scores, one, most)} |\n"
    head = (
        f"{len(names)} questions, {sum(map(len, right.values()))} drafts; {FOLDS}-fold over questions, {SEEDS} seeds."
    )
    return f"{head}\n\n{text}\nOn questions that were not learnt from:\n\n{notes}"


def _share(scores: Sequence[float], one: Sequence[float], most: Sequence[float]) -> str:
    """How much of the way from one pass to the best draft, with a bootstrap over questions."""
    values = np.array([scores, one, most])

    def share(means: NDArray[np.float64]) -> float:
        return float((means[0] - means[1]) / (means[2] - means[1])) if means[2] > means[1] else 0.0

    several = [share(values[:, pick].mean(axis=1)) for pick in resamples(values.shape[1], 2000, seed=0)]
    low, high = np.quantile(several, [0.025, 0.975])
    return f"{share(values.mean(axis=1)):.2f} [{low:.2f}, {high:.2f}]"


HEAD = """# A picker that is no language model

Logistic regression and gradient boosting over cheap features of drafts, without the study's check, picking one of
eight: how much of the way from one pass to the best draft does that recover? Plan: `studies/plans/picker.md`. Repeat:
`python -m studies.picker`; no model is asked. Intervals are 95 % over questions.
"""


@guarded
def main(
    run_dir: Annotated[Path | None, typer.Option(help="Make the features anew, of this run folder.")] = None,
) -> None:
    """Write docs/results/picker.md."""
    if run_dir is not None:
        print(write_features(run_dir, run_dir.name))
        return
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError('the picker needs scikit-learn: `pip install "scikit-learn>=1.6"`, or the group `studies`')
    text = HEAD
    for path in sorted(FEATURES.glob("*.jsonl")):
        text += f"\n## {path.stem}\n\n{table(path)}"
    (OUT / "picker.md").write_text(text, encoding="utf-8")
    print(OUT / "picker.md")


if __name__ == "__main__":
    typer.run(main)
