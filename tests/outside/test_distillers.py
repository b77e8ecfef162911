"""The factorial study of distillers: its design, its effects, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from math import prod
from pathlib import Path

import pytest

from studies import distillers
from studies.distillers import FACTORS, Effect, Point
from studies.study import Line

LETTERS = [factor.letter for factor in FACTORS]


def lines(score: Callable[[dict[str, int], int], float], questions: int = 40) -> dict[str, list[Line]]:
    """Rows of the design whose score is a function of the levels and of the question's number."""
    made: dict[str, list[Line]] = {}
    for point in distillers.design():
        levels = dict(zip(LETTERS, point.levels, strict=True))
        drafts = ((1.0,) * (8 if levels["E"] > 0 else 4), (1.0,))
        made[point.name] = [
            Line(point.name, f"q{number}", 0, score(levels, number), 300, 900, 0.1, "done", drafts, (), None)
            for number in range(questions)
        ]
    return made


def found(score: Callable[[dict[str, int], int], float]) -> dict[str, Effect]:
    return {effect.letters: effect for effect in distillers.effects(lines(score))}


def test_no_effect_of_one_or_two_factors_is_mixed_with_another() -> None:
    points = distillers.design()
    assert len({point.name for point in points}) == 16
    words = [*combinations(range(5), 1), *combinations(range(5), 2)]
    for first, second in combinations(words, 2):
        assert sum(prod(p.levels[i] for i in first) * prod(p.levels[i] for i in second) for p in points) == 0


def test_effects_are_those_that_were_planted() -> None:
    planted = found(
        lambda levels, number: 0.5 + 0.1 * levels["B"] + 0.05 * levels["B"] * levels["E"] + number % 2 * 0.01
    )
    assert planted["B"].difference == pytest.approx(0.2)
    assert planted["BE"].difference == pytest.approx(0.1)
    assert {letters for letters, effect in planted.items() if effect.sure} == {"B", "BE"}
    assert all(abs(effect.difference) < 1e-9 for letters, effect in planted.items() if letters not in {"B", "BE"})


def test_a_single_contrast_that_is_hardly_sure_is_not_called_sure_among_fifteen() -> None:
    # the effect of B is positive on 27 of 40 questions: p is about 0.03 alone
    alone = found(lambda levels, number: 0.5 + 0.1 * levels["B"] * (1 if number < 27 else -1))["B"]
    assert 0.05 / 15 < alone.p < 0.05
    assert not alone.sure


def test_there_are_no_effects_before_all_programs_ran() -> None:
    some = lines(lambda levels, number: 1.0)
    del some[Point((1, 1, 1, 1, 1)).name]
    assert distillers.effects(some) == []


def test_the_page_has_every_effect_and_program(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    made = lines(lambda levels, number: 0.5 + 0.25 * levels["C"])
    path = rows / "distillers-tiny.jsonl"
    path.write_text("".join(json.dumps(line._asdict()) + "\n" for found in made.values() for line in found))
    page = distillers.write(rows, tmp_path)
    assert page is not None
    assert page == tmp_path / "distillers-tiny.md"
    text = page.read_text(encoding="utf-8")
    assert "| C | k | 2 | 4 | +0.500" in text
    assert sum(line.startswith("| `") for line in text.splitlines()) == 16
    assert distillers.write(tmp_path / "none", tmp_path) is None


def test_every_program_of_the_plan_can_be_made() -> None:
    programs = distillers.programs()
    assert len(programs) == 16 + 3 + 2
    assert {program.schedule.distiller for program in programs.values() if program.schedule.rounds > 1} == {
        "random_k", "topk", "summary",
    }  # fmt: skip
