"""Figures: well formed, to scale, escaped, and whole for the odd cases too."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.reporting import figures
from pdr_dspy.reporting.evaluation_tables import RoundFlow
from pdr_dspy.reporting.figures import Lane, Point

SVG = "{http://www.w3.org/2000/svg}"


def read(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "nan" not in text
    assert not re.search(r"\binf\b", text)
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def circles(root: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in root.iter(f"{SVG}circle")]


def test_points_are_where_their_score_and_cost_are() -> None:
    points = [Point("", 0.2, None, 100), Point("", 0.4, None, 1000), Point("", 0.8, None, 10_000)]
    (x1, y1), (x2, y2), (x3, y3) = circles(read(figures.score_against_cost(points, label="tokens")))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)  # equal factors are equal distances
    assert (y2 - y3) == pytest.approx(2 * (y1 - y2), abs=0.2)
    assert x1 < x3
    assert y3 < y1


def test_labels_limit_and_titles_are_written_and_escaped() -> None:
    evil = "</text><script>alert('x')</script>"
    points = [
        Point("A", 0.5, Interval(0.3, 0.7), 100, "tuned", Interval(90, 110), ring=True, title=evil),
        Point(evil, 0.4, None, 120, "student"),
        Point("", 0.1, None, 90, "dropped"),
    ]
    root = read(figures.score_against_cost(points, label=evil, limit=800, line=[(100, 0.4), (200, 0.5)]))
    assert {"A", evil, "limit 800"} <= set(texts(root))
    assert [one.text for one in root.iter(f"{SVG}title")] == [evil]
    assert not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize(("limit", "drawn"), [(90.0, True), (500.0, True), (10_000.0, False)])
def test_a_limit_that_is_far_from_all_programs_does_not_push_them_together(limit: float, drawn: bool) -> None:
    points = [Point("A", 0.5, None, 100, "tuned"), Point("B", 0.4, None, 200, "student")]
    root = read(figures.score_against_cost(points, label="tokens", limit=limit))
    (told,) = [text for text in texts(root) if text.startswith("limit")]
    assert ("to the right" not in told) is drawn
    assert bool([one for one in root.iter(f"{SVG}path") if "dasharray:5 4" in (one.get("style") or "")]) is drawn


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point("A", math.nan, None, 100), Point("B", 0.5, None, math.nan)],
        [Point("A", 0.0, Interval(0.0, 1.0), 1)],
        [Point("A", 1.0, Interval(0.0, 1.0), 5, cost_interval=Interval(0.0, math.inf))],
    ],
)
def test_odd_points_leave_a_figure(points: list[Point]) -> None:
    read(figures.score_against_cost(points, label="tokens"))


def test_labels_of_programs_that_stand_together_do_not_cover_each_other() -> None:
    root = read(figures.score_against_cost([Point(str(n), 0.5, None, 100) for n in range(4)], label="tokens"))
    found = [one for one in root.iter(f"{SVG}text") if (one.text or "") in "0123"]
    places = {(one.get("x"), one.get("y")) for one in found if one.get("text-anchor") == "start"}
    assert len(places) == 4


def centres(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Of the marks of plain programs."""
    circles = [one for one in root.iter(f"{SVG}circle") if one.get("r") == "4.6"]
    return [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles]


@pytest.mark.parametrize("costs", [(100, 100, 100), (100, 101, 1000), (794, 796, 148, 797), (1, 1)])
@pytest.mark.parametrize("score", [0.0, 0.25, 1.0])
def test_programs_with_equal_estimates_do_not_hide_each_other(costs: tuple[int, ...], score: float) -> None:
    points = [Point(chr(65 + n), score, Interval(0.0, 1.0), cost) for n, cost in enumerate(costs)]
    root = read(figures.score_against_cost(points, label="tokens"))
    spots = centres(root)
    assert len(spots) == len(costs)
    assert {b for _, b in spots} == {spots[0][1]}  # the score is never moved
    ordered = sorted(zip(costs, (a for a, _ in spots), strict=True))
    places = [a for _, a in ordered]
    assert all(right - left > 11.5 for left, right in itertools.pairwise(places))  # in their order, and apart
    assert places[0] > 40
    assert places[-1] < figures.WIDTH


