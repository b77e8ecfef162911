"""Checks that ask a model, inside the loop: picked by, shown, stopped at, counted, cancelled, replayed and saved."""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import PDR, SR, BestOfN, calls, load, save
from pdr_dspy.calls import Call, CallError, Phase, Rollouts, Usage
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.serving import EndpointLM, connect
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import (
    CHECKS,
    CalibratedCheck,
    Calibration,
    CodeCheck,
    JudgeCheck,
    PairwiseCheck,
    RewardCheck,
    RewardModel,
    StepReward,
    register_check,
)
from pdr_dspy.verifiers.sandbox import bubblewrap
from tests.support.checks import ask, says
from tests.support.mock_server import MockServer
from tests.support.served_models import MODEL_CHECKS, connected, logprobs, served, until, without_pauses

QA = "question -> answer"
WHY = bubblewrap.missing()
SMALL: dict[str, Any] = {"draft_tokens": 60, "kappa": 200}
MARKS = {"a": 0.1, "b": 0.9, "c": 0.5}


def marked(text: str) -> float:
    """What every model of the mock thinks of a draft: the mark of its answer."""
    found = re.findall(r"Answer: (\w)", text)
    return MARKS.get(found[-1], 0.3) if found else 0.2


def verdict(body: dict[str, Any], seed: int) -> Any:
    prompt = body["messages"][-1]["content"]
    if "Reply A or B" in prompt:
        a, b = (marked(part) for part in prompt.split("Answer B:"))
        share = 0.9 if a > b else 0.1 if a < b else 0.5
        return logprobs(A=share, B=1 - share)
    return logprobs(Yes=marked(prompt), No=1 - marked(prompt))


def figures(path: str, body: dict[str, Any]) -> Any:
    if path == "/classify":
        mark = marked(body["messages"][-1]["content"])
        return [[math.log(mark / (1 - mark))]]
    if path == "/pooling":
        steps = body["messages"][-1]["content"].split("<extra_0>")[:-1]
        return [[[0.0, marked(step)] if "Answer" in step else [0.0, 1.0] for step in steps]]
    return [marked(one) for one in body["documents"]]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with served(verdict, figures) as running:
        yield running


@pytest.fixture
def judge(server: MockServer) -> Iterator[EndpointLM]:
    with connected(server) as lm:
        yield lm


@pytest.mark.parametrize("kind", MODEL_CHECKS)
def test_the_best_of_n_by_a_served_check(judge: EndpointLM, kind: str) -> None:
    prediction = ask(BestOfN(QA, n=4, check=MODEL_CHECKS[kind](judge), **SMALL), says("a", "c", "b", "a"))
    assert prediction.answer == "b"
    found = [draft.score for draft in prediction.rounds[0].drafts]
    assert found == pytest.approx([0.1, 0.5, 0.9, 0.1])
    assert [draft.check.failure for draft in prediction.rounds[0].drafts] == [None] * 4


@pytest.mark.parametrize("kind", [*MODEL_CHECKS, "pairwise"])
def test_its_tokens_are_on_the_ledger_and_on_the_path(server: MockServer, judge: EndpointLM, kind: str) -> None:
    check = PairwiseCheck(judge, comparisons=2) if kind == "pairwise" else MODEL_CHECKS[kind](judge)
    ledger = ask(BestOfN(QA, n=4, check=check, **SMALL), says("a", "c", "b", "x")).ledger
    checks = [call for call in ledger.calls if call.phase is Phase.CHECK]
    drafts = [call.tokens for call in ledger.calls if call.phase is Phase.DRAFT]
    assert len(checks) == len(server.posted) + len(server.requests)
    assert all(call.round == 1 and call.model == judge.model and call.tokens for call in checks)
    assert ledger.total == sum(drafts) + sum(call.tokens for call in checks)
    waves = {call.wave: 0 for call in checks}
    for call in checks:
        waves[call.wave] = max(waves[call.wave], call.tokens)
    assert ledger.sequential == max(drafts) + sum(waves.values())
    assert len(waves) == (2 if kind == "pairwise" else 1)


def test_drafts_of_a_round_are_judged_side_by_side(server: MockServer, judge: EndpointLM) -> None:
    server.hold_until = 4  # nothing is answered until all four are asked
    prediction = ask(BestOfN(QA, n=4, check=JudgeCheck(judge), **SMALL), says("a", "c", "b", "x"))
    assert (prediction.answer, server.peak) == ("b", 4)


