"""The space: what is in it, what is not, and both ways through JSON."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.schedule import Schedule, preset
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.search.racing.cost_model import PhaseCost, predict, profile_of
from pdr_dspy.search.racing.pareto import Limits, best, dominates, front
from pdr_dspy.search.space.candidate import Candidate, describe_candidate, program_with, read_candidate
from pdr_dspy.search.space.canonical import canonical
from pdr_dspy.search.space.prompt_axes import DemoSet, check_demos, demos_of, questions_in
from pdr_dspy.search.space.space import Space
from tests.support.solver import engine


class Drawn:
    """A trial that answers at random and remembers the questions."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        assert name not in self.asked
        self.asked[name] = self.draw.choice(list(choices))
        return self.asked[name]


WIDE = Space(
    rounds=(1, 2, 3),
    widths=(1, 2, 4),
    kappa=(200, 400),
    k=(1, 2, 4),
    distill_tokens=(None, 64),
    critique=(False, True),
    temperature=(0.6, 1.0),
    instructions={"refine": ("Look again.",), "select": ("Pick.", "Choose.")},
    demos={"draft": (({"question": "1+1", "answer": "2"},), ())},
)
SHOT: DemoSet = ({"question": "2+2", "solution": "Count.", "answer": "4"},)


@pytest.mark.slow
def test_every_suggestion_is_a_candidate_that_is_found_again() -> None:
    every = {candidate.key for candidate in WIDE.candidates()}
    for seed in range(300):
        trial = Drawn(seed)
        candidate = WIDE.suggest(trial)
        assert candidate.key in every
        assert candidate in WIDE
        params = WIDE.params_of(candidate)
        assert params is not None
        assert params.keys() <= trial.asked.keys() | {"k"}


@pytest.mark.slow
def test_enumeration_has_each_candidate_once_and_counts_them() -> None:
    keys = [candidate.key for candidate in WIDE.candidates()]
    assert len(keys) == len(set(keys)) == WIDE.size
    assert Space(rounds=(1,)).size == 1
    assert [str(s) for s in Space(rounds=(1, 2), widths=(1, 2), distiller=("summary",)).schedules()] == [
        "LongCoT",
        "SR x2",
        "PDR 2-1 summary κ=2048",
    ]


def test_conditional_parameters_exist_only_where_they_mean_something() -> None:
    for seed in range(300):
        trial = Drawn(seed)
        schedule = WIDE.suggest(trial).schedule
        if schedule.rounds == 1:
            assert trial.asked.keys() == {"rounds", "temperature", "draft_demos"}
        assert ("k" in trial.asked) == (
            schedule.rounds > 1 and schedule.distiller in ("topk", "topk_per_sample", "random_k")
        )
        assert ("critique" in trial.asked) == (schedule.rounds > 1 and max(schedule.widths) == 1)
        assert ("select_instructions" in trial.asked) == (schedule.rounds > 1 and schedule.distiller.startswith("topk"))
        assert list(schedule.widths) == sorted(schedule.widths, reverse=True)


def test_free_widths() -> None:
    free = Space(rounds=(3,), widths=(1, 2), monotone=False, distiller=("summary",))
    assert {s.widths for s in free.schedules()} == {(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1)}


def test_default_space_has_the_schedule_and_its_neighbours() -> None:
    schedule = preset("balanced", draft_tokens=300)
    space = Space.default_for(schedule)
    assert schedule in space
    assert schedule.replace(widths=(1,)) in space
    assert Schedule(widths=(1, 1), distiller="last", draft_tokens=300) in space
    assert schedule.replace(draft_tokens=301) not in space
    assert preset("paper", draft_tokens=300) not in space


def test_default_space_of_a_program_with_checks_has_all_that_goes_by_them() -> None:
    schedule = preset("balanced", draft_tokens=300)
    plain, space = Space.default_for(schedule), Space.default_for(schedule, ("tests", "style"))
    vote = schedule.replace(widths=(8,), final="vote")
    assert vote in plain
    assert vote in space
    for name in ("tests", "style"):
        best = schedule.replace(widths=(8,), final="best", check=name)
        refined = Schedule(widths=(8, 1), distiller="checked", check=name, keep=True, stop_at=1.0, draft_tokens=300)
        assert best in space
        assert refined in space
        assert best not in plain
        assert refined not in plain


