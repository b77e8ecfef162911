"""Training on PDR rounds changes what a small model does with a workspace, and the toy is what its page says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest
import torch

from benchmarks import hops, training
from pdr_dspy.prompts.parse import read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, check_task, derive
from pdr_dspy.training.types import Group, Sampled
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

SMALL = hops.Settings(states=24, width=48, layers=2, steps=300, batch=64, rate=5e-3, furthest=6)
PLAN = training.Plan(SMALL, steps=30, tokens=None, samples=16, rate=1e-3, scores=("PDR R=1", "trace 6"))


@pytest.fixture(scope="module")
def world() -> hops.World:
    return hops.World(SMALL, 0)


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(ids)


class Script:
    """A policy that writes the right hops; `reads` says whether it goes on from notes."""

    def __init__(self, world: hops.World, *, reads: bool) -> None:
        self.tokenizer = hops.tokenizer(world.settings.states)
        self.world, self.reads = world, reads
        self.prompts: list[str] = []
        self.caps: list[int] = []

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        texts = [text_of(self.tokenizer, prompt) for prompt in prompts]
        self.prompts += texts
        self.caps += caps
        return [self.write(text.splitlines(), cap) for text, cap in zip(texts, caps, strict=True)]

    def write(self, lines: Sequence[str], cap: int) -> Sampled:
        state, many = int(lines[0]), int(lines[1].removeprefix("hops "))
        begins = 0
        if self.reads and len(lines) > 3:
            begins, state = int(lines[-2].removeprefix("after ")), int(lines[2])
        written = [f"from {begins}"]
        for hop in range(begins + 1, many + 1):
            state = int(self.world.after[state])
            written.append(f"answer: {state}" if hop == many else str(state))
        ids = [*self.tokenizer.encode("".join(f"{line}\n" for line in written)), hops.ENDING][:cap]
        return Sampled(ids, [0.0] * len(ids), "stop" if ids[-1] == hops.ENDING else "length")


# --- the toy ---------------------------------------------------------------------------------------------------------


def test_every_line_is_one_token_and_comes_back() -> None:
    tokenizer = hops.tokenizer(24)
    text = "from 3\n7\n21\nanswer: 4\n"
    ids = tokenizer.encode(text)
    assert len(ids) == 4
    assert tokenizer.decode([*ids, hops.ENDING], skip_special_tokens=True) == text
    assert tokenizer.pad_token_id == hops.PADDING
    assert tokenizer.eos_token_id == hops.ENDING


def test_the_library_reads_the_answer_and_only_the_answer() -> None:
    signature = derive(check_task(hops.Follow), Role.REFINE)
    assert read(signature, "from 3\n7\n21\nanswer: 4\n", truncated=True).outputs["answer"] == 4
    assert "answer" not in read(signature, "from 0\n7\n21\n4\n", truncated=True).outputs


def test_a_prompt_shows_where_the_furthest_candidates_stand() -> None:
    candidates = [
        "Candidate 1 (unfinished):\nfrom 0\n9\n4\n8",
        "Candidate 2 (unfinished):\nfrom 3\n5\n6\n7",
        "Candidate 3 (unfinished):\nfrom 3\n5\n6\n2",
        "Candidate 4:\nfrom 0\n1\nanswer: 3",
    ]
    inputs = {"start": 11, "hops": 9, "workspace": "\n\n".join(candidates)}
    with dspy.context(adapter=hops.HopsAdapter()):
        (message,) = render(derive(check_task(hops.Follow), Role.REFINE), [], inputs)
        (first,) = render(derive(check_task(hops.Follow), Role.DRAFT), [], {"start": 11, "hops": 9})
    assert message["content"] == "11\nhops 9\n7\n2\nafter 6\n"
    assert first["content"] == "11\nhops 9\n"


def test_the_corpus_is_what_the_page_says(world: hops.World) -> None:
    tokenizer = hops.tokenizer(SMALL.states)
    ids, mask = hops.corpus(world, 4000, torch.Generator().manual_seed(3))
    wrong = whole = reading = noted = 0
    for row, learned in zip(ids, mask, strict=True):
        prompt, text = text_of(tokenizer, row[~learned]).split(hops.SOLVE), text_of(tokenizer, row[learned])
        lines, written = prompt[0].splitlines(), text.removesuffix(hops.END).splitlines()
        state, begins = int(lines[0]), int(written[0].removeprefix("from "))
        assert text.endswith(hops.END)
        assert written[-1].startswith("answer: ")
        assert begins + len(written) - 1 == int(lines[1].removeprefix("hops "))
        if len(lines) > 2:
            noted += 1
            reading += begins > 0
            assert 1 <= len(lines) - 3 <= hops.NOTES
            assert begins in (0, int(lines[-1].removeprefix("after ")))
        if begins:
            continue
        for line in written[1:]:
            there = int(line.removeprefix("answer: "))
            wrong += there != int(world.after[state])
            whole += 1
            state = there
    assert reading / noted == pytest.approx(SMALL.reading, abs=0.05)
    assert wrong / whole == pytest.approx(SMALL.wrong * (1 - 1 / SMALL.states), abs=0.02)


def test_the_map_is_one_cycle_and_the_test_is_held_out(world: hops.World) -> None:
    assert world.answer(5, SMALL.states) == 5
    assert len({world.answer(5, many) for many in range(SMALL.states)}) == SMALL.states
    assert not set(world.test) & set(world.train)
    assert len(world.test) == SMALL.held_out


# --- the arms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "many"), [(1, 6), (2, 9), (3, 12)])
def test_short_calls_reach_the_answer_through_workspaces_alone(world: hops.World, rounds: int, many: int) -> None:
    examples = world.examples(world.test, [many])
    script = Script(world, reads=True)
    assert training.right(script, training.program(rounds), examples, 1) == 1
    assert max(script.caps) == hops.SHORT
    assert training.right(Script(world, reads=False), training.program(rounds), examples, 1) == 0
    assert training.right(Script(world, reads=False), training.program(1, free=True), examples, 1) == 1


def test_a_far_question_starts_from_a_workspace(world: hops.World) -> None:
    rollouts = training.Rollouts()
    near, far = world.examples(world.train[:1], [6, 9])
    groups = [Group("operator", far, 2, 1), Group("trace", far, 2, 2), Group("operator", near, 2, 3)]
    script = Script(world, reads=True)
    with dspy.context(adapter=hops.HopsAdapter()):
        started, trace, plain = rollouts(groups, script)
    read = [text_of(script.tokenizer, rows[0].prompt_ids).splitlines()[-2] for rows in (started, trace, plain)]
    assert read == ["after 6", "hops 9", "after 3"]
    assert all(row.reward == 1 and row.correct for rows in (started, trace, plain) for row in rows)
    calls = 2 * (4 + 4 + 1) + 2 + 2 * (4 + 1)
    assert len(script.prompts) == calls
    assert rollouts.sampled == (calls - 2) * hops.SHORT + 2 * (9 + 2)
    assert rollouts.read == sum(len(text.splitlines()) for text in script.prompts)


def test_rows_of_another_plan_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "rows.json"
    assert training.kept(place, PLAN) == []
    place.write_text(json.dumps({"plan": training.described(PLAN), "rows": [{"arm": "base"}]}))
    assert training.kept(place, PLAN._replace(seeds=9)) == [{"arm": "base"}]
    with pytest.raises(SystemExit, match="another plan"):
        training.kept(place, PLAN._replace(steps=31))


def test_the_table_is_made_of_the_rows_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for place, arm in enumerate(("base", *training.ARMS)):
        scores = dict.fromkeys(training.SCORES, 0.1 * place)
        rows += [
            training.row(training.Job(arm, 0, 0), at, 8, 1000 * place, 500, 1.0, scores)
            for at in ("steps", "tokens")[: 1 + (arm != "base")]
        ]
    place = tmp_path / "rows.json"
    place.write_text(json.dumps({"plan": training.described(training.QUICK), "rows": rows}))
    training.main(["--quick", "--json", str(place), "--cache", str(tmp_path / "nothing")])
    printed = capsys.readouterr().out
    assert printed.count("1:1, starts") == 4
    assert "+0.400" in printed  # 0.5 less the 0.1 of long traces alone
    assert "5,000" in printed
    assert not (tmp_path / "nothing").exists()


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """About 35 CPU-seconds: a base of 55,000 parameters, and two runs of 30 steps."""
    cache = tmp_path_factory.mktemp("hops")
    found = {}
    for arm in ("base", "trace only", "1:1"):
        (row,) = training.run(PLAN, training.Job(arm, 0, 0), cache)
        assert row["step"] == (0 if arm == "base" else PLAN.steps)
        found[arm] = row["scores"]
    return found


# Fractions of 96 runs (6 held-out starts, 16 each). Seen when the test was written: PDR 0.13 before (a quarter of what
# its drafts allow), 0.79 after training on both, 0.00 after long traces alone. The bounds leave several standard errors
# of 96 draws (0.03 at 0.13, 0.04 at 0.79) for other machines' arithmetic.
@pytest.mark.xdist_group("training_learning")
def test_training_on_pdr_rounds_multiplies_what_short_calls_reach(scores: dict[str, dict[str, float]]) -> None:
    assert 0 < scores["base"]["PDR R=1"] < 0.25
    assert scores["1:1"]["PDR R=1"] > 0.5
    assert scores["1:1"]["PDR R=1"] > 2.5 * scores["base"]["PDR R=1"]


@pytest.mark.xdist_group("training_learning")
def test_training_on_long_traces_alone_does_not(scores: dict[str, dict[str, float]]) -> None:
    assert scores["trace only"]["PDR R=1"] <= scores["base"]["PDR R=1"]
    assert scores["trace only"]["trace 6"] > scores["base"]["trace 6"] + 0.1  # 0.55 before, 0.85 after