def test_drafts_that_a_check_cannot_tell_apart_are_asked_about_once(server: MockServer, judge: EndpointLM) -> None:
    ask(BestOfN(QA, n=4, check=JudgeCheck(judge, field="answer"), **SMALL), says("a", "b", "a", "b"))
    assert len(server.requests) == 2
    ask(BestOfN(QA, n=4, check=JudgeCheck(judge), **SMALL), says("a", "b", "a", "b"))
    assert len(server.requests) == 2 + 4  # here the work differs, and the judge reads it


def test_pairs_decide_which_draft_is_the_answer(server: MockServer, judge: EndpointLM) -> None:
    program = PDR(QA, widths=(6, 3), distiller="checked", k=2, final="best", check=PairwiseCheck(judge), **SMALL)
    prediction = ask(program, says("a", "c", "a", "b", "a", "c", later="b"))
    first = prediction.rounds[0]
    best = max(first.drafts, key=lambda draft: draft.score)
    assert best.outputs["answer"] == "b"
    assert {first.drafts[place].outputs["answer"] for place in first.workspaces[0].sources} == {"b", "c"}
    assert prediction.answer == "b"


def test_what_only_compares_can_neither_stop_nor_keep(judge: EndpointLM) -> None:
    settings: list[dict[str, Any]] = [{"stop_at": 0.9}, {"keep": True}]
    for setting in settings:
        with pytest.raises(ConfigError, match=r"only compares the drafts of a round"):
            PDR(QA, widths=(4, 1), distiller="random_k", k=1, check=PairwiseCheck(judge), **setting)


def test_a_server_that_is_down_leaves_every_draft_unchecked_and_the_vote_decides() -> None:
    with MockServer() as gone:
        base = gone.api_base
    prediction = ask(BestOfN(QA, n=3, check=JudgeCheck(connect("m", base, timeout=5)), **SMALL), says("a", "b", "b"))
    assert prediction.answer == "b"
    checks = [call for call in prediction.ledger.calls if call.phase is Phase.CHECK]
    assert [draft.score for draft in prediction.rounds[0].drafts] == [None] * 3
    assert all("did not answer" in str(draft.check.failure) for draft in prediction.rounds[0].drafts)
    assert len(checks) == 3
    assert all(call.failure for call in checks)
    assert not prediction.ledger.exact


def test_one_draft_that_fails_to_be_checked_does_not_win(server: MockServer, judge: EndpointLM) -> None:
    server.scores = lambda path, body: [[math.nan]] if "Answer: b" in body["messages"][-1]["content"] else [[0.0]]
    prediction = ask(BestOfN(QA, n=3, check=RewardModel(judge), **SMALL), says("b", "a", "b"))
    assert [draft.score for draft in prediction.rounds[0].drafts] == [None, 0.5, None]
    assert prediction.answer == "a"
    checks = [call for call in prediction.ledger.calls if call.phase is Phase.CHECK]
    assert [call.failure is None for call in checks] == [False, True, False]
    assert all(call.usage.tokens for call in checks)


@pytest.mark.parametrize("kind", MODEL_CHECKS)
def test_a_draft_that_passes_cancels_the_others(judge: EndpointLM, kind: str) -> None:
    lm = says("a", "b", "c", "d", delays={2: math.inf, 3: math.inf})
    program = PDR(QA, widths=(4, 1), distiller="random_k", k=1, check=MODEL_CHECKS[kind](judge), stop_at=0.85, **SMALL)
    prediction = ask(program, lm)
    assert (prediction.answer, prediction.stop) == ("b", Stop.CHECKED)
    assert lm.served.cancelled == 2
    checks = [call for call in prediction.ledger.calls if call.phase is Phase.CHECK]
    assert [call.index for call in checks] == [0, 1]


def test_a_program_that_is_cancelled_lets_the_checks_requests_go(server: MockServer, judge: EndpointLM) -> None:
    server.gate = threading.Event()

    async def run() -> None:
        with dspy.context(lm=says("a", "b")):
            task = asyncio.create_task(BestOfN(QA, n=2, check=RewardModel(judge), **SMALL).aforward(question="q"))
            await until(lambda: server.in_flight == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.aborts == 2)
        await judge.aclose()

    asyncio.run(run())
    assert server.aborts == 2


@pytest.mark.parametrize("kind", [*MODEL_CHECKS, "pairwise"])
def test_a_replay_sends_nothing_and_comes_to_the_same(server: MockServer, judge: EndpointLM, kind: str) -> None:
    check = PairwiseCheck(judge) if kind == "pairwise" else MODEL_CHECKS[kind](judge)
    program = PDR(QA, widths=(3, 1), distiller="checked", k=1, check=check, **SMALL)
    store, runs = Rollouts(), []
    for _ in range(2):
        with calls.session(store=store):
            runs.append(ask(program, says("a", "b", "c", later="c")))
    first, again = runs
    assert again.answer == first.answer
    assert [draft.score for one in first.rounds for draft in one.drafts] == [
        draft.score for one in again.rounds for draft in one.drafts
    ]
    assert (again.ledger.total, again.ledger.sequential) == (first.ledger.total, first.ledger.sequential)
    assert again.ledger.paid == 0
    sent = len(server.posted) + len(server.requests)
    assert sent == len([call for call in first.ledger.calls if call.phase is Phase.CHECK and not call.reused])


