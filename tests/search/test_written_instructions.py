"""Instructions that a search asks for: once, of the failures of its own questions, and paid for."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.reporting import search_tables
from pdr_dspy.reporting.page import write_report
from pdr_dspy.search import PDROptimizer, RunOptions, SearchProgress, Space
from pdr_dspy.search.driver.controller import INSTRUCTIONS, instructions_in
from pdr_dspy.search.driver.journal import Journal
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.proposing.written_instructions import extended, roles_of
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, questions, shape, student

pytestmark = pytest.mark.slow

SPACE = SMALL.fix(rounds=1)
SHEET = "Carefully compare every step with the sheet before you state what it comes to."
WRITER = "You improve the instructions"


def obedient(request: ScriptedRequest) -> str:
    """Writes two different instructions; solves every question when it was told of the sheet, else every third."""
    if request.system.startswith(WRITER):
        return SHEET if (request.seed or 0) % 2 else "Think about something that is wholly different, and say so aloud."
    name = re.search(r"Question: q(\d+)", request.user)
    assert name is not None
    right = "the sheet" in request.system or int(name[1]) % 3 == 0
    return f"Answer: {'a' + name[1] if right else 'w'}"


def asked(lm: ScriptedLM) -> list[ScriptedRequest]:
    return [request for request in lm.served.requests if request.system.startswith(WRITER)]


def searched(lm: ScriptedLM, **settings: Any) -> PDROptimizer:
    few: dict[str, Any] = {"space": SPACE, "trials": 6, "prompts": 3, "confirm_repeats": 2, "max_in_flight": 4}
    keywords: dict[str, Any] = {**few, **settings}
    optimizer = PDROptimizer(Exact(), **keywords)
    with dspy.context(lm=lm):
        optimizer.compile(student(), trainset=questions(12), valset=questions(12, 100))
    return optimizer


def test_instructions_are_written_of_failures_tried_and_returned(tmp_path: Path) -> None:
    lm = scripted_lm(obedient)
    seen: list[SearchProgress] = []
    result = searched(lm, run_dir=tmp_path, progress=seen.append).result
    assert result is not None
    assert result.best.instructions == {"draft": SHEET}
    assert result.confirmation.kept == "winner"
    assert [event.what for event in seen if event.event == "proposing"] == ["3 instructions each for draft"]
    prompts = asked(lm)
    assert len(prompts) == 3
    for prompt in prompts:
        assert "Answered: w" in prompt.user
        assert not re.search(r"q1\d\d", prompt.user), "held out"
    # The writer's calls are paid by the search, and kept with it.
    assert result.proposals is not None
    assert result.proposals.ledger.total > 0
    assert result.paid == lm.served.input + lm.served.output
    kept = json.loads((tmp_path / "search.json").read_text())
    assert kept["proposals"]["proposals"][0]["role"] == "draft"
    assert kept["config"]["settings"]["space"]["instructions"] == {}
    facts = search_tables.read_search(tmp_path)
    assert facts.proposals == search_tables.facts_of(result).proposals == result.proposals
    page = write_report(tmp_path).read_text()
    assert "Proposed instructions" in page
    for one in search_tables.written(result.trials, result.proposals):
        assert one.trials == sum(trial.instructions.get(one.role) == one.text for trial in result.trials)
        assert escape(one.text[:40]) in page


def test_a_search_that_is_killed_anywhere_uses_the_same_instructions(tmp_path: Path) -> None:
    whole = searched(scripted_lm(obedient), run_dir=tmp_path / "whole")

    class Killed(Exception):
        pass

    for event, count in (("proposing", 1), ("finished", 3)):
        seen: list[str] = []

        def kill(progress: SearchProgress, seen: list[str] = seen, event: str = event, count: int = count) -> None:
            seen.append(progress.event)
            if seen.count(event) == count:
                raise Killed

        folder = tmp_path / event
        with pytest.raises(Killed):
            searched(scripted_lm(obedient), run_dir=folder, progress=kill)
        again = scripted_lm(obedient)
        resumed = searched(again, run_dir=folder)
        assert shape(resumed) == shape(whole)
        assert resumed.result is not None
        assert whole.result is not None
        assert (resumed.result.paid, resumed.result.best.instructions) == (
            whole.result.paid,
            whole.result.best.instructions,
        )
        assert len(asked(again)) == (3 if event == "proposing" else 0)
    # A longer search goes on with them; a finished one, and its estimate, send nothing.
    again = scripted_lm(obedient)
    searched(again, run_dir=tmp_path / "whole", trials=8)
    optimizer = searched(again, run_dir=tmp_path / "whole", trials=8)
    assert not asked(again)
    with dspy.context(lm=again):
        cost = optimizer.estimate(student(), trainset=questions(12), valset=questions(12, 100))
    assert (cost.low, cost.high) == (0, 0)


def test_another_number_of_prompts_is_another_search(tmp_path: Path) -> None:
    searched(scripted_lm(obedient), run_dir=tmp_path, trials=2)
    with pytest.raises(StoreError, match="`prompts` was 3 and is now 0"):
        searched(scripted_lm(obedient), run_dir=tmp_path, trials=2, prompts=0)


def test_another_model_writes(tmp_path: Path) -> None:
    reader, writer = scripted_lm(obedient), scripted_lm(obedient, model="scripted/writer")
    result = searched(reader, run_dir=tmp_path, prompt_model=writer).result
    assert result is not None
    assert not asked(reader)
    assert len(asked(writer)) == writer.served.calls == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"proposals": 1}'])
def test_an_entry_that_holds_no_proposals_is_named(text: str) -> None:
    journal = Journal({})
    assert instructions_in(journal, RunOptions()) is None
    journal.put(INSTRUCTIONS, text)
    with pytest.raises(StoreError, match="the entry 'prompts' in memory holds no proposals") as raised:
        instructions_in(journal, RunOptions())
    assert "\n" not in str(raised.value)


def test_roles_are_those_that_the_space_calls_and_leaves_open() -> None:
    assert roles_of(SPACE) == ["draft"]
    assert roles_of(SMALL) == ["draft", "refine", "distill"]
    assert roles_of(SMALL.extend(distiller=("topk",), critique=(True,)).fix(instructions={"draft": "As it is."})) == [
        "refine",
        "distill",
        "select",
        "critique",
    ]
    assert roles_of(Space(widths=(1,), distiller=("last",))) == ["draft", "refine"]
    assert extended(SPACE, Proposals()) == SPACE


def test_confirmation_questions_that_were_shown_are_in_the_verdict() -> None:
    optimizer = PDROptimizer(Exact(), space=SPACE, trials=2, prompts=1, confirm_repeats=1)
    with dspy.context(lm=(lm := scripted_lm(obedient))):
        optimizer.compile(student(), trainset=questions(4))  # too few to hold any out
    assert optimizer.result is not None
    assert re.search(r"[1-4] of the 4 questions were shown in dem", optimizer.result.confirmation.verdict)
    assert len(asked(lm)) == 1
    demos = SPACE.extend(demos={"draft": ([{"question": "q101", "answer": "a101"}],)})
    optimizer = PDROptimizer(Exact(), space=demos, trials=2, confirm_repeats=1)
    with dspy.context(lm=scripted_lm(obedient)):
        optimizer.compile(student(), trainset=questions(4), valset=questions(4, 100))
    assert optimizer.result is not None
    assert "; 1 of the 4 questions were shown" in optimizer.result.confirmation.verdict


def test_what_cannot_be_written_for_is_refused_before_a_call() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = PDR("question -> answer"), PDR("question, hint -> answer")

    lm = scripted_lm(obedient)
    sets: dict[str, Any] = {"trainset": questions(4), "valset": questions(4, 100)}
    with dspy.context(lm=lm):
        with pytest.raises(ConfigError, match="operators with different tasks"):
            PDROptimizer(Exact(), prompts=1).compile(Two(), **sets)
        for wrong in ({"prompts": -1}, {"prompts": True}, {"prompt_model": "gpt"}):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                PDROptimizer(Exact(), **wrong)  # type: ignore[arg-type]
    assert lm.served.calls == 0
