"""Instructions written in rounds: for the schedules that lead, from their failures, and raced on them first."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.reporting import search_tables
from pdr_dspy.reporting.page import write_report
from pdr_dspy.search import Instructions, Limits, PDROptimizer, Proposal, Proposals, SearchProgress, Spaces
from pdr_dspy.search.candidates import REFLECTION
from pdr_dspy.search.driver.journal import read_journal
from pdr_dspy.search.proposing.written_instructions import children, earlier_of, parents_of, together
from pdr_dspy.search.racing.requests import Tried
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, reasoner, shape, student

WRITER = "You improve the instructions"
SEARCH: dict[str, Any] = {
    "space": SMALL,
    "trials": 20,
    "cohort": 6,
    "prompts": 2,
    "prompt_rounds": 3,
    "finalists": 2,
    "finalist_repeats": 1,
    "confirm_repeats": 1,
    "max_in_flight": 4,
}


def text_of(request: ScriptedRequest) -> str:
    """An instruction that differs for every call."""
    digest = hashlib.sha256(repr((request.user, request.seed)).encode()).hexdigest()
    words = [
        digest[place : place + 5].translate(str.maketrans("0123456789", "ghijklmnop")) for place in range(0, 40, 5)
    ]
    return f"Consider {', '.join(words)} in this order."


def reply(request: ScriptedRequest) -> str:
    return text_of(request) if request.system.startswith(WRITER) else reasoner(request)


def asked(lm: ScriptedLM) -> list[ScriptedRequest]:
    return [request for request in lm.served.requests if request.system.startswith(WRITER)]


def searched(lm: ScriptedLM, **settings: Any) -> PDROptimizer:
    optimizer = PDROptimizer(Exact(), **{**SEARCH, **settings})
    with dspy.context(lm=lm):
        optimizer.compile(student(), trainset=questions(8), valset=questions(8, 100))
    return optimizer


@pytest.mark.slow
def test_each_round_reflects_on_what_leads_then_and_its_texts_race_there_first(tmp_path: Path) -> None:
    lm = scripted_lm(reply)
    result = searched(lm, run_dir=tmp_path).result
    assert result is not None
    assert result.proposals is not None
    rounds = {n: [one for one in result.proposals.proposals if one.round == n] for n in (1, 2, 3)}
    # At first only one draft is known, later schedules that refine and distill.
    assert {one.role.value for one in rounds[1]} == {"draft"}
    assert {one.role.value for one in rounds[3]} == {"draft", "refine", "distill"}
    prompts = asked(lm)
    assert len(prompts) == len(result.proposals.ledger)
    first, later = prompts[:2], prompts[-6:]
    for prompt in prompts:
        assert not re.search(r"q1\d\d", prompt.user), "held out"
        assert "Under it, with the current instructions, the program scores 0." in prompt.user
        assert "Right is: a" in prompt.user
    assert all("Round 2:" not in prompt.user and "Earlier texts: (none)" in prompt.user for prompt in first)
    assert all("Round 2: one draft, which reads it" in prompt.user for prompt in later)
    assert all(re.search(r"Scored 0\.\d\d of 1 under (this|another) schedule", prompt.user) for prompt in later)
    assert any("The workspace was:" in prompt.user for prompt in later)
    # A text's first trial is its parent with this text.
    origins = Counter(trial.origin for trial in result.trials)
    assert origins[REFLECTION] >= 6
    for trial in result.trials:
        if trial.origin == REFLECTION:
            own = [one for one in result.proposals.proposals if one.text in trial.instructions.values()]
            (new,) = [one for one in own if not _tried_before(one.text, trial.number, result.trials)]
            assert new.parent is not None
            assert trial.schedule == result.trials[new.parent].schedule
            assert trial.instructions == {**result.trials[new.parent].instructions, new.role.value: new.text}
            assert result.trials[new.parent].cohort < trial.cohort
    # Every token is paid once, and a stored search is read.
    assert result.paid == lm.served.input + lm.served.output
    assert {call.phase for call in result.proposals.ledger.calls} == {Phase.PROPOSE}
    journal = read_journal(tmp_path)
    assert journal is not None
    assert journal.names("prompts") == ["prompts", "prompts/002", "prompts/003"]
    facts = search_tables.read_search(tmp_path)
    rows = {(one.text, one.round, one.parent) for one in search_tables.written(facts.trials, facts.proposals)}
    assert rows == {(one.text, one.round, one.parent) for one in result.proposals.proposals}
    assert "improves trial" in write_report(tmp_path).read_text()
    again = scripted_lm(reply)
    assert shape(searched(again, run_dir=tmp_path)) == shape_of(result)
    assert again.served.calls == 0


def _tried_before(text: str, number: int, trials: Any) -> bool:
    return any(text in trial.instructions.values() for trial in trials[:number])


def shape_of(result: Any) -> list[Any]:
    optimizer = PDROptimizer(Exact())
    optimizer.result = result
    return shape(optimizer)


def texts_in(folder: Path) -> list[str]:
    """The texts of the writer's calls in a rollout store."""
    with Rollouts(folder / "rollouts") as store:
        return [rollout.text for rollout in store if rollout.text.startswith("Consider ")]