def test_the_weakest_step_is_shown_to_the_next_draft(judge: EndpointLM) -> None:
    lm = says("a")
    ask(SR(QA, rounds=2, check=StepReward(judge), **SMALL), lm)
    assert "Check result: 0.10 of 1: The weakest is step 1 of 1, with 0.10" in lm.served.requests[-1].user


# --------------------------------------------------------------------------------------------- a check of a whole round


@dataclass
class Ranks:
    """Scores a round together, by its place in the alphabet."""

    calls: tuple[Call, ...] = ()
    fails: type[Exception] | None = None
    short: bool = False
    asked: list[list[str]] = field(default_factory=list)

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score((ord(outputs["answer"]) - 96) / 26)

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> list[Score | Exception]:
        self.asked.append([one["answer"] for one in outputs])
        if self.fails is not None:
            raise self.fails("the ranker is away", *self.calls)
        scores: list[Score | Exception] = [await self.acheck(inputs, one) for one in outputs]
        scores[0] = Score(float(scores[0]), "", self.calls)  # type: ignore[arg-type]
        return scores[1:] if self.short else scores


def test_a_round_is_checked_once_and_only_what_is_new() -> None:
    check = Ranks((Call(phase=Phase.JUDGE, usage=Usage(input=30, output=2)),))
    program = PDR(QA, widths=(4, 3), distiller="checked", k=1, final="best", check=check, **SMALL)
    prediction = ask(program, says("a", "c", "a", "b", later="z"))
    assert check.asked == [["a", "c", "b"], ["z"]]
    assert [draft.score is None for draft in prediction.rounds[0].drafts] == [False] * 4
    assert [call.tokens for call in prediction.ledger.calls if call.phase is Phase.CHECK] == [32, 32]
    assert prediction.answer == "z"


@pytest.mark.parametrize(
    "check",
    [
        Ranks((Call(phase=Phase.JUDGE, usage=Usage(input=9, output=0)),), CallError),
        Ranks((), ValueError),
        Ranks(short=True),
    ],
)
def test_a_round_that_could_not_be_checked_is_unchecked_and_paid_once(check: Ranks) -> None:
    prediction = ask(BestOfN(QA, n=3, check=check, **SMALL), says("a", "b", "b"))
    assert [draft.score for draft in prediction.rounds[0].drafts] == [None] * 3
    assert all(draft.check.failure for draft in prediction.rounds[0].drafts)
    assert prediction.answer == "b"
    paid = [call.tokens for call in prediction.ledger.calls if call.phase is Phase.CHECK]
    assert paid == ([9] if check.calls else [])


def test_a_round_that_is_misconfigured_is_no_affair_of_one_draft() -> None:
    with pytest.raises(ConfigError, match="the ranker is away"):
        ask(BestOfN(QA, n=2, check=Ranks((), ConfigError), **SMALL), says("a", "b"))


def test_drafts_that_may_end_a_round_are_checked_as_they_come() -> None:
    check = Ranks()
    prediction = ask(BestOfN(QA, n=3, check=check, stop_at=1.0, **SMALL), says("a", "z", "b", delays={2: math.inf}))
    assert (prediction.answer, check.asked) == ("z", [])


# ------------------------------------------------------------------------------------------ names, functions, and files


@pytest.fixture
def named() -> Iterator[str]:
    name = "tests.judge"
    register_check(name, RewardCheck(reward))
    yield name
    CHECKS.remove(name)


def reward(args: Mapping[str, Any], pred: dspy.Prediction) -> float:
    return MARKS.get(pred.answer, 0.0)


def test_a_registered_name_or_a_reward_function_is_a_check(named: str) -> None:
    for check in (named, reward):
        prediction = ask(BestOfN(QA, n=3, check=check, **SMALL), says("a", "b", "c"))
        assert prediction.answer == "b"
    assert BestOfN(QA, n=3, check=named).schedule.check == named
    several = PDR(QA, Schedule(widths=(2,), final="best", check="other"), check={"other": named, "mine": reward})
    assert several.checks["other"] == several.checks["mine"] == RewardCheck(reward)
    with pytest.raises(ConfigError, match="nobody"):
        BestOfN(QA, n=3, check="nobody")


