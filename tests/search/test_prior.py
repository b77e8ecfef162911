"""What earlier searches learnt: what transfers, how it is weighed, what a wrong one costs, and where it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.search.prior import FIRST, Known, Prior, learn, read_prior, transferable
from pdr_dspy.search.proposing.samplers import Proposer
from pdr_dspy.search.racing.requests import Propose, Tried
from pdr_dspy.search.racing.surrogate import WEIGHTS, pool
from pdr_dspy.search.settings import SearchSettings
from pdr_dspy.search.space.candidate import Candidate, describe_candidate, joint
from pdr_dspy.testing import scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner, student

SPACE = Space(
    rounds=(1, 2, 3), widths=(1, 2, 4, 8), kappa=(256, 512, 1024), distiller=("random_k", "topk"), draft_tokens=(256,)
)


def wide(width: int, **changes: Any) -> Candidate:
    return Candidate(Schedule(widths=(width, 1), **{"kappa": 512, "distiller": "random_k", "k": 1, **changes}), {})


WIDTHS = [wide(width) for width in (1, 2, 4, 8, 16)]
RISING = (0.30, 0.40, 0.50, 0.60, 0.70)


def known(scores: Sequence[float], candidates: Sequence[Candidate] = WIDTHS, sd: float = 0.01) -> list[Known]:
    return [Known(transferable(one), score, sd) for one, score in zip(candidates, scores, strict=True)]


def negated(prior: Prior) -> Prior:
    points = tuple(point.model_copy(update={"weight": -point.weight}) for point in prior.points)
    return prior.model_copy(update={"points": points})


# --- what is learnt ---


def test_differences_are_learnt_and_levels_are_not() -> None:
    low = learn([known(RISING)])
    high = learn([known([score + 0.25 for score in RISING])])
    both = learn([known(RISING), known([score - 0.2 for score in RISING])])
    assert np.diff(low.means(WIDTHS)) == pytest.approx(np.full(4, 0.1), abs=0.03)
    assert high.means(WIDTHS) == pytest.approx(low.means(WIDTHS), abs=1e-4)
    assert np.diff(both.means(WIDTHS)) == pytest.approx(np.full(4, 0.1), abs=0.03)
    assert both.searches == 2


def test_neighbours_of_measured_schedules_share_what_was_learnt() -> None:
    prior = learn([known(RISING)])
    few, many = prior.means([wide(3), wide(12)])
    assert few < many
    near, far = (np.ptp(prior.means([wide(1, **changes), wide(16, **changes)])) for changes in ({}, {"kappa": 65536}))
    assert far < near


def test_searches_that_disagree_leave_little() -> None:
    agree = learn([known(RISING), known(RISING), known(RISING)])
    disagree = learn([known(RISING), known(RISING[::-1])])
    assert np.ptp(disagree.means(WIDTHS)) < 0.1 * np.ptp(agree.means(WIDTHS))


def test_noise_is_not_learnt() -> None:
    rng = np.random.default_rng(0)
    prior = learn([known(list(0.5 + 0.1 * rng.standard_normal(5)), sd=0.1)])
    assert np.ptp(prior.means(WIDTHS)) < 0.05


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (wide(4, draft_model="small"), wide(4, draft_model="large")),
        (wide(4, check="tests", distiller="checked"), wide(4, check="judge", distiller="checked")),
        (wide(4), wide(4)._replace(instructions={"draft": "Think."})),
        (wide(4), wide(4)._replace(axes={"effort": "low"})),
    ],
    ids=["models", "checks", "prompts", "axes of users"],
)
def test_names_and_texts_of_a_task_do_not_transfer(one: Candidate, other: Candidate) -> None:
    assert transferable(one) == transferable(other)


def test_axes_that_no_earlier_search_had_are_flat() -> None:
    prior = learn([known(RISING)])
    voting = [Candidate(Schedule(widths=(4,), final="vote", draft_tokens=tokens), {}) for tokens in (256, 1024)]
    changed = Prior(**{**prior.model_dump(), "points": [{"at": {"kappa": 0.0}, "weight": 1.0}]})
    assert np.ptp(changed.means(voting)) == 0
    assert changed.first(voting, 2) == []


def test_operators_have_their_own() -> None:
    candidates = [joint({"solve": one, "extract": WIDTHS[0]}) for one in WIDTHS]
    prior = learn([known(RISING, candidates)])
    assert (np.diff(prior.means(candidates)) > 0).all()
    swapped = [joint({"solve": WIDTHS[0], "extract": one}) for one in WIDTHS]
    assert np.ptp(prior.means(swapped)) < 0.5 * np.ptp(prior.means(candidates))
    assert np.ptp(learn([known(RISING)]).means(candidates)) == 0  # of one operator, which is none of these


def test_a_prior_is_json() -> None:
    prior = learn([known(RISING)])
    assert Prior.model_validate_json(prior.model_dump_json()) == prior
    assert SearchSettings(prior=json.loads(prior.model_dump_json())).prior == prior
    with pytest.raises(ConfigError, match=r"version"):
        Prior(**{**prior.model_dump(), "version": 2})


def test_a_prior_needs_two_programs() -> None:
    with pytest.raises(ConfigError, match="at least two measured programs"):
        learn([known(RISING[:1], WIDTHS[:1])])


# --- how it is weighed ---


def scores(shares: Sequence[float], questions: int = 60) -> list[dict[tuple[int, int], float]]:
    rng = np.random.default_rng(3)
    luck = rng.random((len(shares), questions))
    return [{(q, 0): float(luck[i, q] < share) for q in range(questions)} for i, share in enumerate(shares)]


MANY = [wide(width, kappa=kappa) for width in (1, 2, 4, 8, 16) for kappa in (256, 1024)]
LEARNT = [0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, 0.7]


def test_the_scores_weigh_a_right_prior_fully_and_a_wrong_one_not_at_all() -> None:
    prior = learn([known(LEARNT, MANY)])
    measured = scores(LEARNT)
    right, wrong = (pool(measured, MANY, one.means(MANY)) for one in (prior, negated(prior)))
    plain = pool(measured, MANY)
    assert right.weight > 0
    assert wrong.weight == plain.weight == 0
    assert wrong.mean == pytest.approx(plain.mean)
    truth = np.array(LEARNT)
    assert np.abs(right.mean - truth).mean() <= np.abs(plain.mean - truth).mean()


def test_the_level_of_what_is_expected_does_not_matter() -> None:
    measured, expected = scores(LEARNT), np.array(LEARNT)
    one, other = (pool(measured, MANY, expected + level) for level in (0.0, 5.0))
    assert one.weight == other.weight in WEIGHTS
    assert one.mean == pytest.approx(other.mean)
    flat = pool(measured, MANY, np.full(len(MANY), 0.3))
    assert flat.weight == 0
    assert flat.mean == pytest.approx(pool(measured, MANY).mean)


# --- the first trials ---


def request(cohort: int = 1, wanted: int = 8) -> Propose:
    student = Candidate(Schedule(widths=(1,), draft_tokens=256), {})
    return Propose(cohort, wanted, (Tried(student, 0.3, 100.0, 100.0, 8),))


@pytest.mark.parametrize(("wanted", "most"), [(8, FIRST), (100, FIRST), (4, 2), (1, 0)])
def test_a_prior_chooses_at_most_a_few_of_the_first_cohort(wanted: int, most: int) -> None:
    prior, proposer = learn([known(RISING)]), Proposer(SPACE)
    found = proposer.expected(prior, request(wanted=wanted))
    assert len(found) == len({one.candidate.key for one in found}) == most
    assert {one.origin for one in found} <= {"prior"}
    assert proposer.expected(prior, request(2)) == []
    assert proposer.expected(None, request()) == []


@pytest.mark.parametrize("large", [False, True])
def test_the_first_trials_are_promising_affordable_and_unlike_each_other(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr("pdr_dspy.search.proposing.samplers.ENUMERABLE", 20)
        monkeypatch.setattr("pdr_dspy.search.proposing.samplers.DRAWS", 300)
    prior, proposer = learn([known(RISING)]), Proposer(SPACE)
    found = [one.candidate for one in proposer.expected(prior, request())]
    everything = list(SPACE.candidates())
    assert prior.means(found).min() > np.median(prior.means(everything))
    assert len({str(transferable(one)) for one in found}) == FIRST
    cheap = proposer.expected(prior, request(), lambda one: max(one.schedule.widths) <= 2)
    assert {max(one.candidate.schedule.widths) for one in cheap} == {2}


# --- folders ---


def stored(folder: Path, of: Sequence[tuple[Candidate, float | None]]) -> Path:
    """A finished search, as far as a prior reads it."""
    folder.mkdir()
    trials = []
    for candidate, score in of:
        parts = {place: describe_candidate(part) for place, part in candidate.parts.items()}
        facts = {**describe_candidate(candidate._replace(parts={})), "parts": parts}
        trials.append({**facts, "pooled": score, "pooled_sd": 0.01})
    (folder / "search.json").write_text(json.dumps({"trials": trials}))
    return folder


def test_folders_are_read_one_or_several(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", [*zip(WIDTHS, RISING, strict=True), (wide(32), None)])
    parts = [joint({"solve": candidate, "extract": WIDTHS[0]}) for candidate in WIDTHS]
    two = stored(tmp_path / "two", list(zip(parts, RISING, strict=True)))
    assert read_prior(one) == read_prior(str(one)) == read_prior([one]) == learn([known(RISING)])
    assert read_prior([one, two]) == learn([known(RISING), known(RISING, parts)])
    assert SearchSettings(prior=str(one)).prior == learn([known(RISING)])  # type: ignore[arg-type]
    assert PDROptimizer(Exact(), prior=one).settings.prior == learn([known(RISING)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"`prior='.*'`: .*search\.json cannot be read: .*; it must be the run folder of a finished search"),
        ("{", "not of a search of this version"),
        ("[]", "not of a search of this version"),
        ('{"trials": [{"pooled": 0.5}]}', "not of a search of this version"),
        ('{"trials": [{"pooled": 0.5, "pooled_sd": 1, "schedule": {"widths": [0]}}]}', "not of a search"),
    ],
)
def test_a_folder_without_a_finished_search_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "search.json").write_text(text)
    with pytest.raises(StoreError, match=message):
        PDROptimizer(Exact(), prior=tmp_path)


def test_a_folder_of_too_short_a_search_is_named(tmp_path: Path) -> None:
    stored(tmp_path / "short", [(WIDTHS[0], 0.5)])
    with pytest.raises(ConfigError, match=r"prior=.*short.*at least two measured programs"):
        PDROptimizer(Exact(), prior=tmp_path / "short")


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "odd", [(WIDTHS[0], 0.5), (WIDTHS[1], float("nan"))])
    with pytest.raises(StoreError, match=r"`pooled` or `pooled_sd` of a trial is not finite"):
        PDROptimizer(Exact(), prior=tmp_path / "odd")


@pytest.mark.parametrize("value", [3, [], [3], True])
def test_what_is_no_folder_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"prior=.* must be the run folder of a finished search, or a list"):
        PDROptimizer(Exact(), prior=value)


# --- whole searches ---


Search = Callable[..., PDROptimizer]


@pytest.fixture
def search() -> Search:
    def run(**settings: Any) -> PDROptimizer:
        keywords = {"space": SMALL, "trials": 9, "finalist_repeats": 1, "confirm_repeats": 1, **settings}
        optimizer = PDROptimizer(Exact(), **keywords)
        with dspy.context(lm=scripted_lm(reasoner)):
            optimizer.compile(student(), trainset=questions(16), valset=questions(8, 100))
        return optimizer

    return run


@pytest.mark.slow
def test_a_search_learns_from_another_and_is_resumed_with_it_alone(tmp_path: Path, search: Search) -> None:
    first = search(run_dir=tmp_path / "first").result
    assert first is not None
    assert first.prior_weight is None
    assert "prior_weight" not in json.loads((tmp_path / "first" / "search.json").read_text())
    settings: dict[str, Any] = {"seed": 1, "run_dir": tmp_path / "second"}
    second = search(prior=tmp_path / "first", **settings).result
    assert second is not None
    origins = [trial.origin for trial in second.trials if not trial.free]
    assert origins[:1] == ["student"]
    assert 0 < origins.count("prior") <= FIRST
    assert second.prior_weight in WEIGHTS
    assert json.loads((tmp_path / "second" / "search.json").read_text())["prior_weight"] == second.prior_weight
    shutil.move(tmp_path / "first", tmp_path / "moved")
    again = search(prior=tmp_path / "moved", **settings).result  # what was learnt counts, not where from
    assert again is not None
    assert [str(trial) for trial in again.trials] == [str(trial) for trial in second.trials]
    with pytest.raises(StoreError, match=r"`prior` was .* and is now None"):
        search(**settings)