def killed_after(folder: str, count: int) -> None:
    """Search, and be killed in the middle of writing, before the call after so many is answered."""
    made = 0

    def dying(request: ScriptedRequest) -> str:
        nonlocal made
        if request.system.startswith(WRITER):
            made += 1
            if made > count:
                os.kill(os.getpid(), signal.SIGKILL)
        return reply(request)

    searched(scripted_lm(dying), run_dir=folder, max_in_flight=1)


@pytest.mark.slow
def test_kill_9_in_the_middle_of_writing_loses_and_repeats_no_finished_call(tmp_path: Path) -> None:
    whole_lm = scripted_lm(reply)
    whole = searched(whole_lm, run_dir=tmp_path / "whole")
    assert whole.result is not None
    names = sorted(map(text_of, asked(whole_lm)))
    assert names == sorted(texts_in(tmp_path / "whole"))
    for count in (1, 6):  # in the first round, and in the second
        folder = tmp_path / str(count)
        code = f"import tests.search.test_reflection as t; t.killed_after({str(folder)!r}, {count})"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert ended.returncode == -signal.SIGKILL
        there = texts_in(folder)
        assert len(there) == count
        again = scripted_lm(reply)
        resumed = searched(again, run_dir=folder)
        assert sorted([*there, *map(text_of, asked(again))]) == names
        assert shape(resumed) == shape(whole)
        assert resumed.result is not None
        assert resumed.result.paid == whole.result.paid
        assert resumed.result.proposals is not None
        assert whole.result.proposals is not None
        assert resumed.result.proposals.proposals == whole.result.proposals.proposals


@pytest.mark.slow
def test_texts_and_trials_do_not_depend_on_the_requests_in_flight() -> None:
    one, many = scripted_lm(reply), scripted_lm(reply)
    assert shape(searched(one, max_in_flight=1)) == shape(searched(many, max_in_flight=64))
    assert sorted(map(text_of, asked(one))) == sorted(map(text_of, asked(many)))


@pytest.mark.slow
def test_a_longer_search_goes_on_with_the_rounds_that_it_had_not_reached(tmp_path: Path) -> None:
    first = scripted_lm(reply)
    short = searched(first, run_dir=tmp_path, trials=7).result  # the baseline and one cohort
    assert short is not None
    assert short.proposals is not None
    assert {one.round for one in short.proposals.proposals} == {1}
    again, alone = scripted_lm(reply), scripted_lm(reply)
    longer = searched(again, run_dir=tmp_path)
    assert shape(longer) == shape(searched(alone))
    assert sorted(map(text_of, [*asked(first), *asked(again)])) == sorted(map(text_of, asked(alone)))
    with pytest.raises(StoreError, match="`prompt_rounds` was 3 and is now 2"):
        searched(scripted_lm(reply), run_dir=tmp_path, prompt_rounds=2)


