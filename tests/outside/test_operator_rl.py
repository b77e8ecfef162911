"""The study of training on PDR rounds: it runs on a tiny random model, resumes, and its page is made of its lines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.statistics import paired
from pdr_dspy.training.types import Sampled
from studies import operator_rl, trained
from studies.operator_rl import Plan
from studies.trained import About, Line
from tests.support.letters_model import END, letters_model
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]

SMALL = Plan(
    steps=1, groups=4, rows=10, seeds=1, digits=1, learnt=12, held_out=4, dev=3, warm_sums=8, warm_until=0.0,
    warm_stage=1, warm_most=2, warm_batch=4, rank=2, save_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model over letters and digits."""
    return letters_model(tmp_path_factory.mktemp("weights"), operator_rl.TEMPLATE)


def go(folder: Path, weights: Path, plan: Plan = SMALL, seeds: int = 1) -> Path:
    with operator_rl.quietly(1):
        return operator_rl.study(
            plan, folder, weights, arms=["base", *plan.arms], seeds=range(seeds), name="tiny", place=folder / "lines"
        )


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    go(folder, weights)
    return folder


class Counting:
    """A policy that answers 70, 71, 72, ... and keeps its prompts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prompts: list[str] = []

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        drawn = []
        for prompt in prompts:
            ids = [*self.tokenizer.encode(f" {70 + len(self.prompts)}", add_special_tokens=False), END]
            self.prompts.append(self.tokenizer.decode(prompt))
            drawn.append(Sampled(ids, [0.0] * len(ids), "stop"))
        return drawn


@pytest.mark.parametrize(("program", "last"), [("PDR 4-1", {"70", "71", "72", "73"}), ("SR x5", {"73"})])
def test_a_refinement_reads_the_answers_and_the_sum(weights: Path, program: str, last: set[str]) -> None:
    policy = Counting(operator_rl.known_model(str(weights))[1])
    (example,) = operator_rl.sums(SMALL)["held out"][:1]
    example.answer = 74
    with operator_rl.quietly(1):
        scores = asyncio.run(operator_rl.scored(policy, operator_rl.programs(SMALL)[program], [example], 0))
    assert scores == [1.0]
    assert policy.prompts[0] == f"{example.question} ="
    tried, question = policy.prompts[-1].split("\n")
    assert question == policy.prompts[0]
    assert set(tried.removeprefix("tried ").split(", ")) == last


def test_the_parts_share_no_sum() -> None:
    parts = operator_rl.sums(Plan())
    every = [example.id for part in parts.values() for example in part]
    assert len(set(every)) == len(every) == 8100
    assert all(eval(example.question) == example.answer for example in parts["held out"])
    with pytest.raises(ConfigError, match="needs 8101 sums"):
        operator_rl.sums(Plan(dev=101))


def test_arms_are_compared_at_as_many_steps_and_at_as_many_calls(folder: Path) -> None:
    about, lines = trained.read(folder / "lines" / "tiny.jsonl")
    assert about["learning_rate"] == SMALL.learning_rate
    calls = {(line.about.arm, line.about.steps): line.about.calls for line in lines}
    assert calls == {
        ("base", 0): 0,
        ("traces", 1): 40,
        ("traces", 3): 120,
        ("1:1, refinements", 1): 120,
        ("1:1, all calls", 1): 40,
        ("1:1, all calls", 3): 120,
        ("3:1, all calls", 1): 40,
        ("1:3, all calls", 1): 40,
    }
    for line in lines:
        assert set(line.scores) == set(operator_rl.programs(SMALL))
        assert all(len(scores) == SMALL.held_out for scores in line.scores.values())
        assert (line.about.seconds > 0) == (line.about.arm != "base")


def test_what_is_done_is_not_done_again(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "lines" / "tiny.jsonl").read_text()
    for name in ("train", "imitate", "sampler"):
        monkeypatch.setattr(operator_rl, name, lambda *_, **__: pytest.fail("it ran again"))
    path = go(folder, weights)
    assert sorted(path.read_text().splitlines()) == sorted(before.splitlines())


def test_the_first_checkpoints_of_all_seeds_come_before_the_last(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int, int]] = []

    def run(plan: Plan, place: Path, model: str, arm: str, seed: int, steps: int) -> Line:
        done.append((arm, seed, steps))
        return Line(About(arm, seed, steps, 0, 0, 0, 0.0), {"one pass": [1.0]})

    monkeypatch.setattr(operator_rl, "run", run)
    monkeypatch.setattr(operator_rl, "base", lambda *_: "")
    (tmp_path / operator_rl.WARM_CURVE).write_text("{}")
    go(tmp_path, weights, seeds=2)
    first = [(arm, seed, 0 if arm == "base" else 1) for seed in (0, 1) for arm in ("base", *SMALL.arms)]
    assert done == first + [(arm, seed, 3) for seed in (0, 1) for arm in ("traces", "1:1, all calls")]


def test_another_machine_goes_on_from_the_lines_alone(folder: Path, weights: Path, tmp_path: Path) -> None:
    head, *lines = (folder / "lines" / "tiny.jsonl").read_text().splitlines()
    rest = [line for line in lines if '"1:1, refinements"' not in line]
    path = tmp_path / "lines" / "tiny.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join([head, *rest]) + "\n")
    go(tmp_path, weights)
    found = path.read_text().splitlines()
    assert found[:-1] == [head, *rest]
    assert '"1:1, refinements"' in found[-1]
    assert not list(tmp_path.glob("traces*"))

    path.write_text("\n".join([head.replace('"warm_curve": {', '"warm_curve": {"9": 0.5, '), *rest]) + "\n")
    with pytest.raises(StoreError, match="another plan"):
        go(tmp_path, weights)


def test_another_plan_does_not_mix_its_lines(folder: Path) -> None:
    path = folder / "lines" / "tiny.jsonl"
    _, lines = trained.read(path)
    with pytest.raises(StoreError, match="another plan"):
        trained.add(path, lines[0], {"steps": 7})


def test_a_warm_up_that_teaches_nothing_is_no_base(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="after 2 steps of warm-up"):
        go(tmp_path, weights, Plan(**{**vars(SMALL), "warm_until": 1.0}))
    assert set(json.loads((tmp_path / "warm-curve.json").read_text())) == {"1", "2"}


def made(arm: str, seed: int, steps: int, calls: int, pdr: list[float]) -> Line:
    scores = {"one pass": [0.5, 0.25, 0.5], "vote of 5": [1.0, 0.0, 1.0], "PDR 4-1": pdr, "SR x5": [0.0, 1.0, 0.0]}
    return Line(About(arm, seed, steps, calls, 4 * calls, 9 * calls, 3600.0), scores)


def test_the_page_is_made_of_lines_and_leaves_out_arms_without_all_seeds(tmp_path: Path) -> None:
    lines = [
        *(made("base", seed, 0, 0, [0.0, 0.0, 1.0]) for seed in range(3)),
        *(made("traces", seed, 200, 8_000, [0.0, 1.0, 0.0]) for seed in range(3)),
        *(made("traces", seed, 600, 24_000, [0.0, 0.0, 1.0]) for seed in range(3)),
        *(made("1:1, refinements", seed, 200, 24_000, [1.0, float(seed == 1), 1.0]) for seed in range(3)),
        *(made("1:1, all calls", seed, 200, 8_000, [1.0, 1.0, 1.0]) for seed in range(2)),
    ]
    for line in [*lines, lines[0]]:
        trained.add(tmp_path / "some.jsonl", line, {"steps": 200})
    assert len(trained.read(tmp_path / "some.jsonl")[1]) == len(lines)
    text = trained.write_page(tmp_path, tmp_path).read_text()
    assert "all calls" not in text
    gained = paired([1.0, 1 / 3, 1.0], [0.0, 0.0, 1.0])
    row = f"{gained.difference:+.3f} [{gained.interval.low:+.3f}, {gained.interval.high:+.3f}]"
    named = "| 1:1, refinements, 200 steps, minus traces, {} steps | PDR 4-1 | "
    assert f"{named.format(600)}{row} | +0.333, +0.667, +0.333 |" in text  # as many calls
    assert named.format(200) in text  # as many steps
    assert "8,000 | 32,000 | 1.00 |" in text
    drawn = (tmp_path / "operator-rl-some.svg").read_text()
    assert "![](operator-rl-some.svg)" in text
    assert all(title in drawn for title in ("traces", "600 steps", "PDR 4-1"))
    assert "all calls" not in drawn


def test_without_lines_the_page_says_so(tmp_path: Path) -> None:
    assert "has not been run yet" in trained.page(tmp_path)
    trained.add(tmp_path / "some.jsonl", made("base", 0, 0, 0, [0.0] * 3), {})
    assert "No checkpoint has all 3 seeds yet." in trained.page(tmp_path)