def test_a_schedule_may_name_a_registered_check(named: str) -> None:
    program = PDR(QA, widths=(3, 1), distiller="random_k", k=1)
    checked = program.with_schedule(Schedule(widths=(3,), final="best", check=named, **SMALL))
    assert ask(checked, says("a", "b", "c")).answer == "b"
    assert program.checks == {}


def test_a_program_with_a_registered_check_is_saved_and_loaded(named: str, tmp_path: Path) -> None:
    path = save(BestOfN(QA, n=3, check=named, **SMALL), tmp_path / "best.json")
    loaded = load(path)
    assert ask(loaded, says("a", "b", "c")).answer == "b"  # type: ignore[arg-type]
    CHECKS.remove(named)
    with pytest.raises(ArtifactError, match=rf"uses the check '{named}' \(RewardCheck\).*register_check"):
        load(path)
    own = load(path, program=BestOfN(QA, n=2, check={named: RewardCheck(reward)}))
    assert ask(own, says("a", "b", "c")).answer == "b"  # type: ignore[arg-type]
    register_check(named, RewardCheck(reward))


def test_a_program_with_a_check_of_its_own_is_loaded_into_one_that_has_it(tmp_path: Path) -> None:
    path = save(BestOfN(QA, n=3, check=reward, **SMALL), tmp_path / "best.json")
    with pytest.raises(ArtifactError, match="cannot be stored in a file"):
        load(path)
    loaded = load(path, program=BestOfN(QA, n=1, check=reward))
    assert loaded.schedule.widths == (3,)  # type: ignore[union-attr]


def test_a_calibration_is_saved_with_its_program(named: str, tmp_path: Path) -> None:
    calibration = Calibration(
        threshold=0.6, target=0.9, precision=0.93, precision_interval=(0.8, 0.98), recall=0.5, auc=0.8,
        auc_interval=(0.7, 0.9), roc=((0.0, 0.5, 0.9), (1.0, 1.0, 0.1)), questions=50, answers=400, folds=5, seed=0,
    )  # fmt: skip
    check = CalibratedCheck(CHECKS.find(named), calibration)
    program = PDR(QA, widths=(3,), final="best", stop_at=check.threshold, check={named: check}, **SMALL).with_schedule(
        Schedule(widths=(3,), final="best", stop_at=check.threshold, check=named, **SMALL)
    )
    loaded = load(save(program, tmp_path / "best.json"))
    assert loaded.checks[named] == check  # type: ignore[union-attr]
    prediction = ask(loaded, says("a", "b", "c"))  # type: ignore[arg-type]
    assert (prediction.answer, prediction.rounds[0].drafts[-1].check.detail) == ("b", "reward 0.9; passes 0.6")


# ------------------------------------------------------------------------------------------------ programs as HumanEval


PROMPT = 'def double(x):\n    """Twice x.\n\n    >>> double(1)\n    2\n    >>> double(5)\n    10\n    """\n'


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None and not os.environ.get("CI"), reason=f"cannot isolate: {WHY}")
def test_programs_are_picked_shown_kept_and_stopped_at_by_the_examples_of_their_task() -> None:
    bodies = {0: "return x + 1", 1: "return x ** 2", 2: "return 2 * x"}
    seen: list[str] = []
    first: list[int] = []

    def reply(request: Any) -> str:
        if "Check result" in request.user:
            seen.append(request.user)
            return "```python\ndef double(x):\n    return x\n```"  # the refinement loses what the drafts had
        first[:] = first or [request.seed]
        return f"```python\ndef double(x):\n    {bodies[(request.seed - min(first)) % 3]}\n```"

    def run(**settings: Any) -> dspy.Prediction:
        first.clear()
        seen.clear()
        shape = {"widths": (3, 1), "distiller": "checked", "k": 2, "draft_tokens": 200, "kappa": 400}
        program = PDR("prompt -> code", check=CodeCheck(), **{**shape, **settings})
        with dspy.context(lm=scripted_lm(reply, directly=True)):
            return program(prompt=PROMPT)

    def code(prediction: dspy.Prediction) -> str:
        return str(prediction.code)

    blind = run()
    assert [draft.score for draft in blind.rounds[0].drafts] == [0.5, 0.0, 1.0]
    assert blind.rounds[0].workspaces[0].sources == (2, 0)
    assert "Failing: double(5)" in seen[0]
    assert "return x" in code(blind)
    assert "2 * x" in code(run(keep=True))
    assert "2 * x" in code(run(widths=(3,), final="best", distiller="random_k", k=1))
    ended = run(stop_at=1.0)
    assert ("2 * x" in code(ended), ended.stop, len(ended.rounds)) == (True, Stop.CHECKED, 1)
