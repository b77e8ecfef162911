"""What a workspace should hold, on code: matched pairs of the table of cells, and the page made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pdr_dspy.operators.schedule import Schedule
from studies import cells, tables, workspaces
from studies.tables import Cells, Measured, Unit
from studies.workspaces import Effect

PROBLEMS = 24


def table(score: Callable[[Schedule, int], float]) -> Cells:
    programs = cells.schedules()
    units = [
        Unit(f"p{number}", 0, (100,), tuple(Measured(score(one, number), 100, 300, (0,)) for one in programs.values()))
        for number in range(PROBLEMS)
    ]
    return Cells(programs, tuple(units))


def found(score: Callable[[Schedule, int], float]) -> dict[str, Effect]:
    return {effect.name: effect for effect in workspaces.effects(workspaces.scores(table(score)))}


def test_pairs_differ_in_nothing_else_and_are_programs_of_the_table() -> None:
    known = list(cells.schedules().values())
    for contrast in workspaces.contrasts():
        assert len(contrast.more) == len(contrast.less) == len(set(contrast.more))
        for pick in (*contrast.more, *contrast.less):
            assert pick.schedule in known
        for more, less in zip(contrast.more, contrast.less, strict=True):
            assert sum(a != b for a, b in zip(more, less, strict=True)) == 1


def test_effects_are_those_that_were_planted() -> None:
    def score(one: Schedule, number: int) -> float:
        checked = one.distiller == "checked"
        return 0.3 + 0.2 * checked + 0.1 * (checked and one.widths[0] == 8) + 0.05 * one.keep + number % 3 * 0.01

    effects = found(score)
    expected = {
        "picked by the check, minus at random": 0.2 + 0.1 * 3 / 5,
        "8 drafts, minus 4": 0.1 * 3 / 5,
        "the check with 8 drafts rather than 4": 0.1 / 2,
        "picked by the check, minus by the model": 0.2,
        "`keep`, minus without": 0.05,
    }
    for name, effect in effects.items():
        assert effect.test.difference == pytest.approx(expected.get(name, 0.0)), name
        assert effect.sure == (name in expected)
    assert effects["k = 4, minus k = 2"].pairs == 4


def test_repeats_of_a_question_are_one_observation() -> None:
    made = table(lambda one, number: 1.0)
    again = [
        unit._replace(repeat=1, cells=tuple(cell._replace(score=0.0) for cell in unit.cells)) for unit in made.units
    ]
    assert set(map(tuple, workspaces.scores(Cells(made.programs, (*made.units, *again))).values())) == {
        (0.5,) * PROBLEMS
    }


def test_the_page_has_every_contrast_and_program(tmp_path: Path) -> None:
    tables.write(tmp_path / "cells-tiny.jsonl", table(lambda one, number: float(one.distiller == "checked")))
    (path,) = workspaces.write(tmp_path, tmp_path)
    assert path.name == "workspaces-tiny.md"
    text = path.read_text(encoding="utf-8")
    assert "| picked by the check, minus at random | 5 | +1.000" in text
    assert sum(line.startswith("| PDR ") for line in text.splitlines()) == 19
    assert workspaces.write(tmp_path / "none", tmp_path) == []
