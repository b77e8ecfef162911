"""The study of all cells: it runs question by question, goes on, and leaves a table with every call once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation import Row
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.space.candidate import Candidate
from programs import humaneval as task
from studies import cells, humaneval, tables
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow

QUIET = Display(quiet=True)
SOLUTIONS = {problem.prompt.strip(): problem.answer for problem in task.all_problems()}


def write(body: dict[str, Any], seed: int) -> str:
    """Every third seed solves the problem; selections name the first two."""
    text = body["messages"][-1]["content"]
    if "Candidates:" in text:
        return "Selected: [1, 2]"
    (program,) = (answer for prompt, answer in SOLUTIONS.items() if prompt in text)
    name = re.findall(r"def (\w+)\(", program)[-1]
    return f"```python\n{program if seed % 3 == 0 else f'def {name}(*inputs): return {seed}'}\n```"


def test_the_schedules_are_different_programs_that_share_their_drafts() -> None:
    schedules = cells.schedules()
    assert len(schedules) == len({Candidate(one, {}).key for one in schedules.values()}) >= 60
    assert next(iter(schedules.values())).widths == (1,)
    settings = {(one.draft_tokens, one.refine_cap, one.temperature, one.kappa) for one in schedules.values()}
    assert settings == {(256, 256, 0.8, 1024)}


def test_it_runs_question_by_question_and_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "tables"
    with MockServer(write, kind="vllm", context=8192) as server:
        model = Model(api_base=server.api_base, name="mock")
        cells.run(model, QUIET, folder=folder, limit=1, rows=out)
        first = len(server.requests)
        path = cells.run(model, QUIET, folder=folder, limit=2, rows=out)
        asked = len(server.requests)
        cells.run(model, QUIET, folder=folder, limit=2, rows=out)
        assert len(server.requests) == asked > first
    table = tables.read(path)
    assert table.programs == cells.schedules()
    assert table.questions == tuple(problem.id for problem in cells.problems()[:2])
    names = list(table.programs)
    for unit in table.units:
        by_name = dict(zip(names, unit.cells, strict=True))
        assert by_name["LongCoT"].calls == by_name["best of 8 check=check"].calls[:1]
        assert by_name["best of 4 check=check"].calls == by_name["PDR 4-1 checked k=2 κ=1024 check=check"].calls[:4]
        assert by_name["SR x2"].calls == by_name["SR x3"].calls[:2]
        for cell in unit.cells:
            assert cell.total == sum(unit.calls[place] for place in cell.calls) >= cell.sequential > 0
        made = sum(len(cell.calls) for cell in unit.cells)
        assert len(unit.calls) <= 33 < made
    sent = sum(body.get("n", 1) for body in server.requests)
    assert sent == sum(len(unit.calls) for unit in table.units)
    assert {cell.score for unit in table.units for cell in unit.cells} == {0.0, 1.0}

    assert tables.read(cells.gather(folder, "again", limit=9, rows=out)) == table  # what is missing is left out
    with pytest.raises(StoreError, match="leave `--lines-only` out"):
        cells.gather(tmp_path / "elsewhere", "again", rows=out)


def test_it_goes_on_from_a_table_alone(tmp_path: Path) -> None:
    with MockServer(write, kind="vllm", context=8192) as server:
        model = Model(api_base=server.api_base, name="mock")
        path = cells.run(model, QUIET, folder=tmp_path / "first", limit=1, rows=tmp_path)
        first, kept = len(server.requests), tables.read(path)
        cells.run(model, QUIET, folder=tmp_path / "elsewhere", limit=2, rows=tmp_path)
        table, prompt = tables.read(path), cells.problems()[0].prompt
        assert not any(prompt in body["messages"][-1]["content"] for body in server.requests[first:])
    assert table.units[:1] == kept.units
    assert len(table.units) == 2
    assert tables.read(cells.gather(tmp_path / "first", "mock", limit=1, rows=tmp_path)) == table


def test_a_folder_of_other_schedules_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MockServer(write, kind="vllm", context=8192) as server:
        model = Model(api_base=server.api_base, name="mock")
        with monkeypatch.context() as changed:
            changed.setattr(cells, "schedules", lambda: {"one pass": humaneval.BASE})
            table = tables.read(cells.run(model, QUIET, folder=tmp_path, limit=1, rows=tmp_path))
            assert [len(unit.cells) for unit in table.units] == [1]
        with pytest.raises(StoreError, match="other schedules"):
            cells.run(model, QUIET, folder=tmp_path, limit=1, rows=tmp_path)


def row(question: str, *keys: str, repeat: int = 0, cancelled: bool = False) -> Row:
    made = [Call(phase=Phase.DRAFT, key=key, usage=Usage(input=10, output=len(key))) for key in keys]
    if cancelled:
        made[-1] = made[-1].model_copy(update={"finish": "cancelled", "reused": True})
    return Row(id=question, repeat=repeat, seed=0, score=1.0, sequential=11, total=20, calls=tuple(made))


def test_a_table_has_what_all_schedules_ran_and_every_call_once(tmp_path: Path) -> None:
    programs = {"one": Schedule(widths=(1,)), "two": Schedule(widths=(2,), final="vote")}
    rows = {
        "one": [row("a", "x"), row("b", "x"), row("a", "z", repeat=1)],
        "two": [row("b", "x", "y"), row("a", "x", "longer"), row("c", "x", "y")],
    }
    table = tables.of_rows(programs, rows)
    assert [(unit.question, unit.repeat) for unit in table.units] == [("a", 0), ("b", 0)]
    first = table.units[0]
    assert first.calls == (11, 16)
    assert [cell.calls for cell in first.cells] == [(0,), (0, 1)]
    assert tables.read(tables.write(tmp_path / "one" / "table.jsonl", table)) == table
    left_out = tables.unit_of([row("a", "x", "y", cancelled=True)])
    assert left_out.cells[0].calls == (0,)  # a replay does not make it again


def test_anything_else_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"program": "one pass"}\n')
    with pytest.raises(ValueError, match="is not a table of version 1"):
        tables.read(tmp_path / "rows.jsonl")
