"""The baselines of a comparison: how many passes and rounds match a program's tokens, and what they cost beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli import compare
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.evaluate import Job
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import Target, find, operator_of
from pdr_dspy.operators import BestOfN, Operator
from pdr_dspy.operators.schedule import Schedule
from tests.cli.test_app import PROGRAM, add_one
from tests.support.mock_server import MockServer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "addition", raising=False)
    return tmp_path


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(add_one, kind="vllm") as running:
        yield running


def compared(server: MockServer, run_dir: Path, schedule: Schedule, **limits: Any) -> dict[str, compare.Line]:
    """The lines of a comparison of `addition` under a schedule, by name."""
    found = find("addition", task=None, trusted=False)
    assert found.task is not None
    job = Job(
        target=Target("tuned", operator_of(found.program).with_schedule(schedule), found.task),
        examples=found.task.data("test"),
        verifier=found.task.verifier(),
        model=Model(api_base=server.api_base),
        repeats=1,
        seed=0,
        budget=None,
        run_dir=run_dir,
    )
    display = Display(quiet=True)
    with Rollouts(run_dir / "rollouts") as store, job.serving(display):
        return {line.report.name: line for line in compare.measure(job, [], store, display, **limits)}


@pytest.mark.parametrize(("kind", "there"), [("int", False), ("str", True), ("Literal['1', '2']", False)])
@pytest.mark.slow
def test_text_has_the_draft_most_like_the_others_beside_the_vote_at_no_further_call(
    folder: Path, server: MockServer, kind: str, there: bool
) -> None:
    path = folder / "programs" / "addition.py"
    path.write_text(PROGRAM.replace("answer: int", f"answer: {kind}"))
    lines = compared(server, folder / "out", Schedule(widths=(4,), final="vote", draft_tokens=64), most_rounds=2)
    assert ("medoid of 4" in lines) == there
    if there:
        assert lines["medoid of 4"].report.paid == 0
        assert lines["medoid of 4"].matched == "B_total"


@pytest.mark.slow
def test_a_vote_is_matched_by_as_many_passes_without_any_further_call(folder: Path, server: MockServer) -> None:
    lines = compared(server, folder / "out", Schedule(widths=(4,), final="vote", draft_tokens=64), most_rounds=2)
    assert lines["majority of 4"].matched == "B_total"
    assert lines["majority of 4"].report.paid == 0
    drafts = [body for body in server.requests if "Workspace" not in body["messages"][-1]["content"]]
    assert sum(body.get("n", 1) for body in drafts) == 4 * 4
    single = lines["one pass, mean of 4 drafts"].report
    assert len(single.rows) == 4 * 4


@pytest.mark.slow
@pytest.mark.parametrize(("most", "passes", "matched"), [(64, 12, "B_total"), (3, 3, ""), (1, None, "")])
def test_passes_and_rounds_are_limited_and_no_longer_called_matched(
    folder: Path, server: MockServer, most: int, passes: int | None, matched: str
) -> None:
    wide = Schedule(widths=(6, 2, 1), distiller="random_k", k=2, draft_tokens=64, kappa=200)
    lines = compared(server, folder / "out", wide, most_passes=most, most_rounds=2)
    votes = {name: line for name, line in lines.items() if name.startswith("majority of ")}
    assert [line.matched for line in votes.values()] == ([] if passes is None else [matched])
    assert list(votes) == ([] if passes is None else [f"majority of {passes}"])
    rounds = [name for name in lines if name.startswith("SR x")]
    assert rounds == ["SR x3"], "no more than the program itself has"


@pytest.mark.slow
@pytest.mark.parametrize(("few", "said", "count"), [(2, ", 2 questions", 2), (4, "", 4), (9, "", 4), (None, "", 4)])
def test_what_shares_no_calls_may_have_fewer_questions_and_says_so(
    folder: Path, server: MockServer, few: int | None, said: str, count: int
) -> None:
    lines = compared(
        server, folder / "out", Schedule(widths=(4,), final="vote", draft_tokens=64), few=few, most_rounds=2
    )
    rows = {name: len(line.report.by_question) for name, line in lines.items()}
    assert rows == {"tuned": 4, "one pass, mean of 4 drafts": 4, "majority of 4": 4, f"SR x2{said}": count}
    *_, refined = compare.summary(list(lines.values()))["lines"]
    questions = list(lines["tuned"].report.by_question)[:count]
    assert list(lines[f"SR x2{said}"].report.by_question) == questions
    ours, theirs = (
        [row.score for row in line.report.rows if row.id in questions]
        for line in (lines["tuned"], [*lines.values()][-1])
    )
    assert refined["difference"] == (sum(ours) - sum(theirs)) / count
    assert f"SR x2{said}" in [row[0] for row in compare.table(list(lines.values()))[1]]


def test_baselines_of_a_program_with_waves_have_none() -> None:
    waves = {"stop_at": 1.0, "first_wave": 2, "next_wave": 1}
    program = BestOfN("question -> answer", n=4, check=lambda args, pred: 1.0, **waves)
    made = [compare._single(program), compare._voting(program, 4), compare._refining(program, 3)]
    made.append(compare._best(program, 3, "check"))
    assert [str(one.schedule) for one in made if isinstance(one, Operator)] == [
        "LongCoT", "vote of 4", "SR x3", "best of 3 check=check",
    ]  # fmt: skip