@pytest.mark.slow
def test_no_cohort_begins_when_writing_has_reached_the_most_tokens() -> None:
    spent: list[SearchProgress] = []
    searched(scripted_lm(reply), trials=12, progress=spent.append)
    before = next(step.paid for step in spent if step.event == "proposing")
    lm = scripted_lm(reply)
    result = searched(lm, trials=12, max_tokens=before + 1).result
    assert result is not None
    assert len(asked(lm)) == 2
    assert len(result.trials) == 1
    assert "`max_tokens` is" in result.stopped


@pytest.mark.slow
def test_a_space_that_is_exhausted_grows_with_the_next_round() -> None:
    lm = scripted_lm(reply)
    result = searched(lm, space=SMALL.fix(rounds=1), trials=9).result  # one program without instructions
    assert result is not None
    assert [trial.instructions != {} for trial in result.trials] == [False] + [True] * 6
    assert len(asked(lm)) == 6


# --- parents, children and earlier texts ---

DRAFT, PAIR = Schedule(widths=(1,), draft_tokens=60), Schedule(widths=(2, 1), draft_tokens=60, kappa=200)
WIDE = Schedule(widths=(4, 1), draft_tokens=60, kappa=200)


def tried(candidate: Schedule | Candidate, score: float, total: float = 100.0, **instructions: str) -> Tried:
    own = candidate if isinstance(candidate, Candidate) else Candidate(candidate, instructions)
    return Tried(own, score, total, total, 8)


def test_parents_are_the_best_of_different_schedules_within_the_limits() -> None:
    known = [
        tried(DRAFT, 0.5),
        tried(PAIR, 0.6, 200),
        tried(PAIR, 0.7, 200, draft="New."),
        tried(WIDE, 0.65, 400),
        tried(WIDE, 0.9, 900, refine="New."),
    ]
    assert parents_of(SMALL, known, Limits(total=500)) == {"draft": [2, 3], "refine": [2, 3], "distill": [2, 3]}
    assert parents_of(SMALL, known, Limits()) == {"draft": [4, 2], "refine": [4, 2], "distill": [4, 2]}
    assert parents_of(SMALL, known[:1], Limits(), last=False) == {"draft": [0]}
    assert parents_of(SMALL, known[:1], Limits()) == {"draft": [0], "refine": [], "distill": []}
    assert parents_of(SMALL, known[:1], Limits(), mixed=True, last=False) == {}
    assert parents_of(SMALL.fix(instructions={"draft": "So."}), known, Limits()).keys() == {"refine", "distill"}


def test_earlier_texts_come_with_the_best_trial_that_called_them() -> None:
    known = [
        tried(DRAFT, 0.5, draft="A.", refine="never called"),
        tried(PAIR, 0.6, draft="A."),
        tried(PAIR, 0.7),
        tried(WIDE, 0.4, draft="B.", refine="R."),
    ]
    assert [(one.text, one.score, one.schedule) for one in earlier_of(known, "draft", "Own.")] == [
        ("Own.", 0.7, PAIR),
        ("A.", 0.6, PAIR),
        ("B.", 0.4, WIDE),
    ]
    assert [one.text for one in earlier_of(known, "refine", "Own.")] == ["Own.", "R."]


def written(*texts: tuple[str, str, int, int | None]) -> Proposals:
    made = [Proposal(role=r, text=t, tokens=3, tip="plain", round=n, parent=p) for r, t, n, p in texts]  # type: ignore[arg-type]
    return Proposals(proposals=tuple(made))


