"""A model for each role: which model a call goes to, what it costs, and a search that chooses by both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.artifact import load, read, save
from pdr_dspy.calls.ledger import Call, Ledger, Phase, Usage
from pdr_dspy.calls.pricing import Models, Price, Priced
from pdr_dspy.cli.axis_option import space_around
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR, BestOfN, LongCoT, SelfConsistency
from pdr_dspy.search import PDROptimizer, SearchSettings, Space, Spaces
from pdr_dspy.search.candidates import baselines, predicted_cost, presets
from pdr_dspy.search.problem import prepare
from pdr_dspy.search.racing.cost_model import PhaseCost, profile_of
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner
from tests.search.test_spaces import Chain
from tests.support.solver import role_of

CAPS: dict[str, Any] = {"draft_tokens": 60, "kappa": 200, "distiller": "random_k", "k": 1}


def named(name: str, roles: list[str] | None = None, reply: Any = reasoner) -> ScriptedLM:
    """A model that notes which roles asked it."""

    def noting(request: ScriptedRequest) -> str:
        if roles is not None:
            roles.append(role_of(request))
        return reply(request)

    return scripted_lm(noting, model=f"scripted/{name}")


def strong(request: ScriptedRequest) -> str:
    """Always right."""
    name = request.user.split("Question: q")[1].split()[0].rstrip(".")
    return f"Surely.\nAnswer: a{int(''.join(c for c in name if c.isdigit()))}"


def pair(**prices: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    small, large = [], []  # type: ignore[var-annotated]
    models = {"small": Priced(named("small", small), 1, 2), "large": Priced(named("large", large, strong), 10, 20)}
    return models, small, large


# --- which model a call goes to ---


@pytest.mark.parametrize(
    ("settings", "small", "large"),
    [
        ({"draft_model": "small"}, {"draft", "distill", "refine"}, set()),
        ({"draft_model": "small", "refine_model": "large"}, {"draft", "distill"}, {"refine"}),
        ({"draft_model": "large", "distill_model": "small"}, {"distill"}, {"draft", "refine"}),
        ({"draft_model": "large", "refine_model": "small", "distill_model": "small"}, {"distill", "refine"}, {"draft"}),
    ],
)
def test_each_role_asks_the_model_that_the_schedule_names(
    settings: dict[str, Any], small: set[str], large: set[str]
) -> None:
    models, asked_small, asked_large = pair()
    program = PDR("question -> answer", widths=(2, 1), models=models, **{**CAPS, "distiller": "summary"}, **settings)
    ledger = program(question="q1").ledger  # no LM is configured: none is needed
    assert set(asked_small) == small
    assert set(asked_large) == large
    assert {call.model for call in ledger.calls} == {
        f"scripted/{n}" for n, s in (("small", small), ("large", large)) if s
    }


def test_roles_that_name_none_use_the_lm_that_they_would_use_anyway() -> None:
    models, _, asked = pair()
    own: list[str] = []
    program = PDR("question -> answer", widths=(2, 1), models=models, refine_model="large", **CAPS)
    with dspy.context(lm=named("own", own)):
        ledger = program(question="q1").ledger
    assert (set(own), set(asked)) == ({"draft"}, {"refine"})
    assert ledger.cost is None  # the price of one of them is not known


@pytest.mark.parametrize(
    "program",
    [
        lambda models: LongCoT("question -> answer", models=models, draft_model="small", draft_tokens=60),
        lambda models: SelfConsistency("question -> answer", n=2, models=models, draft_model="small", draft_tokens=60),
        lambda models: SR("question -> answer", models=models, draft_model="small", draft_tokens=60),
        lambda models: BestOfN(
            "question -> answer", n=2, check=lambda a, p: 1.0, models=models, draft_model="small", draft_tokens=60
        ),
    ],
)
def test_every_strategy_takes_models(program: Any) -> None:
    models, asked, other = pair()
    assert program(models)(question="q2").answer is not None
    assert asked
    assert not other


def test_a_model_that_is_not_there_is_reported_with_the_remedy() -> None:
    models, _, _ = pair()
    with pytest.raises(ConfigError, match=r"draft_model='tiny'.*it has: small, large.*models=\{'tiny': lm\}"):
        PDR("question -> answer", models=models, draft_model="tiny")
    program = PDR("question -> answer", **CAPS)
    with pytest.raises(ConfigError, match=r"refine_model='large'.*it has: none"):
        program.with_schedule(program.schedule.replace(refine_model="large"))
    with pytest.raises(ConfigError, match=r"names 'tiny', which is not a model of the program"):
        PDROptimizer(Exact(), space=SMALL.fix(draft_model="tiny"), models=models).compile(
            program, trainset=questions(4), valset=questions(4, 100)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Models({"small": 3}), r"`models=\{'small': 3\}` must be a dspy.LM"),  # type: ignore[dict-item]
        (lambda: Models([1]), r"must map names to models"),  # type: ignore[arg-type]
        (lambda: Priced(named("a"), -1, 1), r"`Priced\(input=-1\)` must be the price of one token, at least 0"),
        (lambda: Priced(named("a"), 1, None), r"`Priced\(output=None\)`.*leave `Priced` out"),  # type: ignore[arg-type]
        (lambda: Schedule(draft_model=""), r'draft_model=""'),
        (lambda: SearchSettings(limits=Limits(cost=-1.0)), r"`Limits\(cost=-1.0\)` must be above 0"),
        (lambda: SearchSettings(limits=Limits(cost=float("nan"))), r"must be above 0"),
    ],
)
def test_bad_models_and_prices_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_copies_share_the_models_and_old_schedules_keep_their_data() -> None:
    models, _, _ = pair()
    program = PDR("question -> answer", models=models, **CAPS)
    assert copy.deepcopy(program).models["small"] is models["small"].lm
    assert not {"draft_model", "refine_model", "distill_model"} & set(Schedule().model_dump())
    assert "draft_model" not in Space().model_dump()
    assert str(Schedule(widths=(1,), draft_model="small")) == "LongCoT on small"


# --- what it costs ---


def test_a_price_is_a_price_of_tokens_and_unknown_is_none() -> None:
    known = Call(phase=Phase.DRAFT, usage=Usage(input=10, output=3), price=Price(2.0, 5.0))
    assert known.cost == 35.0
    assert Ledger(calls=(known, known)).cost == 70.0
    assert Ledger(calls=(known, known.model_copy(update={"price": None}))).cost is None
    assert Ledger().cost is None
    free = known.model_copy(update={"price": Price(0.0, 0.0)})
    assert Ledger(calls=(free,)).cost == 0.0  # which is known
    lost = known.model_copy(update={"usage": Usage()})
    assert (lost.cost, Ledger(calls=(lost,)).exact) == (0.0, False)


def test_a_prompt_that_is_served_once_is_paid_once() -> None:
    both = [
        Call(phase=Phase.DRAFT, index=i, prompt="p", usage=Usage(input=10, output=4), price=Price(1.0, 1.0))
        for i in range(2)
    ]
    ledger = Ledger(calls=tuple(both))
    assert ledger.cost_as_one_run(prompt_once=False) == ledger.cost == 28.0
    assert ledger.cost_as_one_run(prompt_once=True) == 18.0
    assert ledger.as_one_run(prompt_once=True) == 18


def test_operations_are_two_for_each_parameter_and_token() -> None:
    assert Priced.by_size(named("a"), 5e8).price == Price(1e9, 1e9)


def test_rows_and_reports_have_the_cost_where_prices_are_known() -> None:
    models, _, _ = pair()
    program = PDR("question -> answer", widths=(2, 1), models=models, draft_model="small", refine_model="large", **CAPS)
    report = evaluate(program, questions(3), Exact())  # type: ignore[arg-type]
    for row in report.rows:
        by_hand = sum(
            (1 * (c.usage.input or 0) + 2 * (c.usage.output or 0)) * (10 if c.model == "scripted/large" else 1)
            for c in row.calls
        )
        assert row.cost == by_hand > 0
    assert report.cost == pytest.approx(sum(row.cost or 0.0 for row in report.rows) / 3)
    with dspy.context(lm=named("own")):
        assert evaluate(LongCoT("question -> answer", draft_tokens=60), questions(3), Exact()).cost is None  # type: ignore[arg-type]


def test_models_of_one_name_are_told_apart() -> None:
    first, second = named("twin"), named("twin")
    ledgers = [
        LongCoT("question -> answer", draft_tokens=60, models=models, draft_model="b")(question="q1").ledger
        for models in ({"a": Priced(first, 1, 1), "b": Priced(second, 3, 3)}, {"a": Priced(first, 1, 1), "b": second})
    ]
    assert ledgers[0].cost == 3 * ledgers[0].total
    assert ledgers[1].cost is None  # the price of another model of that name is none


def test_a_session_can_price_any_model_by_its_name() -> None:
    with dspy.context(lm=named("own")), calls.session(prices={"scripted/own": Price(1.0, 1.0)}):
        ledger = LongCoT("question -> answer", draft_tokens=60)(question="q1").ledger
    assert ledger.cost == ledger.total


# --- saved by name ---


def test_a_saved_program_is_bound_to_models_by_name(tmp_path: Path) -> None:
    models, small, large = pair()
    program = PDR("question -> answer", widths=(2, 1), models=models, draft_model="small", refine_model="large", **CAPS)
    path = save(program, tmp_path / "program.json")
    assert read(path)["operators"][""]["models"] == {"small": "scripted/small", "large": "scripted/large"}
    assert "price" not in json.dumps(read(path))
    assert {one["model"] for one in read(path)["models"]} == {"scripted/small", "scripted/large"}
    with pytest.raises(
        ArtifactError, match=r"uses the models 'small' \(it was scripted/small\), 'large'.*load\(path, mod"
    ):
        load(path)
    with pytest.raises(ArtifactError, match=r"uses the model 'large'"):
        load(path, models={"small": models["small"]})
    for loaded in (load(path, models=models), load(path, program=PDR("question -> answer", models=models, **CAPS))):
        small.clear()
        large.clear()
        assert loaded(question="q1").ledger.cost == program(question="q1").ledger.cost
        assert (set(small), set(large)) == ({"draft"}, {"refine"})


# --- the axis ---


def problem_of(space: Space | None = None, **settings: Any) -> Any:
    models, _, _ = pair()
    with dspy.context(lm=models["small"].lm):
        student = LongCoT("question -> answer", draft_tokens=60, kappa=200)
        return prepare(
            SearchSettings(space=space, **settings),
            Exact(),
            student,
            questions(8),
            questions(8, 100),
            models=models,  # type: ignore[arg-type]
        )


def test_every_candidate_of_the_axis_is_found_again() -> None:
    space = SMALL.fix(k=1).narrow(widths=(2, 4)).extend(refine_model=("small", "large")).fix(draft_model="small")
    every = list(space.candidates())
    assert len({one.key for one in every}) == len(every)
    assert all(one in space for one in every)
    only = space.narrow(refine_model=("small", "large"))  # None, which means the one that drafts, is not there
    assert all(one in only for one in only.candidates())


def test_one_pass_and_the_vote_of_each_model_are_among_the_first() -> None:
    space = SMALL.extend(draft_model=("small", "large"), final=("vote",)).narrow(draft_model=("small", "large"))
    problem = problem_of(space)
    origins = [one.origin for one in [*baselines(problem), *presets(problem, lambda _: True)]]
    assert origins[:5] == ["student", "LongCoT on small", "LongCoT on large", "vote on small", "vote on large"]
    assert problem_of().space.draft_model == ("small", "large")  # of the default space
    assert space_around(PDR("question -> answer", models=pair()[0])).spaces[""].refine_model == ("small", "large")


def test_the_predicted_cost_is_that_of_the_models() -> None:
    problem = problem_of(SMALL.extend(draft_model=("small", "large")))
    report = evaluate(
        Operator("question -> answer", Schedule(widths=(1,), draft_tokens=60, draft_model="small"), models=pair()[0]),
        questions(4),
        Exact(),  # type: ignore[arg-type]
    )
    profile = profile_of(report.rows)
    small = predicted_cost(problem, Candidate(Schedule(widths=(1,), draft_tokens=60, draft_model="small"), {}), profile)
    large = predicted_cost(problem, Candidate(Schedule(widths=(1,), draft_tokens=60, draft_model="large"), {}), profile)
    assert small == pytest.approx(report.cost)
    assert large == pytest.approx(10 * (small or 0.0))
    assert predicted_cost(problem, Candidate(Schedule(widths=(1,)), {}), {}) is None


@pytest.mark.slow
def test_a_search_keeps_within_a_limit_on_cost(tmp_path: Path) -> None:
    models, _, _ = pair()
    space = (
        Space(rounds=(1, 2), widths=(2,), kappa=(200,), distiller=("random_k",), k=(1,), draft_tokens=(60,))
        .extend(draft_model=("small", "large"), refine_model=("small", "large"))
        .narrow(draft_model=("small", "large"), refine_model=("small", "large"))
    )
    found: dict[float | None, Any] = {}
    for limit in (None, 600.0):
        optimizer = PDROptimizer(
            Exact(),
            space=space,
            models=models,
            max_cost=limit,
            trials=8,
            confirm_repeats=1,
            accept="better",  # type: ignore[arg-type]
            run_dir=tmp_path / str(limit),
        )
        with dspy.context(lm=models["small"].lm):
            optimizer.compile(
                LongCoT("question -> answer", draft_tokens=60, kappa=200),
                trainset=questions(10),
                valset=questions(10, 100),
            )
        found[limit] = optimizer.result
    free, kept = found[None], found[600.0]
    assert "large" in free.best.schedule.models  # which is always right
    assert kept.best.cost is not None
    assert kept.best.cost <= 600.0 < free.best.cost
    assert all(trial.feasible == (trial.cost <= 600.0) for trial in kept.trials)
    loaded = load(tmp_path / "None" / "best.json", models=models)
    assert loaded.schedule == free.program.schedule
    stored = json.loads((tmp_path / "None" / "search.json").read_text())
    assert stored["config"]["named_models"]["large"][1] == [10, 20]


def test_a_limit_on_cost_needs_every_price() -> None:
    models = {"small": Priced(named("small"), 1, 2), "large": named("large")}
    for own, message in (
        (models["small"].lm, r"that of 'large' is unknown"),
        (named("own"), r"the program's default LM"),
    ):  # type: ignore[union-attr]
        with dspy.context(lm=own), pytest.raises(ConfigError, match=message):
            PDROptimizer(Exact(), models=models, max_cost=10.0).compile(  # type: ignore[arg-type]
                LongCoT("question -> answer", draft_tokens=60), trainset=questions(4), valset=questions(4, 100)
            )


def test_parts_of_several_operators_add_their_costs() -> None:
    models, _, _ = pair()
    settings = SearchSettings(space=Spaces(operators={"solve": SMALL.fix(draft_model="small"), "extract": None}))
    with dspy.context(lm=models["small"].lm):
        problem = prepare(settings, Exact(), Chain(), questions(4), questions(4, 100), models=models)  # type: ignore[arg-type]
    one = PhaseCost(calls=1, input=10, output=30, stages=1, prompt=10, longest=30)
    candidate = joint({"solve": Candidate(Schedule(widths=(1,), draft_tokens=60, draft_model="large"), {})})
    with dspy.context(lm=models["small"].lm):
        assert predicted_cost(problem, candidate, {"solve/draft": one, "extract/draft": one}) == 700 + 70


def test_one_lm_has_one_price() -> None:
    lm = scripted_lm(lambda request: "Answer: 1")
    twice = {"small": Priced(lm, input=1, output=1), "large": Priced(lm, input=2, output=2)}
    with pytest.raises(ConfigError, match=r"`models=\{'small': ..., 'large': ...\}` are one LM at two prices"):
        LongCoT("question -> answer", models=twice)
    program = LongCoT("question -> answer", models={"small": twice["small"]}, draft_model="small")
    with pytest.raises(ConfigError, match="one LM at two prices"):
        program.with_models({"large": twice["large"]})
    copied = program.with_models({"large": Priced(lm.copy(), input=2, output=2)})
    assert copied(question="q").ledger.cost == copied(question="q").ledger.total
    same = {"small": twice["small"], "again": Priced(lm, input=1, output=1), "free": lm}
    assert LongCoT("question -> answer", models=same, draft_model="free")(question="q").ledger.cost is not None