def test_bands_at_one_cost_stand_beside_each_other() -> None:
    points = [Point("A", 0.2, Interval(0.1, 0.5), 100), Point("B", 0.4, Interval(0.2, 0.6), 100)]
    (a, _), (b, _) = centres(read(figures.score_against_cost(points, label="tokens")))
    assert abs(a - b) > 4.5
    points[1] = points[1]._replace(interval=Interval(0.55, 0.6), score=0.58)
    (a, _), (b, _) = centres(read(figures.score_against_cost(points, label="tokens")))
    assert a == b


def test_series_of_rounds_with_equal_shares_stand_beside_each_other() -> None:
    flow = [row(1, 8, 0.5)._replace(majority=0.5, any_right=0.5), row(2, 1, 0.5)._replace(majority=0.5, any_right=0.5)]
    root = read(figures.rounds(flow))
    spots = {(one.get("cx"), one.get("cy")) for one in root.iter(f"{SVG}circle") if one.get("r") == "4"}
    assert len(spots) == 6


def test_labels_of_neighbours_in_a_race_do_not_cover_each_other() -> None:
    lanes = [Lane(str(10 + n), 0, 5, "front") for n in range(50)]
    root = read(figures.race(lanes, 5))
    spots = [(float(one.get("x", "")), float(one.get("y", ""))) for one in root.iter(f"{SVG}text") if one.text and len(
        one.text) == 2 and one.text.isdigit()]  # fmt: skip
    assert len(spots) == 50
    for (a, b), (c, d) in itertools.combinations(spots, 2):
        assert abs(a - c) > 13 or abs(b - d) >= 7


def test_the_race_ends_each_lane_where_its_trial_ended() -> None:
    lanes = [
        Lane("0", 0, 30, "student"), Lane("", 1, 8, "dropped", "trial 1: worse"), Lane("", 1, 30, "trial"),
        Lane("3", 1, 30, "tuned"),
    ]  # fmt: skip
    root = read(figures.race(lanes, 30))
    ends = [float(x) for x in re.findall(r"M62\.0 [\d.]+H([\d.]+)", ElementTree.tostring(root, encoding="unicode"))]
    assert len(ends) == 4
    assert ends[0] == ends[2] == ends[3]
    assert (ends[1] - 62) / (ends[0] - 62) == pytest.approx(8 / 30, abs=0.01)
    assert {"cohort 0", "cohort 1", "8", "30", "0", "3"} <= set(texts(root))
    read(figures.race([Lane("", 0, 5, "trial")] * 60, 5))


def row(number: int, drafts: float, accuracy: float) -> RoundFlow:
    interval = Interval(accuracy - 0.1, accuracy + 0.1)
    return RoundFlow(number, 10, drafts, accuracy, interval, 0.9, 0.6, 0.0, 0.0, 0.1, 0.1, 100.0)


def test_rounds_are_named_with_their_drafts() -> None:
    root = read(figures.rounds([row(1, 8, 0.4), row(2, 1, 0.6)]))
    assert {"round 1", "round 2", "8 drafts", "1 draft", "drafts right", "any draft right"} <= set(texts(root))
    titles = [one.text for one in root.iter(f"{SVG}title")]
    assert "round 1, drafts right: 40.0 %" in titles
    read(figures.rounds([row(1, 1, 0.5)]))


def test_rounds_without_grades_leave_a_figure() -> None:
    ungraded = row(1, 2, 0.5)._replace(accuracy=math.nan, any_right=math.nan, majority=math.nan)
    read(figures.rounds([ungraded]))
    read(figures.rounds([]))