def test_children_are_their_parents_with_the_text_the_newest_first_and_the_roles_in_turn() -> None:
    known = [tried(DRAFT, 0.5), tried(PAIR, 0.6), tried(WIDE, 0.7, draft="Used.")]
    proposals = written(
        ("draft", "Used.", 1, 0),
        ("draft", "Old.", 1, 0),
        ("draft", "D1.", 2, 1),
        ("draft", "D2.", 2, 2),
        ("refine", "R1.", 2, 1),
        ("distill", "S1.", 2, None),
    )
    space = SMALL.extend(instructions=proposals.instructions)
    assert list(children(proposals, known, space, Limits())) == [
        Candidate(PAIR, {"draft": "D1."}),
        Candidate(PAIR, {"refine": "R1."}),
        Candidate(WIDE, {"draft": "Used.", "distill": "S1."}),  # without a parent: what leads
        Candidate(WIDE, {"draft": "D2."}),
        Candidate(DRAFT, {"draft": "Old."}),
    ]
    assert list(children(None, known, space, Limits())) == []


def test_a_text_waits_until_a_schedule_of_the_space_calls_its_role() -> None:
    proposals = written(("refine", "R.", 1, None), ("draft", "D.", 1, 0))
    space = SMALL.fix(rounds=2).extend(instructions=proposals.instructions)
    assert list(children(proposals, [tried(DRAFT, 0.9)], space, Limits())) == []  # one draft is not in the space
    known = [tried(DRAFT, 0.9), tried(PAIR, 0.3)]
    assert list(children(proposals, known, space, Limits())) == [
        Candidate(PAIR, {"refine": "R."}),
        Candidate(PAIR, {"draft": "D."}),
    ]
    assert [one.instructions for one in children(proposals, known, space, Limits(total=50))] == []


def test_with_separate_spaces_a_text_is_given_to_every_operator_that_calls_its_role() -> None:
    parts = joint({"solve": Candidate(PAIR, {"draft": "Own."}), "extract": Candidate(DRAFT, {})})
    proposals = written(("refine", "R.", 1, 0), ("draft", "D.", 1, 0))
    space = Spaces(operators={"solve": SMALL, "extract": SMALL}).extend(
        instructions={"draft": ("Own.", "D."), "refine": ("R.",)}
    )
    refine, draft = children(proposals, [tried(parts, 0.5)], space, Limits())
    assert {place: part.instructions for place, part in refine.parts.items()} == {
        "solve": {"draft": "Own.", "refine": "R."},
        "extract": {},
    }
    assert {place: part.instructions for place, part in draft.parts.items()} == {
        "solve": {"draft": "D."},
        "extract": {"draft": "D."},
    }


def test_rounds_together_are_one_value() -> None:
    first = Proposals(proposals=written(("draft", "A.", 1, 0)).proposals, model="m", shown=("x", "y"))
    second = Proposals(proposals=written(("draft", "B.", 2, 1)).proposals, model="m", shown=("y", "z"))
    both = together({2: second, 1: first})
    assert both is not None
    assert both.instructions == {"draft": ("A.", "B.")}
    assert both.shown == ("x", "y", "z")
    assert Proposals(**json.loads(both.model_dump_json())) == both
    assert together({}) is None


# --- settings ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PDROptimizer(Exact(), prompt_rounds=0), "prompt_rounds=0"),
        (lambda: PDROptimizer(Exact(), prompt_rounds=None), "prompt_rounds=None"),  # type: ignore[arg-type]
        (lambda: PDROptimizer(Exact(), reflection_lm=scripted_lm(reply)), "did you mean `prompt_model=`"),  # type: ignore[call-arg]
        (lambda: PDROptimizer(Exact(), num_candidates=3), "did you mean `prompts=`"),  # type: ignore[call-arg]
        (lambda: Instructions(prompt_model=scripted_lm(reply)), r"is `Instructions\(model=...\)`"),  # type: ignore[call-arg]
        (lambda: Instructions(reflection_lm=scripted_lm(reply)), r"is `Instructions\(model=...\)`"),  # type: ignore[call-arg]
    ],
)
def test_names_of_others_and_wrong_values_are_answered_with_the_right_one(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_one_round_is_stored_as_before_there_were_several() -> None:
    assert Instructions(count=2).model_dump(mode="json") == {"count": 2}
    assert Instructions(count=2, rounds=3).model_dump(mode="json") == {"count": 2, "rounds": 3}
