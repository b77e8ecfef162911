"""A picker that is trained on short sums: its prompts, its sums, and the whole study on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.training.model_folder import known_model
from pdr_dspy.training.types import Sampled
from studies import distiller, operator_rl, short_sums
from studies.operator_rl import Plan
from tests.support.letters_model import letters_model
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]

SMALL = Plan(
    digits=1, learnt=12, held_out=4, dev=3, warm_sums=8, warm_until=0.0, warm_stage=1, warm_most=2, warm_batch=4,
    rank=2, save_every=1,
)  # fmt: skip
SIZES = {"learnt": 6, "held_out": 5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return letters_model(tmp_path_factory.mktemp("weights"), operator_rl.TEMPLATE)


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with drafts of which one of four is right; on one question all are."""
    folder = tmp_path_factory.mktemp("study")
    task = short_sums.task(SMALL, **SIZES)
    drafts = {
        each.question: [f" {each.answer + off}" for off in (1, 0, 2, 1)] for each in (*task.learnt, *task.held_out)
    }
    drafts[task.held_out[0].question] = [f" {task.held_out[0].answer}"] * 4
    (folder / "drafts.json").write_text(json.dumps(drafts))
    go(folder, weights)
    return folder


def go(folder: Path, weights: Path) -> Path:
    settings = {"steps": 2, "batch": 4, "lora": {"rank": 2, "alpha": 4}, "save_every": 1}
    with operator_rl.quietly(1):
        return short_sums.study(SMALL, folder, weights, seeds=1, settings=settings, place=folder, **SIZES)


def test_every_learnt_pick_is_the_right_candidate_of_its_list(folder: Path) -> None:
    samples = [json.loads(line) for line in (folder / "picks.jsonl").read_text().splitlines()]
    assert {len(each["messages"]) for each in samples} == {2}
    asked = set()
    for each in samples:
        prompt, reply = (message["content"] for message in each["messages"])
        *lines, question = prompt.split("\n")
        first, second = map(int, question.removesuffix(" =").split(" + "))
        asked.add(question)
        numbers = dict(line.split(") ") for line in lines)
        assert list(numbers) == ["1", "2", "3", "4"]
        assert int(numbers[reply.removeprefix("Selected: [").removesuffix("]")]) == first + second
    assert asked == {f"{each.question} =" for each in short_sums.task(SMALL, **SIZES).learnt}


def test_it_tells_of_held_out_questions_with_something_to_pick(folder: Path) -> None:
    about, scored = distiller.read_scores(folder / "short-sums-smollm2-135m.jsonl")
    assert about["questions"] == 5
    assert {each.question for each in scored} == {each.id for each in short_sums.task(SMALL, **SIZES).held_out[1:]}
    for each in scored:
        assert set(each.scores) == {"any draft", "vote", "base", "trained 0"}
        assert (each.scores["any draft"], each.scores["vote"]) == (0.25, 0.0)


def test_what_is_done_is_not_done_again(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distiller, "loaded", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(operator_rl, "imitate", lambda *_: pytest.fail("warmed up again"))
    before = (folder / "short-sums-smollm2-135m.jsonl").read_text().splitlines()[1:]
    assert go(folder, weights).read_text().splitlines()[1:] == before


def test_four_drafts_of_each_sum_are_drawn_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        tokenizer: Any = known_model(str(weights))[1]

        def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
            made = [self.tokenizer.encode(f" {n}", add_special_tokens=False) for n in range(len(prompts))]
            return [Sampled(ids, [0.0] * len(ids), "stop") for ids in made]

    monkeypatch.setattr(operator_rl, "sampler", lambda *_: Counting())
    drawn = short_sums.draw(SMALL, tmp_path, str(weights), ["1 + 2", "3 + 4"])
    assert drawn == {"1 + 2": [" 0", " 1", " 2", " 3"], "3 + 4": [" 4", " 5", " 6", " 7"]}
    monkeypatch.setattr(operator_rl, "sampler", lambda *_: pytest.fail("drawn again"))
    assert short_sums.draw(SMALL, tmp_path, str(weights), ["1 + 2", "3 + 4"]) == drawn


def test_no_sum_is_learnt_and_held_out_or_in_the_warm_up() -> None:
    made, warm = short_sums.task(Plan()), operator_rl.sums(Plan())["warm"]
    parts = [{each.id for each in part} for part in (made.learnt, made.held_out, warm)]
    assert [len(part) for part in parts] == [1600, 400, 4000]
    assert len(set.union(*parts)) == 6000