def test_fix_narrow_extend() -> None:
    space = Space(rounds=(1, 2), widths=(1, 2, 4), kappa=(100, 200), monotone=False)
    assert space.fix(kappa=150).kappa == (150,)
    assert space.narrow(widths=(2, 4)).widths == (2, 4)
    assert space.extend(kappa=(400, 200)).kappa == (100, 200, 400)
    more = space.extend(instructions={"draft": ("A",)}).extend(instructions={"draft": ("A", "B")})
    assert more.instructions == {"draft": ("A", "B")}
    assert not space.fix(kappa=150).monotone
    with pytest.raises(ConfigError, match="has 8, which is not in"):
        space.narrow(widths=(8,))
    with pytest.raises(ConfigError, match="no axis 'width'"):
        space.fix(width=3)


ONE_LINE = {
    "rounds": (2, (1, 2), (4,)),
    "widths": (2, (1, 2), (16,)),
    "kappa": (200, (400,), (800,)),
    "distiller": ("summary", ("topk", "random_k"), ("summary",)),
    "k": (1, (1, 2), (3,)),
    "draft_tokens": (100, (1024,), (2048,)),
    "refine_tokens": (None, (None,), (64,)),
    "distill_tokens": (64, (64,), (128,)),
    "thinking_tokens": (512, (0,), (256, 4096)),
    "temperature": (0.7, (0.6,), (0.2,)),
    "distill_temperature": (0.0, (None,), (0.0,)),
    "top_p": (0.9, (1.0,), (0.9,)),
    "critique": (True, (False,), (True,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("axis", ONE_LINE)
def test_any_axis_is_fixed_narrowed_or_extended_in_a_line(axis: str) -> None:
    one, fewer, more = ONE_LINE[axis]
    fixed, narrowed, extended = WIDE.fix(**{axis: one}), WIDE.narrow(**{axis: fewer}), WIDE.extend(**{axis: more})
    assert getattr(fixed, axis) == (one,)
    assert getattr(narrowed, axis) == fewer
    assert getattr(extended, axis) == tuple(dict.fromkeys((*getattr(WIDE, axis), *more)))
    assert narrowed.size <= WIDE.size <= extended.size
    for space in (fixed, narrowed, extended):
        for seed in range(20):
            assert space.suggest(Drawn(seed)) in space
    assert all(axis in space.describe() for space in (fixed, narrowed, extended))


def test_lists_and_ranges_are_candidates_too() -> None:
    assert Space(kappa=[128, 256], draft_tokens=list(range(64, 257, 64))).draft_tokens == (64, 128, 192, 256)
    assert WIDE.extend(thinking_tokens=range(1024, 4097, 1024)).thinking_tokens == (0, 1024, 2048, 3072, 4096)


def test_thinking_tokens_are_an_axis() -> None:
    space = Space(rounds=(1,), thinking_tokens=(0, 2048))
    assert [schedule.thinking_tokens for schedule in space.schedules()] == [0, 2048]
    assert space.params_of(Candidate(Schedule(widths=(1,), thinking_tokens=2048), {})) == {"thinking_tokens": 2048}


def test_instructions_are_fixed_narrowed_and_extended_by_role() -> None:
    space = Space(rounds=(1, 2), widths=(2,), k=(1,), distiller=("topk",)).extend(
        instructions={"draft": ("A", "B"), "refine": ("C",)}
    )
    assert space.size == 3 + 3 * 2
    only_a = space.fix(instructions={"draft": "A"})
    assert {c.instructions["draft"] for c in only_a.candidates()} == {"A"}
    assert only_a.size == 1 + 2
    assert Candidate(Schedule(widths=(1,)), {}) not in only_a
    assert only_a.extend(instructions={"draft": ("B",)}).size == 2 + 2 * 2
    own = only_a.fix(instructions={"draft": None})
    assert {c.instructions.get("draft") for c in own.candidates()} == {None}
    assert own.size == 1 + 2
    assert not any(c.instructions for c in space.fix(instructions=None).candidates())
    assert space.narrow(instructions={"draft": ("B",)}).instructions == {"draft": ("B",), "refine": ("C",)}
    assert space.narrow(instructions={"draft": ()}).size == 1 + 2
    assert only_a.narrow(instructions={"draft": ()}).size == 1 + 2


def test_demonstrations_are_fixed_narrowed_and_extended_by_role() -> None:
    other = dspy.Example(question="3+3", answer="6", augmented=True).with_inputs("question")
    space = Space(rounds=(1,)).extend(demos={"draft": (SHOT, [other])})
    assert space.demos == {"draft": (SHOT, ({"question": "3+3", "answer": "6", "augmented": True},))}
    assert space.extend(demos={"draft": (list(SHOT),)}) == space
    assert [c.demos.get("draft") for c in space.candidates()] == [None, *space.demos["draft"]]
    assert [c.demos for c in space.fix(demos={"draft": SHOT}).candidates()] == [{"draft": SHOT}]
    assert space.narrow(demos={"draft": ([other],)}).size == 2
    assert space.fix(demos=None).size == 1


def test_a_candidate_with_demonstrations_goes_through_json_into_a_program_and_back() -> None:
    candidate = Candidate(Schedule(widths=(1,)), {"draft": "Count."}, {"draft": SHOT})
    again = read_candidate(json.loads(json.dumps(describe_candidate(candidate))))
    assert again == candidate
    assert again.key == candidate.key
    assert candidate.key != candidate._replace(demos={}).key
    assert str(candidate) == "LongCoT + draft instructions + draft demos"
    space = Space(rounds=(1,), instructions={"draft": ("Count.",)}, demos={"draft": (SHOT,)})
    assert again in space
    assert space.params_of(again) == {"draft_instructions": 1, "draft_demos": 1}
    student = LongCoT("question -> answer")
    program = program_with(student, candidate)
    assert [dict(demo) for demo in program.draft.demos] == list(SHOT)  # type: ignore[attr-defined]
    assert not student.draft.demos  # type: ignore[attr-defined]
    lm = engine()
    with dspy.context(lm=lm):
        program(question="5+5")
    sent = lm.served.requests[0].request.messages
    assert [message.role for message in sent] == ["user", "assistant", "user"]
    cleared = program_with(program, candidate._replace(demos={"draft": ()}))
    assert not cleared.draft.demos  # type: ignore[attr-defined]


def test_demonstrations_come_out_of_a_program_that_another_optimizer_made() -> None:
    train = [dspy.Example(question=f"q{n}", answer="1").with_inputs("question") for n in range(4)]
    student = PDR("question -> answer", widths=(2, 1), distiller="summary")
    with dspy.context(lm=engine(lambda _: "Count.\nAnswer: 1")):
        tuned = dspy.BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0).compile(student, trainset=train)
    sets = demos_of(tuned)
    assert set(sets) == {"draft", "refine", "distill"}
    space = Space(rounds=(1, 2), widths=(2,), distiller=("summary",)).extend(demos=sets)
    assert space.size == 2 + 2**3
    assert Space(**json.loads(space.model_dump_json())) == space
    check_demos(student.task, sets)
    identities = questions_in(student.task, sets)
    assert 0 < len(identities) <= 2
    assert identities < {calls.identity({"question": example.question}) for example in train}
    assert demos_of(student) == {}
    again = program_with(student, next(c for c in space.candidates() if len(c.demos) == 3))
    lm = engine()
    for program in (tuned, again):
        with dspy.context(lm=lm):
            program(question="q9")
    requests = [request.request.messages for request in lm.served.requests]
    assert requests[: len(requests) // 2] == requests[len(requests) // 2 :]  # the same prompts, word for word
    with pytest.raises(ConfigError, match="holds no LongCoT"):
        demos_of(dspy.Predict("question -> answer"))


@pytest.mark.parametrize(
    ("demo", "message"),
    [({"answer": "4"}, "no 'question'"), ({"question": "q", "reply": "4"}, "shows no output")],
)
def test_a_demonstration_that_would_not_be_shown_is_refused(demo: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        program_with(LongCoT("question -> answer"), Candidate(Schedule(widths=(1,)), {}, {"draft": (demo,)}))


def test_a_space_reads_as_a_table() -> None:
    space = WIDE.extend(instructions={"draft": ("Work backwards from what is asked for, always.",)})
    lines = str(space.fix(instructions={"select": "Pick."})).splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    assert (
        len({line.index(word) for line, word in zip(lines[:4], ("applies", "always", "each", "where"), strict=True)})
        == 1
    )
    assert "1, 2, 4, never rising" in rows["widths"]
    assert "as draft_tokens" in rows["refine_tokens"]
    assert 'the student\'s own, "Work backwards from what is ..."' in rows["draft instructions"]
    assert "the student's own, 1 demonstration, 0 demonstrations" in rows["draft demos"]
    assert rows["select instructions"].split("  ")[1].strip() == '"Pick."'
    assert repr(WIDE).startswith("Space(")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.fix(kappa=(200,)), "`Space.fix(kappa=(200,))` is not one value"),
        (lambda s: s.narrow(kappa=200), "`Space.narrow(kappa=200)` must be a list"),
        (lambda s: s.extend(distiller="topk"), "`Space.extend(distiller='topk')` must be a list"),
        (lambda s: s.narrow(monotone=False), "use `extend`"),
        (lambda s: s.extend(monotone=False).extend(monotone=True), "use `narrow`"),
        (lambda s: s.fix(instructions="Think."), "must map roles (draft, refine"),
        (lambda s: s.fix(instructions={"draft": ("A", "B")}), "which is not a text"),
        (lambda s: s.narrow(instructions={"draft": ("A",)}), "not in the space; use `extend`"),
        (lambda s: s.extend(instructions={"draft": "A"}), "must be a list"),
        (lambda s: s.extend(instructions={"draft": ("  ",)}), "an empty text"),
        (lambda s: s.extend(instructions={"judge": ("A",)}), "the role 'judge'"),
        (lambda s: s.extend(demos={"judge": (SHOT,)}), "the role 'judge'"),
        (lambda s: s.extend(demos={"draft": SHOT}), "a set is a list too"),
        (lambda s: s.extend(demos={"draft": ([{"answer": object()}],)}), "plain JSON data"),
        (lambda s: s.extend(demos={"draft": ([3],)}), "plain JSON data"),
        (lambda s: s.narrow(demos={"draft": (SHOT,)}), "not in the space; use `extend`"),
        (lambda s: s.fix(fixed=("draft_instructions",)), "names 'draft_instructions'"),
    ],
)
def test_a_change_that_cannot_be_is_named(change: Callable[[Space], Space], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change(WIDE)
    assert message in str(caught.value)


def test_json_both_ways() -> None:
    for space in (WIDE, WIDE.fix(instructions={"refine": "Look again."}, demos={"draft": SHOT})):
        assert Space(**json.loads(space.model_dump_json())) == space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": ()}, "Space(widths=())` is empty"),
        ({"widths": (0, 1)}, "width below 1"),
        ({"widths": (2, 2)}, "a duplicate candidate"),
        ({"rounds": (0,)}, "must be from 1 to 16"),
        ({"kappa": (40,), "k": (2,)}, "goes below the 48 tokens"),
        ({"distiller": ("oracle_correct",)}, "gold answers"),
        ({"distiller": ("last", "summary")}, "leave it out"),
        ({"temperature": (3.0,)}, "must be in [0, 2]"),
        ({"instructions": {"judge": ("x",)}}, "the role 'judge'"),
        ({"instructions": {"draft": ("x", "x")}}, "a duplicate candidate"),
        ({"demos": {"judge": ()}}, "the role 'judge'"),
        ({"demos": 3}, "demos"),
        ({"foo": (1,)}, "foo"),
    ],
)
def test_bad_spaces_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Space(**values)


def test_canonical_is_equal_for_schedules_that_make_the_same_calls() -> None:
    one = Schedule(widths=(1,), kappa=300, k=1, distiller="summary")
    other = Schedule(widths=(1,), kappa=900, distiller="random_k", distill_tokens=5)
    assert Candidate(one, {}).key == Candidate(other, {}).key
    wide = Schedule(widths=(4, 1), distiller="summary", k=3)
    assert canonical(wide) == canonical(wide.replace(k=1))
    assert canonical(wide) != canonical(wide.replace(kappa=100))


def test_prediction_of_costs() -> None:
    profile = {Phase.DRAFT.value: PhaseCost(calls=8, input=80, output=160, stages=2, prompt=20, longest=60)}
    one = predict(Schedule(widths=(1,)), profile)
    assert one == (40, 40)  # the longest of a stage, not the mean call
    wide = predict(Schedule(widths=(4, 1), distiller="random_k"), profile)
    assert wide == (40 + 50 + 30, 4 * 30 + 50 + 20)  # a refinement reads the prompt and k drafts besides
    assert predict(Schedule(widths=(1,), draft_tokens=5), profile) == (15, 15)
    assert predict(Schedule(widths=(1,)), {}) is None


def test_a_quorum_costs_less_latency_and_no_more_tokens() -> None:
    profile = {Phase.DRAFT.value: PhaseCost(calls=8, input=80, output=160, stages=2, prompt=20, longest=60)}
    costs = [predict(Schedule(widths=(8, 1), distiller="random_k", quorum=n / 8), profile) for n in range(1, 9)]
    plain = predict(Schedule(widths=(8, 1), distiller="random_k"), profile)
    assert costs[-1] == plain
    known = [cost for cost in costs if cost is not None]
    assert [cost.sequential for cost in known] == sorted({cost.sequential for cost in known})
    assert [cost.total for cost in known] == sorted(cost.total for cost in known)
    # drafts of 10 to 30 tokens, evenly spread: the fourth of eight ends with 10 + 20 * 3 / 7
    assert known[3].sequential == round(10 + 10 + 20 * 3 / 7 + 10 + 2 * 20 + 30)
    assert predict(Schedule(widths=(8, 1), distiller="random_k", agree=0.95), profile) == plain


def test_what_was_left_says_nothing_of_what_a_call_costs() -> None:
    def made(output: int, **more: Any) -> Call:
        return Call(phase=Phase.DRAFT, usage=Usage(input=10, output=output), **more)

    cut = [made(20, fate="taken"), made(40, fate="taken"), made(5, fate="left", finish="cancelled")]
    rows = [Row(id="a", repeat=0, seed=0, score=1.0, calls=tuple(calls)) for calls in (cut, cut[:2])]
    assert profile_of(rows[:1]) == profile_of(rows[1:])


def test_the_requests_of_a_turn_cost_together_what_its_call_costs() -> None:
    def made(index: int, part: int, tokens: int) -> Call:
        return Call(phase=Phase.DRAFT, index=index, part=part, usage=Usage(input=10, output=tokens))

    calls = (made(0, 0, 20), made(1, 0, 30), made(0, 2, 15))
    row = Row(id="a", repeat=0, seed=0, score=1.0, calls=calls)
    assert profile_of([row]) == {"draft": PhaseCost(calls=2, input=30, output=65, stages=1, prompt=20, longest=35)}


def test_rounds_that_end_early_are_axes_where_a_round_is_wide() -> None:
    space = Space(rounds=(1, 2), widths=(1, 4), distiller=("random_k",)).extend(quorum=[0.5], agree=[0.9])
    wide = [schedule for schedule in space.schedules() if max(schedule.widths) > 1]
    assert {(schedule.quorum, schedule.agree) for schedule in wide} == {
        (1.0, None),
        (1.0, 0.9),
        (0.5, None),
        (0.5, 0.9),
    }
    assert space.size == len(wide) + 2
    for schedule in space.schedules():
        assert schedule in space
    assert Schedule(widths=(4, 1), distiller="random_k", quorum=0.25) not in space
    assert canonical(Schedule(widths=(1,), quorum=0.5, agree=0.9)) == canonical(Schedule(widths=(1,)))
    own = Space.default_for(Schedule(quorum=0.5, agree=0.9))
    assert (own.quorum, own.agree) == ((0.5,), (0.9,))
    with pytest.raises(ConfigError, match=r"agree=0\.5"):
        space.extend(agree=[0.5])


def test_the_data_of_a_space_that_waits_for_all_is_what_it_was() -> None:
    assert not {"quorum", "agree"} & Space().model_dump(mode="json").keys()
    space = Space(quorum=(1.0, 0.5), agree=(None, 0.95))
    assert Space(**space.model_dump(mode="json")) == space


class Item(NamedTuple):
    score: float
    sequential: float
    total: float


def test_front_and_best_on_hand_made_points() -> None:
    a, b, c, d = Item(0.2, 10, 10), Item(0.5, 20, 40), Item(0.5, 20, 50), Item(0.4, 30, 30)
    assert dominates(b, c)
    assert not dominates(a, b)
    assert front([a, b, c, d]) == [a, d, b]
    assert front([b, b]) == [b]
    assert best([a, b, c, d]) == b
    assert best([a, b, c, d], Limits(sequential=15)) == a
    assert best([a, b, c, d], Limits(total=5)) is None


def test_front_is_what_brute_force_says() -> None:
    draw = random.Random(3)
    items = [Item(draw.randrange(9) / 8, draw.randrange(6), draw.randrange(6)) for _ in range(120)]
    kept = front(items)
    for item in items:
        beaten = any(dominates(other, item) for other in items)
        assert (item in kept) == (not beaten)


def test_deep_spaces_are_listed_without_going_through_every_product_of_widths() -> None:
    deep = Space(rounds=(16,), widths=(1, 2, 4, 8), distiller=("random_k",), k=(1,))
    assert deep.size == 816  # 15 falling widths out of 4: C(18, 3)
    assert next(deep.schedules()).widths == (1,) * 16
