"""One estimate for every program: shrunk, calibrated, without the luck of the best."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.surrogate import distances, pool
from pdr_dspy.search.space.candidate import Candidate

Scores = list[dict[tuple[int, int], float]]
BASE: dict[str, Any] = {"kappa": 1024, "distiller": "random_k", "k": 2, "draft_tokens": 1024}


def told(count: int) -> list[Candidate]:
    """Programs that differ in their instructions alone: each is as far from each."""
    return [Candidate(Schedule(widths=(1,), **BASE), {"draft": f"Way {number}."}) for number in range(count)]


def wide(*widths: int) -> list[Candidate]:
    """Programs that differ in one width."""
    return [Candidate(Schedule(widths=(width, 1), **BASE), {}) for width in widths]


def full(rows: list[list[float]]) -> Scores:
    return [{(question, 0): value for question, value in enumerate(row)} for row in rows]


def right(counts: list[int], of: int = 20) -> Scores:
    """So many right answers each, not always the same."""
    return full(
        [[float((question * 7 + number) % of < count) for question in range(of)] for number, count in enumerate(counts)]
    )


def test_an_estimate_lies_between_the_programs_mean_and_all_of_them() -> None:
    counts = [4, 7, 9, 10, 12, 17]
    surface = pool(right(counts), told(6))
    own = np.array(counts) / 20
    assert surface.adjusted == pytest.approx(own)
    common = fmean(own)
    for mine, estimate in zip(own, surface.mean, strict=True):
        assert min(mine, common) < estimate < max(mine, common)
    assert list(np.argsort(surface.mean)) == list(np.argsort(own))
    assert (surface.sd < surface.noise).all()


def test_the_order_of_programs_and_the_names_of_questions_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores, candidates = right([4, 9, 12, 17, 10]), [*wide(2, 4, 8), *told(2)]
    scores[1] = dict(list(scores[1].items())[:8])
    surface = pool(scores, candidates)
    for _ in range(3):
        order = rng.permutation(5)
        names = rng.permutation(20)
        renamed = [{(int(names[q]), r): value for (q, r), value in scores[place].items()} for place in order]
        again = pool(renamed, [candidates[place] for place in order])
        assert again.mean == pytest.approx(surface.mean[order], abs=1e-7)
        assert again.sd == pytest.approx(surface.sd[order], abs=1e-7)
        assert (again.spread, again.share, again.length) == (surface.spread, surface.share, surface.length)


def test_a_short_race_moves_an_estimate_less() -> None:
    scores = right([10, 10, 10, 10, 10, 10], of=24)
    best = {(question, 0): 1.0 for question in range(24)}
    long = pool([*scores, best], told(7))
    short = pool([*scores, dict(list(best.items())[:6])], told(7))
    assert short.mean[-1] < long.mean[-1]
    assert short.noise[-1] > long.noise[-1]
    rest = fmean(short.mean[:-1])
    assert short.mean[-1] - rest < 0.5 * (short.adjusted[-1] - rest)


def test_a_short_race_on_easy_questions_is_no_merit() -> None:
    row = [1.0] * 10 + [0.0] * 10
    scores = full([row] * 5)
    scores.append(dict(list(scores[0].items())[:10]))  # the easy half alone, as right as all the others there
    surface = pool(scores, told(6))
    assert surface.adjusted[-1] == pytest.approx(0.5, abs=0.02)
    assert surface.mean[-1] == pytest.approx(0.5, abs=0.02)


def test_neighbours_lean_on_each_other_and_the_same_program_agrees_with_itself() -> None:
    twice = pool(right([8, 12]), wide(2, 2))
    assert abs(float(twice.mean[0] - twice.mean[1])) < 0.7 * abs(float(twice.adjusted[0] - twice.adjusted[1]))
    low, high = wide(2, 16)
    surface = pool(right([5, 7, 13, 15]), [low, low, high, high])
    assert surface.mean[0] == pytest.approx(surface.mean[1], abs=0.02)
    assert surface.mean[2] == pytest.approx(surface.mean[3], abs=0.02)
    assert surface.mean[0] < surface.mean[2] - 0.1


@pytest.mark.parametrize(
    "scores",
    [
        [{(0, 0): 1.0}],
        [{(0, 0): 0.0}],
        full([[1.0] * 8] * 5),
        full([[0.0] * 8] * 5),
        full([[0.3] * 8] * 5),
        [{(0, 0): 1.0}, {(0, 0): 0.0}],
        [{(0, 0): 1.0}] * 4,
        [{(0, 0): 1.0}, {(1, 0): 0.0}],  # no question in common
        [{(0, repeat): float(repeat % 2) for repeat in range(4)}] * 2,
        [*full([[1.0, 0.0] * 4] * 3), {(0, 0): 1.0}],
        full([[1e-9] * 3, [1.0] * 3]),
    ],
)
def test_scores_that_say_little_give_wide_estimates_without_a_warning(scores: Scores) -> None:
    surface = pool(scores, told(len(scores)))
    for values in (surface.mean, surface.sd, surface.adjusted, surface.noise):
        assert values.shape == (len(scores),)
        assert np.isfinite(values).all()
    assert (surface.sd > 0.005).all()


def test_more_questions_and_more_repeats_make_estimates_surer() -> None:
    few, many = pool(right([5, 10], of=20), told(2)), pool(right([20, 40], of=80), told(2))
    assert (many.noise < few.noise).all()
    once = [{(q, 0): float(q % 2) for q in range(10)}] * 2
    again = [{(q, r): float(q % 2) for q in range(10) for r in range(4)}] * 2
    # The same again on the same questions is no evidence on others: four times the runs do not halve the error.
    assert pool(again, told(2)).noise[0] > 0.9 * pool(once, told(2)).noise[0]


def test_fresh_runs_of_the_same_questions_make_a_program_surer_where_runs_differ() -> None:
    rng = np.random.default_rng(5)
    chances = rng.uniform(0.2, 0.8, 30)
    scores = full((rng.random((8, 30)) < chances).astype(float).tolist())
    for own in scores[:2]:
        own.update({(q, r): float(rng.random() < chances[q]) for q in range(30) for r in range(1, 5)})
    noise = pool(scores, told(8)).noise
    # Nothing is a program's own here: the noise is from run to run, and that of five runs is 1 / sqrt(5) of it, as far
    # as the two variances are told apart on 30 questions.
    assert noise[0] == noise[1] == pytest.approx(noise[2] / 5**0.5, rel=0.25)
    assert noise[2:] == pytest.approx(noise[2])


def test_what_was_luck_in_the_race_is_taken_back_by_fresh_seeds() -> None:
    half = {(q, 0): float(q % 2) for q in range(20)}
    lucky = {(q, 0): 1.0 for q in range(20)}
    fresh = {(q, r): float((q + r) % 2) for q in range(20) for r in range(1, 5)}
    scores: Scores = [{**lucky, **fresh}, *({**half} for _ in range(6))]
    surface = pool(scores, told(7))
    assert pool([lucky, *scores[1:]], told(7)).adjusted[0] == pytest.approx(1.0)
    assert surface.adjusted[0] == pytest.approx(0.6)  # one run in five was right throughout


def simulated(rng: np.random.Generator, count: int, questions: int, spread: float) -> tuple[Any, Scores]:
    """True scores on the questions, and measurements, half of them of a short race."""
    ease, quality = rng.normal(0.5, 0.2, questions), rng.normal(0.0, spread, count)
    chances = np.clip(ease[None, :] + quality[:, None], 0.02, 0.98)
    hits = (rng.random(chances.shape) < chances).astype(float)
    ran = [questions if number % 2 else questions // 3 for number in range(count)]
    scores = [{(q, 0): float(hits[number, q]) for q in range(end)} for number, end in enumerate(ran)]
    return chances.mean(1), scores


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_intervals_hold_and_the_best_estimate_is_not_high_by_luck(spread: float) -> None:
    rng = np.random.default_rng(17)
    held: list[float] = []
    optimism: dict[str, list[float]] = {"estimate": [], "own mean": []}
    worth: dict[str, list[float]] = {"estimate": [], "own mean": []}
    for _ in range(40):
        truth, scores = simulated(rng, 12, 30, spread)
        surface = pool(scores, told(12))
        held.append(float((np.abs(surface.mean - truth) <= 2 * surface.sd).mean()))
        raw = np.array([fmean(own.values()) for own in scores])
        for name, values in (("estimate", surface.mean), ("own mean", raw)):
            best = int(values.argmax())
            optimism[name].append(float(values[best] - truth[best]))
            worth[name].append(float(truth[best]))
    error = {name: stdev(values) / len(values) ** 0.5 for name, values in optimism.items()}
    assert fmean(held) > 0.92 - 3 * stdev(held) / len(held) ** 0.5
    assert fmean(optimism["estimate"]) < fmean(optimism["own mean"]) - 3 * error["own mean"]
    assert abs(fmean(optimism["estimate"])) < 0.02 + 3 * error["estimate"]
    assert fmean(worth["estimate"]) > fmean(worth["own mean"]) - 3 * stdev(worth["own mean"]) / 40**0.5


def test_distances_count_steps() -> None:
    base = Candidate(Schedule(widths=(4, 1), **BASE), {})

    def apart(**changes: Any) -> float:
        other = Candidate(base.schedule.replace(**changes), {})
        return float(distances([base], [other])[0, 0])

    assert apart() == pytest.approx(0.0, abs=1e-6)
    assert apart(widths=(8, 1)) < apart(widths=(16, 1)) < apart(widths=(64, 1))
    assert apart(draft_tokens=2048) == pytest.approx(apart(draft_tokens=512), rel=0.01)
    assert apart(distiller="summary") >= 1.0
    assert apart(widths=(1,)) > 1.0
    told_otherwise = Candidate(base.schedule, {"draft": "Otherwise."})
    assert distances([base], [told_otherwise])[0, 0] == pytest.approx(1.0)
    square = distances([base, *wide(2, 8), told_otherwise])
    assert square == pytest.approx(square.T)
    assert np.diag(square) == pytest.approx(np.zeros(4), abs=1e-6)


CHAIN = Schedule(widths=(1, 1, 1), distiller="last", kappa=1024)
PAIRS: dict[str, tuple[Schedule, Any]] = {
    "widths": (Schedule(widths=(4, 1), **BASE), (8, 1)),
    "kappa": (Schedule(widths=(4, 1), **BASE), 2048),
    "distiller": (Schedule(widths=(4, 1), **BASE), "topk"),
    "k": (Schedule(widths=(4, 1), **BASE), 4),
    "tally": (Schedule(widths=(4, 1), **BASE), True),
    "json_fallback": (Schedule(widths=(1,)), False),
    "critique": (CHAIN, True),
    "draft_tokens": (Schedule(widths=(1,)), 2048),
    "refine_tokens": (Schedule(widths=(4, 1), **BASE), 512),
    "distill_tokens": (Schedule(widths=(4, 1), distiller="summary"), 256),
    "thinking_tokens": (Schedule(widths=(1,)), 1024),
    "temperature": (Schedule(widths=(1,)), 0.5),
    "distill_temperature": (Schedule(widths=(4, 1), distiller="topk", k=2), 0.0),
    "top_p": (Schedule(widths=(1,)), 0.8),
    "quorum": (Schedule(widths=(4, 1), **BASE), 0.5),
    "agree": (Schedule(widths=(4, 1), **BASE), 0.9),
    "final": (Schedule(widths=(4,), final="vote"), "best"),
    "check": (Schedule(widths=(4, 1), **BASE), "unit tests"),
    "keep": (Schedule(widths=(4, 1), check="unit tests", **BASE), True),
    "stop_at": (Schedule(widths=(4, 1), check="unit tests", **BASE), 0.9),
    "first_wave": (Schedule(widths=(4, 1), check="unit tests", stop_at=1.0, **BASE), 2),
    "next_wave": (Schedule(widths=(4, 1), check="unit tests", stop_at=1.0, first_wave=2, **BASE), 1),
    "draft_model": (Schedule(widths=(1,)), "large"),
    "refine_model": (Schedule(widths=(4, 1), **BASE), "large"),
    "distill_model": (Schedule(widths=(4, 1), distiller="summary"), "large"),
}
"""For each field of a schedule one in which it plays a part, and another value."""


def test_every_field_of_a_schedule_counts_for_the_distance() -> None:
    assert PAIRS.keys() == Schedule.model_fields.keys()
    for field, (schedule, value) in PAIRS.items():
        one, other = Candidate(schedule, {}), Candidate(schedule.replace(**{field: value}), {})
        assert 0.25 < distances([one], [other])[0, 0] < 4.0, field
        assert distances([one], [one])[0, 0] == 0.0


def test_every_round_counts_for_the_distance_the_last_one_too() -> None:
    deep = Schedule(widths=(8,) * 7 + (1,), distiller="random_k")
    steps = [
        distances([Candidate(deep, {})], [Candidate(deep.replace(widths=(*[8] * n, 4, *[8] * (6 - n), 1)), {})])[0, 0]
        for n in range(7)
    ]
    assert steps == pytest.approx([0.7] * 7)
    votes = [Candidate(Schedule(widths=(4, width), final="vote", distiller="random_k"), {}) for width in (2, 4, 8)]
    assert distances(votes)[0] == pytest.approx([0.0, 0.7, 1.4])


def test_what_plays_no_part_is_no_distance() -> None:
    one = Candidate(Schedule(widths=(1,)), {})
    for changes in ({"kappa": 512}, {"distiller": "topk"}, {"quorum": 0.5}, {"distill_temperature": 0.0}):
        assert distances([one], [Candidate(one.schedule.replace(**changes), {})])[0, 0] == 0.0
    same = Candidate(Schedule(widths=(4, 1), distiller="summary", draft_tokens=512, kappa=1024), {})
    said = Candidate(same.schedule.replace(refine_tokens=512, distill_tokens=512, distill_temperature=1.0), {})
    assert distances([same], [said])[0, 0] == 0.0  # what None stands for anyway


def test_each_prompt_is_a_step() -> None:
    wide = Schedule(widths=(4, 1), distiller="summary")
    own, draft = Candidate(wide, {}), Candidate(wide, {"draft": "So."})
    both = Candidate(wide, {"draft": "So.", "refine": "So."})
    shown = Candidate(wide, {}, {"draft": ({"question": "q", "answer": "a"},)})
    assert distances([own], [own, draft, both, shown])[0] == pytest.approx([0, 1, 2**0.5, 1])
    assert distances([draft], [Candidate(wide, {"draft": "Otherwise."})])[0, 0] == pytest.approx(1.0)
