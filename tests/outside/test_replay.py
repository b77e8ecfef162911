"""Searches on a table of measured cells: what they may choose, what they pay, and how sure the figures are."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from statistics import fmean, stdev

import optuna
import pytest

from benchmarks import replay
from benchmarks.flat_searchers import FLAT, Answered, parameters
from benchmarks.listed import Listed, Replayed
from benchmarks.racing import FRESH
from benchmarks.replay import Games, Outcome
from benchmarks.searchers import Meter, Progress
from benchmarks.splits import Estimate, Split, estimate, resampled, split_of
from pdr_dspy.evaluation.statistics import Interval
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate
from studies import tables
from studies.tables import Cells, Measured, Unit

pytestmark = pytest.mark.slow

BASE = Schedule(widths=(1,), draft_tokens=256, kappa=512)
SCHEDULES = {
    "one pass": BASE,
    **{f"vote of {n}": BASE.replace(widths=(n,), final="vote") for n in (2, 4, 8)},
    **{f"best of {n}": BASE.replace(widths=(n,), final="best", check="check") for n in (2, 4, 8)},
    **{f"PDR {n}-1, {k}": BASE.replace(widths=(n, 1), distiller="random_k", k=k) for n in (4, 8) for k in (1, 2)},
    "SR": BASE.replace(widths=(1, 1), distiller="last"),
}


def made(scores: dict[str, float], questions: int = 24, repeats: int = 1, seed: int = 0) -> Cells:
    """A table whose schedules share eight drafts of 100 tokens, and are right this often; refinements take 200."""
    source = random.Random(seed)
    units = []
    for question in range(questions):
        for repeat in range(repeats):
            calls, cells = [100] * 8, []
            for name, schedule in SCHEDULES.items():
                own = list(range(schedule.widths[0]))
                if schedule.rounds > 1:
                    own.append(len(calls))
                    calls.append(200)
                score = float(source.random() < scores.get(name, 0.0))
                tokens = sum(calls[place] for place in own)
                cells.append(Measured(score, 100 * schedule.rounds, tokens, tuple(own)))
            units.append(Unit(f"q{question}", repeat, tuple(calls), tuple(cells)))
    return Cells(SCHEDULES, tuple(units))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def world() -> Replayed:
    return Replayed(made(dict.fromkeys(SCHEDULES, 0.3) | {"best of 8": 1.0}, repeats=3))


class TestListed:
    @pytest.mark.parametrize("path", sorted(tables.TABLES.glob("*.jsonl")), ids=lambda path: path.stem)
    def test_every_schedule_of_a_kept_table_can_be_suggested(self, path: Path) -> None:
        world = Replayed(tables.read(path))
        assert len(world.places) == len(world.candidates)
        for candidate in world.candidates:
            params = world.space.params_of(candidate)
            assert params is not None
            assert world.space.suggest(Answered(params)).key == candidate.key
        assert str(world.student) == "LongCoT"

    def test_only_listed_schedules_are_in_it_and_others_become_the_nearest(self, world: Replayed) -> None:
        space = world.space
        assert [one.key for one in space.candidates()] == list(world.places)
        assert all(schedule in space for schedule in SCHEDULES.values())
        medoid = BASE.replace(widths=(4,), final="medoid")
        lone = SCHEDULES["PDR 4-1, 2"].replace(widths=(2, 1))
        assert medoid not in space
        assert lone not in space
        params = space.params_of(Candidate(SCHEDULES["PDR 4-1, 2"], {}))
        assert params is not None
        assert space.suggest(Answered({**params, "width_1": 2})).schedule == SCHEDULES["PDR 4-1, 2"]
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        assert {space.suggest(study.ask()).key for _ in range(60)} <= set(world.places)

    def test_all_parameters_are_known_whether_or_not_they_apply(self, world: Replayed) -> None:
        found = parameters(world.space)
        assert found["k"] == (1, 2)
        assert set(found["final"]) == {"refine", "vote", "best"}
        assert {"rounds", "width_1", "width_last", "check"} <= set(found)

    @pytest.mark.parametrize("name", ["GP, all questions", "SMAC3, all questions"])
    def test_searches_that_want_every_parameter_choose_the_best_that_they_ran(self, world: Replayed, name: str) -> None:
        questions = range(world.scores.shape[1])

        def search(limits: Limits, seed: int = 0) -> list[Progress]:
            return list(FLAT[name](world, world.space, limits, questions, 8, seed))  # type: ignore[arg-type]

        root = logging.getLogger()
        before = (root.level, list(root.handlers))
        found = search(Limits())
        assert (root.level, root.handlers) == before
        assert found == search(Limits())
        assert [step.paid for step in found] == sorted(step.paid for step in found)
        assert [step.reported for step in found] == sorted(step.reported for step in found)
        score = fmean(world.cell(found[-1].chosen, question, 0).score for question in questions)
        assert found[-1].reported == pytest.approx(score)
        cheap = search(Limits(total=250))[-1].chosen
        assert fmean(world.cell(cheap, question, 0).total for question in questions) <= 250

    def test_chains_alone_are_a_space_too(self) -> None:
        chains = [BASE.replace(widths=(1,) * n, distiller="last", critique=n == 3) for n in (2, 3)]
        space = Listed.of(chains)
        assert all(chain in space for chain in chains)


class TestReplayed:
    def test_a_call_that_is_shared_is_paid_once(self, world: Replayed) -> None:
        meter = Meter(world)  # type: ignore[arg-type]
        of = {name: Candidate(schedule, {}) for name, schedule in SCHEDULES.items()}
        meter.run(of["vote of 8"], [0, 1])
        assert (meter.paid, meter.full) == (1600, 1600)
        meter.run(of["best of 4"], [0, 1])
        assert (meter.paid, meter.full) == (1600, 2400)
        meter.run(of["PDR 4-1, 1"], [0])
        assert (meter.paid, meter.full) == (1800, 3000)
        assert world.price([0]) == 3 * (800 + 5 * 200)

    def test_fresh_seeds_are_those_that_the_race_did_not_have(self, world: Replayed) -> None:
        unit = {(one.question, one.repeat): one for one in world.table.units}
        one = world.candidates[1]
        for seed, repeat in ((0, 0), (FRESH, 1), (FRESH + 1, 2)):
            assert world.cell(one, 5, seed).score == unit["q5", repeat].cells[1].score
        with pytest.raises(KeyError):
            world.cell(one, 5, FRESH + 2)

    def test_repeats_that_some_questions_lack_are_left_out(self) -> None:
        whole = made(dict.fromkeys(SCHEDULES, 0.5), questions=4, repeats=2)
        world = Replayed(Cells(SCHEDULES, whole.units[:-1]))
        assert world.seeds == 1
        first = [unit for unit in whole.units if unit.repeat == 0]
        assert world.scores.tolist() == [[unit.cells[p].score for unit in first] for p in range(len(SCHEDULES))]


class TestSearches:
    @pytest.mark.parametrize("method", [*replay.LIBRARY, *replay.OTHERS, "pdr-dspy, margin 0.01", "pdr-dspy, free=0"])
    def test_each_goes_from_one_pass_to_what_is_better(self, world: Replayed, method: str) -> None:
        games = Games("made", world, {})
        split = split_of(24, 3)
        steps = games.steps(method, len(SCHEDULES), split, 3, -1)
        shares = [step.share for step in steps]
        assert shares == sorted(shares)
        assert 0 < shares[-1] <= 1
        if "pdr-dspy" in method or "random order" in method:  # the others' samplers may never ask for it
            assert list(SCHEDULES)[steps[-1].chosen] == "best of 8"
        if method in replay.OTHERS:  # they report the mean of their choice
            means = [fmean(world.cell(world.candidates[p], q, 0).score for q in split.searched) for _, p, _ in steps]
            assert [step.reported for step in steps] == pytest.approx(means, abs=1e-4)
            assert means == sorted(means)
            assert shares[-1] <= 1 / 3 + 1e-4  # one seed of three

    def test_the_first_candidates_are_those_of_a_search(self, world: Replayed) -> None:
        first = replay.first_candidates(world)
        assert [one.schedule for one in first[:2]] == [SCHEDULES["vote of 8"], SCHEDULES["best of 8"]]
        assert all(one in world.space for one in first)

    def test_others_may_spend_what_the_library_spent(self) -> None:
        world = Replayed(made(dict.fromkeys(SCHEDULES, 0.3) | {"best of 8": 1.0}))
        split = split_of(24, 0)
        games = Games("made", world, {})
        paid = games.choice(replay.REFERENCE, 8, split, 0, -1).share
        method = "random order, all questions"
        steps = games.steps(method, 2 * len(SCHEDULES), split, 0, -1)
        found = games.choice(method, 8, split, 0, -1)
        assert found == [step for step in steps if step.share <= paid][-1]
        assert steps[-1].share > paid
        for key in list(games.known):
            if key[2] == replay.REFERENCE:
                games.known[key] = (games.known[key][0]._replace(share=1e-6),)
        none = games.choice(method, 8, split, 0, -1)
        assert (none.share, world.candidates[none.chosen]) == (0.0, world.student)  # it has no choice yet

    def test_a_log_keeps_every_search(self, world: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = tmp_path / "log.jsonl"
        first = Games("made", world, replay.read(log), log).replay(replay.REFERENCE, 3, 2, 2)
        assert len(log.read_text().splitlines()) == 2 + 2 * 2
        again = Games("made", world, replay.read(log), log)
        monkeypatch.setattr(Games, "_play", None)
        assert again.replay(replay.REFERENCE, 3, 2, 2) == first


class TestFigures:
    def test_halves_share_no_question(self) -> None:
        for number in range(20):
            for split in (split_of(25, number), resampled(25, number, number % 2)):
                assert not set(split.searched) & set(split.held)
                assert len(split.searched) + len(split.held) == 25
        first, second = resampled(25, 7, 0), resampled(25, 7, 1)
        assert sorted(first.searched + first.held) == sorted(second.searched + second.held)
        assert first != second

    @pytest.mark.parametrize("luck", [0.0, 0.1])
    def test_the_error_is_that_of_the_questions_and_not_of_the_splits(self, luck: float) -> None:
        source = random.Random(2)
        scores = [source.random() for _ in range(40)]

        def worth(split: Split) -> float:
            return fmean(scores[question] for question in split.held) + source.gauss(0, luck)

        splits = [worth(split_of(40, number)) for number in range(400)]
        samples = [(worth(resampled(40, n, 0)), worth(resampled(40, n, 1))) for n in range(1500)]
        found = estimate(splits, samples, scores)
        assert found.value == pytest.approx(fmean(scores), abs=0.015)
        true = stdev(scores) / 40**0.5
        reach = (found.interval.high - found.interval.low) / 2
        assert reach / 2.02 == pytest.approx(true, rel=0.25)
        assert stdev(splits) / 400**0.5 < true / 5  # what ignoring the overlap would say

    def test_it_is_never_surer_than_the_scores_of_the_questions(self) -> None:
        scores = [0.0, 1.0] * 20
        found = estimate([0.5] * 9, [(0.4, 0.6), (0.6, 0.4)], scores)  # the samples vary by less than their pairs
        assert found.interval.high - 0.5 == pytest.approx(2.02 * stdev(scores) / 40**0.5, rel=0.01)

    def test_a_question_counts_where_it_was_held_out(self, world: Replayed) -> None:
        names = list(SCHEDULES)
        splits = [Outcome(0.0, 1.0, names.index(name), 0.0) for name in ("SR", "best of 8")]
        found = replay.by_question(world, replay.Replay(splits, []))
        first, second = (split_of(24, number).held for number in range(2))
        place = names.index("SR")
        known = [[world.scores[place, q]] * (q in first) + [1.0] * (q in second) for q in range(24)]
        assert found.tolist() == pytest.approx([fmean(values) for values in known if values])

    def test_equal_choices_differ_by_nothing(self) -> None:
        one = replay.Replay(
            [Outcome(0.5, 1, 0, 0.5), Outcome(0.7, 1, 2, 0.5)], [(Outcome(0.1, 1, 0, 0), Outcome(0.9, 1, 0, 0))] * 2
        )
        assert replay.difference(one, one, [0.0] * 40) == Estimate(0.0, Interval(0.0, 0.0))

    def test_the_best_lies_between_two_figures(self) -> None:
        below, above = [], []
        for seed in range(12):
            low, high = replay.best_between(Replayed(made(dict.fromkeys(SCHEDULES, 0.5), 30, seed=seed)), draws=60)
            below.append(low)
            above.append(high)
        assert fmean(below) < 0.53 < 0.6 < fmean(above)  # all are worth 0.5: the highest mean is luck
        sure = Replayed(made({"best of 8": 1.0}))
        assert replay.best_between(sure, draws=20) == (1.0, 1.0)

    def test_the_whole_table_prefers_the_cheapest_of_equal_ones(self) -> None:
        world = Replayed(made({"best of 8": 1.0, "best of 4": 1.0, "SR": 1.0}))
        assert list(SCHEDULES)[replay.whole_table(world, split_of(24, 0)).chosen] == "SR"

    def test_it_prints_a_table_for_each_number_of_trials(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tables.write(tmp_path / "made-tiny.jsonl", made({"best of 8": 1.0}))
        few = ["replay", str(path), "--splits", "2", "--samples", "2", "--method", "random order, all questions"]
        monkeypatch.setattr("sys.argv", few)
        replay.main()
        out = capsys.readouterr().out
        assert out.count("made-tiny: 12 schedules, 24 questions") == 2
        assert "8 trials" in out
        assert "100.0 (100.0 to 100.0)" in out
        assert "best of 8 100%" in " ".join(out.replace("│", " ").split())
