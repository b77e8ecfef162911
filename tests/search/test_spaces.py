"""A space for each operator of a program: its laws, its candidates, and a search over it, resumed, saved and loaded."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.artifact import load
from pdr_dspy.cli.axis_option import space_around
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, BestOfN, LongCoT
from pdr_dspy.reporting.page import write_report
from pdr_dspy.reporting.search_tables import importance, labels, read_search
from pdr_dspy.search import PDROptimizer, SearchSettings, Space, Spaces
from pdr_dspy.search.candidates import baselines, predicted, presets
from pdr_dspy.search.problem import Problem, prepare
from pdr_dspy.search.racing.cost_model import PhaseCost, predict
from pdr_dspy.search.racing.surrogate import distances
from pdr_dspy.search.space.candidate import Candidate, describe_candidate, joint, program_with, read_candidate
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner

TINY = Space(rounds=(1, 2), widths=(2, 4), kappa=(200,), distiller=("random_k",), k=(1,), draft_tokens=(60,))
VOTES = Space(rounds=(1,), widths=(1, 4), draft_tokens=(60,), final=("refine", "vote"))


class Chain(dspy.Module):
    """Solves, then reads the answer out of the solution."""

    def __init__(self, *, extract: Any = None) -> None:
        super().__init__()
        self.solve = LongCoT("question -> answer", draft_tokens=60, kappa=200)
        self.extract = extract or LongCoT("question, notes -> answer", draft_tokens=60, kappa=200)

    async def aforward(self, question: str) -> dspy.Prediction:
        notes = await self.solve.acall(question=question)
        return await self.extract.acall(question=question, notes=f"It is {notes.answer}")


def chain_model(request: ScriptedRequest) -> str:
    """Solving goes as the reasoner does; who extracts says what the notes say."""
    notes = re.search(r"It is (\w+)", request.user)
    return f"As noted.\nAnswer: {notes[1]}" if notes else reasoner(request)


def problem_of(space: Any, program: dspy.Module | None = None) -> Problem:
    settings = SearchSettings(space=space)
    with dspy.context(lm=scripted_lm(chain_model)):
        return prepare(settings, Exact(), program or Chain(), questions(8), questions(8, 100))  # type: ignore[arg-type]


def compiled(space: Any, **settings: Any) -> PDROptimizer:
    keywords: dict[str, Any] = {"space": space, "trials": 8, "confirm_repeats": 1, "finalist_repeats": 1, **settings}
    program = keywords.pop("program", None) or Chain()
    optimizer = PDROptimizer(Exact(), **keywords)  # type: ignore[arg-type]
    with dspy.context(lm=scripted_lm(chain_model)):
        optimizer.compile(program, trainset=questions(10), valset=questions(10, 100))
    return optimizer


def facts(optimizer: PDROptimizer) -> list[Any]:
    assert optimizer.result is not None
    return [trial.model_dump(mode="json") for trial in optimizer.result.trials]


# --- laws ---


@pytest.mark.parametrize("key", ["", "self"])
def test_a_mapping_with_one_key_is_the_plain_space(key: str) -> None:
    program = PDR("question -> answer", draft_tokens=60, kappa=200, distiller="random_k", k=1)
    plain, mapped = (problem_of(space, program) for space in (SMALL, {key: SMALL}))
    assert mapped.space == plain.space == SMALL
    assert mapped.description == plain.description  # so that either goes on with what the other began
    assert [one.candidate.key for one in presets(mapped, lambda _: True)] == [
        one.candidate.key for one in presets(plain, lambda _: True)
    ]


@pytest.mark.slow
def test_a_mapping_with_one_key_finds_the_same_search(tmp_path: Path) -> None:
    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.solve = LongCoT("question -> answer", draft_tokens=60, kappa=200)

        async def aforward(self, question: str) -> dspy.Prediction:
            return await self.solve.acall(question=question)

    plain = compiled(SMALL, program=Around(), run_dir=tmp_path)
    mapped = compiled({"self.solve": SMALL}, program=Around(), run_dir=tmp_path)
    assert facts(plain) == facts(mapped)
    assert mapped.result is not None
    assert mapped.result.paid == plain.result.paid if plain.result else False


@pytest.mark.slow
def test_what_is_left_alone_never_changes() -> None:
    optimizer = compiled({"solve": TINY, "extract": None})
    assert optimizer.result is not None
    for trial in optimizer.result.trials:
        assert list(trial.candidate.parts) == ["solve"]
        program = program_with(Chain(), trial.candidate)
        assert operators_in(program)["extract"].schedule == Chain().extract.schedule


# --- what is said of names that are not there ---


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"solve": TINY, "extrct": TINY},
            r"`space=\{'extrct': ...\}` is not an operator of the program.*'solve', 'extract'",
        ),
        ({"solve": TINY}, r"has no entry for the operator 'extract'; give it a space.*or None to leave it unchanged"),
        ({"solve.draft": TINY, "extract": None}, r"'solve.draft'.*is not an operator"),
        ({"": TINY}, r"is not an operator of the program"),
        ({"solve": None, "extract": None}, r"has no space: there is nothing to choose"),
        ({}, r"has no space"),
        ({"solve": TINY, "self.solve": TINY, "extract": None}, r"names the operator 'solve' twice"),
        ({"solve": TINY, "extract": 3}, r"'extract': 3.*must be a `Space\(...\)`, or None"),
        ({1: TINY}, r"must map paths of operators to spaces"),
        (7, r"space=7.*must be a `Space\(...\)`, spaces by the paths of their operators"),
        ({"solve": Space(check=("tests",), rounds=(1,)), "extract": None}, r"names 'tests', which is not a check"),
    ],
)
def test_bad_names_are_reported_with_the_remedy(space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        problem_of(space)


# --- the space itself ---


def test_every_combination_is_listed_once_suggested_and_found_again() -> None:
    space = Spaces(operators={"solve": TINY, "extract": VOTES})
    every = [candidate.key for candidate in space.candidates()]
    assert len(set(every)) == len(every) == space.size == TINY.size * VOTES.size
    assert every[0] == joint({p: next(one.candidates()) for p, one in space.spaces.items()}).key  # small shapes first
    for candidate in space.candidates():
        params = space.params_of(candidate)
        assert params is not None
        assert candidate in space
        assert all(name.startswith(("solve.", "extract.")) for name in params)
        assert read_candidate(json.loads(json.dumps(describe_candidate(candidate)))).key == candidate.key
    assert Candidate(Schedule(widths=(1,), draft_tokens=60), {}) not in space  # of one schedule for all


def test_a_large_product_is_listed_without_going_through_any_factor() -> None:
    deep = Space(rounds=tuple(range(1, 9)), widths=tuple(range(1, 17)), distiller=("random_k",), k=(1,))
    space = Spaces(operators={"a": deep, "b": deep, "c": VOTES})
    first = list(itertools.islice(space.candidates(), 300))
    assert len({candidate.key for candidate in first}) == 300
    assert len({candidate.parts["a"].key for candidate in first}) > 3
    assert len({candidate.parts["b"].key for candidate in first}) > 3


def test_json_both_ways() -> None:
    space = Spaces(operators={"solve": TINY, "extract": None, "steps[0]": VOTES})
    assert SearchSettings(space=json.loads(space.model_dump_json())).space == space
    settings = SearchSettings(space=space)
    assert SearchSettings(**json.loads(settings.model_dump_json())) == settings
    assert "solve:" in str(space)
    assert "unchanged" in str(space)


def test_distance_adds_up_over_the_operators() -> None:
    one, two = Schedule(widths=(1,)), Schedule(widths=(4, 1), distiller="random_k")
    parts = [joint({"a": Candidate(a, {}), "b": Candidate(b, {})}) for a, b in itertools.product((one, two), repeat=2)]
    gaps = distances(parts)
    alone = distances([Candidate(one, {}), Candidate(two, {})])[0, 1]
    assert gaps[0, 1] == gaps[0, 2] == pytest.approx(alone)
    assert gaps[0, 3] == gaps[1, 2] == pytest.approx(alone * 2**0.5)


@pytest.mark.parametrize(
    ("axes", "widths"),
    [
        (["widths=1,2"], {"": (1, 2)}),
        (["solve.widths=1,2"], {"solve": (1, 2), "extract": (1, 2, 4, 8)}),
        (["solve.widths=1,2", "extract.widths=4", "temperature=0.5"], {"solve": (1, 2), "extract": (4,)}),
    ],
)
def test_the_command_line_names_the_axes_of_an_operator(axes: list[str], widths: dict[str, Any]) -> None:
    space = space_around(Chain(), axes)
    assert {place: one.widths for place, one in space.spaces.items()} == widths
    if "temperature=0.5" in axes:
        assert {one.temperature for one in space.spaces.values()} == {(0.5,)}


def test_the_command_line_knows_no_axes_of_other_operators() -> None:
    with pytest.raises(ConfigError, match=r"there is no axis 'extrct\.widths'"):
        space_around(Chain(), ["extrct.widths=1,2"])


# --- what is tried ---


def test_one_pass_votes_and_the_best_by_a_check_are_among_the_first() -> None:
    def short(args: Any, pred: Any) -> float:
        return 1.0

    program = Chain()
    program.solve = BestOfN("question -> answer", n=2, check=short, draft_tokens=60, kappa=200)
    checked = TINY.extend(widths=(1,), check=(None, "check"), final=("refine", "vote", "best"))
    problem = problem_of({"solve": checked.narrow(check=(None, "check")), "extract": VOTES}, program)
    origins = {one.origin: one.candidate for one in [*baselines(problem), *presets(problem, lambda _: True)]}
    assert list(origins)[:6] == ["student", "LongCoT", "vote", "best by check", "vote at solve", "vote at extract"]
    shapes = {name: {p: str(part.schedule) for p, part in one.parts.items()} for name, one in origins.items()}
    assert shapes["student"] == {"solve": "best of 2 check=check", "extract": "LongCoT"}
    assert shapes["LongCoT"]["extract"] == "LongCoT"
    assert shapes["vote"] == {"solve": "vote of 4", "extract": "vote of 4"}
    assert shapes["best by check"]["solve"] == "best of 4 check=check"
    assert shapes["best by check"]["extract"] == "LongCoT"  # which has no check
    assert shapes["vote at extract"]["extract"] == "vote of 4"
    assert all(one in problem.space for name, one in origins.items() if name != "student")


def test_a_limit_counts_what_all_operators_cost() -> None:
    problem = problem_of({"solve": TINY, "extract": VOTES})
    cost = {Phase: PhaseCost(calls=1, input=10, output=30, stages=1, prompt=10, longest=30) for Phase in ("draft",)}
    profile = {f"{place}/draft": one for place in ("solve", "extract") for one in cost.values()}
    one, two = Schedule(widths=(1,), draft_tokens=60), Schedule(widths=(4,), final="vote", draft_tokens=60)
    candidate = joint({"solve": Candidate(one, {}), "extract": Candidate(two, {})})
    alone = [predict(schedule, cost) for schedule in (one, two)]
    assert None not in alone
    assert predicted(problem, candidate, profile) == tuple(sum(parts) for parts in zip(*alone, strict=True))  # type: ignore[arg-type]
    assert predicted(problem, candidate, {}) is None


def test_operators_that_wait_for_each_other_add_up_along_the_path() -> None:
    with dspy.context(lm=scripted_lm(chain_model)):
        (row,) = evaluate(Chain(), questions(1), Exact()).rows  # type: ignore[arg-type]
    assert Counter(call.operator for call in row.calls) == {"solve": 1, "extract": 1}
    assert row.sequential == row.total == sum(call.tokens for call in row.calls)


def test_runs_of_the_same_operator_add_up_too() -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.solve = LongCoT("question -> answer", draft_tokens=60, kappa=200)

        async def aforward(self, question: str) -> dspy.Prediction:
            await self.solve.acall(question=question)
            return await self.solve.acall(question=question, seed=5)

    with dspy.context(lm=scripted_lm(chain_model)):
        (row,) = evaluate(Twice(), questions(1), Exact()).rows  # type: ignore[arg-type]
    assert [call.operator for call in row.calls] == ["solve", "solve:2"]
    assert row.sequential == row.total


# --- the search ---


@pytest.mark.slow
def test_a_search_gives_each_operator_its_own_and_is_saved_and_loaded(tmp_path: Path) -> None:
    optimizer = compiled({"solve": TINY, "extract": VOTES}, trials=10, accept="better", run_dir=tmp_path)
    result = optimizer.result
    assert result is not None
    schedules = [{p: str(part.schedule) for p, part in t.candidate.parts.items()} for t in result.trials]
    assert any(one["solve"] != one["extract"] for one in schedules)
    best = {place: operator.schedule for place, operator in operators_in(result.program).items()}
    if result.confirmation.kept == "winner":
        assert best == {place: part.schedule for place, part in result.best.candidate.parts.items()}
    loaded = load(tmp_path / "best.json", program=Chain())
    assert {place: operator.schedule for place, operator in operators_in(loaded).items()} == best
    chosen: Any = result.program
    assert set(chosen.candidate_programs[0]["schedules"]) == {"solve", "extract"}
    stored = read_search(tmp_path)
    assert [trial.candidate.key for trial in stored.trials] == [trial.candidate.key for trial in result.trials]
    assert all("extract: " in label for label in labels(stored.trials).values())
    names = [one.name for one in importance(stored.trials)]
    assert any(name.startswith("solve: ") for name in names)
    assert result.best.number > 0
    assert list(result.credits) == ["solve", "extract"]
    assert stored.credits == result.credits
    page = write_report(tmp_path).read_text()
    assert "What each operator brought" in page
    for one in result.credits.values():
        assert f"<td>{one.source}</td>".replace("'", "&#39;") in page


@pytest.mark.slow
def test_a_search_is_continued_and_another_refused(tmp_path: Path) -> None:
    """Where a cohort ends: then the next one is the same."""
    spaces, both = {"solve": TINY, "extract": VOTES}, {"cohort": 2, "trials": 9}
    whole = compiled(spaces, **both)
    compiled(spaces, **both | {"trials": 5}, run_dir=tmp_path)
    resumed = compiled(spaces, **both, run_dir=tmp_path)
    assert "search" in {one["origin"] for one in facts(whole)}
    assert [one["parts"] for one in facts(resumed)] == [one["parts"] for one in facts(whole)]
    assert [one["total"] for one in facts(resumed)] == [one["total"] for one in facts(whole)]
    assert resumed.result is not None
    assert whole.result is not None
    assert resumed.result.credits == whole.result.credits
    with pytest.raises(StoreError, match="another search"):
        compiled({"solve": TINY, "extract": None}, **both, run_dir=tmp_path)


@pytest.mark.slow
def test_what_a_search_would_cost_can_be_estimated() -> None:
    optimizer = PDROptimizer(Exact(), space={"solve": TINY, "extract": VOTES}, trials=6)  # type: ignore[arg-type]
    with dspy.context(lm=scripted_lm(chain_model)):
        cost = optimizer.estimate(Chain(), trainset=questions(8), valset=questions(8, 100))
    assert 0 < cost.low < cost.high


@pytest.mark.slow
def test_operators_that_share_a_schedule_have_no_candidates_at_no_tokens() -> None:
    """Another final of the first would change what the second reads."""
    optimizer = compiled(TINY.extend(widths=(1,), final=("vote", "medoid")), trials=6, cohort=2)
    assert optimizer.result is not None
    assert not any(trial.free for trial in optimizer.result.trials)
