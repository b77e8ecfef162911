"""The rollout: the library's own programs, their calls as rows."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.calls import Adapter
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import signature_of
from pdr_dspy.training.rollout import Episodes, operator_rows
from pdr_dspy.training.types import Group, Mode, Row, Sampled, TrainCalls
from pdr_dspy.verifiers import NumberVerifier, Score
from tests.support.scripted_policy import END, Characters, ScriptedPolicy

DECODE = Characters().decode


def example(question: str = "1 + 1?", answer: str = "2") -> dspy.Example:
    return dspy.Example(question=question, answer=answer).with_inputs("question")


def group(rows: int, mode: Mode = "operator", seed: int = 7, **fields: Any) -> Group:
    return Group(mode, example(**fields), rows, seed)


def pdr(**settings: Any) -> Operator:
    return PDR("question -> answer", Schedule(**{"widths": (3, 1), "distiller": "summary", **settings}))


def stage(prompt: str) -> str:
    """What a prompt asks for."""
    if "Candidate 1:" in prompt and "Workspace" not in prompt:
        return "distill"
    return "refine" if "THE WORKSPACE" in prompt else "draft"


def solver(*answers: str, refined: str = "2", workspace: str = "THE WORKSPACE says 2") -> ScriptedPolicy:
    """Drafts answer in turn with `answers`; the distiller writes `workspace`; refinements answer `refined`."""
    drafts = iter(range(10**6))

    def reply(prompt: str, number: int) -> str:
        kind = stage(prompt)
        if kind == "distill":
            return workspace
        return f"Answer: {refined}" if kind == "refine" else f"Answer: {answers[next(drafts) % len(answers)]}"

    return ScriptedPolicy(reply)


def rewards(rows: list[Row]) -> list[float | None]:
    return [row.reward for row in rows]


def test_four_episodes_are_batches_of_12_4_and_4() -> None:
    episodes = Episodes(pdr(), NumberVerifier())
    policy = solver("2")
    (rows,) = episodes([group(20)], policy)
    assert policy.batches == episodes.batches == [12, 4, 4]
    assert [row.episode for row in rows] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert [row.phase for row in rows[:5]] == ["draft"] * 3 + ["distill", "refine"]
    assert episodes.counts == {"episodes": 4, "started": 0, "ungraded": 0, "rounds_failed": 0}


def test_both_modes_share_their_batches_and_fill_their_groups() -> None:
    episodes = Episodes(pdr(), NumberVerifier())
    policy = solver("2")
    made = episodes([group(10, "trace"), group(10), group(10, "trace"), group(10)], policy)
    assert [len(rows) for rows in made] == [10] * 4
    assert policy.batches == [20 + 12, 4, 4]
    assert {row.phase for row in made[0]} == {"draft"}
    assert [row.episode for row in made[0]] == list(range(10))


def test_a_row_is_what_the_call_read_and_wrote() -> None:
    program = pdr()
    policy = solver("1", "2", "3")
    (rows,) = Episodes(program, NumberVerifier())([group(10)], policy)
    sent = [text for texts, _, _ in policy.sent for text in texts]
    assert Counter(DECODE(row.prompt_ids) for row in rows) == Counter(sent)
    assert {DECODE(row.completion_ids) for row in rows[:3]} == {"Answer: 1", "Answer: 2", "Answer: 3"}
    assert "THE WORKSPACE says 2" in DECODE(rows[4].prompt_ids)
    for row in rows:
        assert row.completion_ids[-1] == END
        assert len(row.logprobs) == len(row.completion_ids)
    # the texts are those of the operator at inference, without any training
    shown: list[str] = []

    def reply(request: Any) -> str:
        shown.append(f"{request.system}\n\n{request.user}\n\n")
        return DECODE(rows[len(shown) - 1].completion_ids) if len(shown) <= 3 else "THE WORKSPACE says 2"

    from pdr_dspy.testing import scripted_lm

    with dspy.context(lm=scripted_lm(reply)):
        program(question="1 + 1?")
    assert shown[0] == DECODE(rows[0].prompt_ids)
    assert shown[4] == DECODE(rows[4].prompt_ids)


@pytest.mark.parametrize(
    ("train_calls", "phases"),
    [
        ("all", ["draft"] * 3 + ["distill", "refine"]),
        ("refine", ["refine"]),
        ("drafts", ["draft"] * 3),
        ("distill", ["distill"]),
    ],
)
def test_which_calls_are_trained(train_calls: TrainCalls, phases: list[str]) -> None:
    episodes = Episodes(pdr(), NumberVerifier(), train_calls=train_calls)
    (rows,) = episodes([group(2 * len(phases))], solver("1", "2", "3"))
    assert [row.phase for row in rows] == phases * 2
    assert operator_rows(pdr().schedule, train_calls) == len(phases) == episodes.rows_per_episode("operator")


def test_all_calls_share_the_final_reward_and_only_right_drafts_are_positive() -> None:
    (rows,) = Episodes(pdr(), NumberVerifier())([group(10)], solver("1", "2", "3", refined="2"))
    assert rewards(rows) == [1.0] * 10
    assert [row.correct for row in rows[:5]] == [False, True, False, True, True]
    (rows,) = Episodes(pdr(), NumberVerifier())([group(10)], solver("1", "2", "3", refined="9"))
    assert rewards(rows) == [-1.0] * 10
    assert [row.correct for row in rows[:5]] == [False, True, False, False, False]


def test_drafts_by_their_own_answers() -> None:
    (rows,) = Episodes(pdr(), NumberVerifier(), train_calls="drafts")([group(3)], solver("1", "2", "3"))
    assert rewards(rows) == [-1.0, 1.0, -1.0]
    assert [row.correct for row in rows] == [False, True, False]


def test_process_rewards() -> None:
    episodes = Episodes(pdr(), NumberVerifier(), process_rewards=True)
    (rows,) = episodes([group(5)], solver("1", "2", "3", refined="9", workspace="THE WORKSPACE: 1 or 2"))
    assert rewards(rows) == [-1.0, 1.0, -1.0, 1.0, -1.0]
    (rows,) = episodes([group(5)], solver("1", "2", "3", refined="2", workspace="THE WORKSPACE: 1 or 3"))
    assert rewards(rows) == [-1.0, 1.0, -1.0, -1.0, 1.0]
    (rows,) = episodes([group(5)], solver("1", "3", refined="2", workspace="THE WORKSPACE: 1 or 3"))
    assert rewards(rows) == [-1.0, -1.0, -1.0, None, 1.0]


def test_process_rewards_of_a_choice() -> None:
    def choosing(chosen: str) -> ScriptedPolicy:
        drafts = iter(["1", "2", "3"])

        def reply(prompt: str, number: int) -> str:
            if number < 3:
                return f"Answer: {next(drafts)}"
            if number == 3:
                places = dict(re.findall(r"Candidate (\d):\nAnswer: (\d)", prompt))
                return "Selected: " + next(place for place, answer in places.items() if answer == chosen)
            return "Answer: 9"

        return ScriptedPolicy(reply)

    program = pdr(distiller="topk", k=1)
    for chosen, reward in (("2", 1.0), ("3", -1.0)):
        (rows,) = Episodes(program, NumberVerifier(), process_rewards=True)([group(5)], choosing(chosen))
        assert [row.phase for row in rows] == ["draft"] * 3 + ["select", "refine"]
        assert rewards(rows) == [-1.0, 1.0, -1.0, reward, -1.0]


def test_an_answer_that_only_a_fallback_gave_is_not_the_refinements() -> None:
    (rows,) = Episodes(pdr(), NumberVerifier())([group(10)], solver("2", refined=""))
    assert rewards(rows) == [-1.0] * 10
    assert [row.correct for row in rows[:5]] == [True, True, True, False, False]


def test_a_failing_verifier_is_counted_and_never_rewarded() -> None:
    def flaky(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        if prediction.answer == "3":
            raise ZeroDivisionError("not mine")
        return Score(float(prediction.answer == "2"))

    episodes = Episodes(pdr(), flaky, train_calls="drafts")  # type: ignore[arg-type]
    (rows,) = episodes([group(3)], solver("1", "2", "3"))
    assert rewards(rows) == [-1.0, 1.0, None]
    assert [row.correct for row in rows] == [False, True, False]
    assert episodes.counts["ungraded"] == 1

    def broken(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        raise ConfigError("`verifier` is not installed")

    with pytest.raises(ConfigError, match="not installed"):
        Episodes(pdr(), broken)([group(10)], solver("1"))  # type: ignore[arg-type]


def test_graded_scores_have_a_threshold() -> None:
    def half(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(0.5)

    for threshold, reward in ((0.5, 1.0), (0.6, -1.0)):
        episodes = Episodes(LongCoT("question -> answer"), half, threshold=threshold)  # type: ignore[arg-type]
        (rows,) = episodes([group(2, "trace")], solver("1"))
        assert rewards(rows) == [reward] * 2


def test_a_judge_is_awaited() -> None:
    class Judge:
        async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
            await asyncio.sleep(0)
            return Score(float(prediction.answer == example.answer))

        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
            raise AssertionError("the synchronous road")

    (rows,) = Episodes(LongCoT("question -> answer"), Judge())([group(2, "trace")], solver("1", "2"))  # type: ignore[arg-type]
    assert sorted(rewards(rows), key=str) == [-1.0, 1.0]


def test_a_round_that_fails_leaves_no_gap() -> None:
    policy = ScriptedPolicy(lambda prompt, number: "" if number < 3 else "Answer: 2")
    episodes = Episodes(pdr(), NumberVerifier())
    (rows,) = episodes([group(10)], policy)
    assert len(rows) == 10
    failed, fine = (rows[:5], rows[5:]) if rewards(rows)[0] == -1.0 else (rows[5:], rows[:5])
    assert rewards(failed) == [-1.0, -1.0, -1.0, None, None]
    assert all(row.completion_ids == [END] and not row.correct for row in failed)
    assert rewards(fine) == [1.0] * 5
    assert (episodes.counts["rounds_failed"], episodes.counts["fillers"]) == (1, 2)

    refined = Episodes(pdr(), NumberVerifier(), train_calls="refine")
    (rows,) = refined([group(2)], ScriptedPolicy(lambda prompt, number: ""))
    assert rewards(rows) == [None, None]
    assert refined.counts["fillers"] == 2


def test_an_empty_draft_among_others_is_a_row() -> None:
    policy = ScriptedPolicy(lambda prompt, number: "" if number == 0 else "Answer: 2")
    (rows,) = Episodes(pdr(), NumberVerifier(), train_calls="drafts")([group(3)], policy)
    assert rewards(rows) == [-1.0, 1.0, 1.0]
    assert rows[0].completion_ids == [END]


# ---- only the distiller


class WithAdapter(ScriptedPolicy):
    """A policy that trains an adapter: what the model without it is asked for is in `base`."""

    def __init__(self, reply: Any) -> None:
        super().__init__(reply)
        self.base: list[str] = []

    def generate_base(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        self.base += [self.tokenizer.decode(ids) for ids in prompts]
        return self.generate(prompts, caps, temperature)


@pytest.mark.parametrize(("refined", "reward"), [("2", 1.0), ("9", -1.0)])
def test_a_distiller_alone_has_the_score_of_the_refinement(refined: str, reward: float) -> None:
    policy = WithAdapter(solver("1", "2", "3", refined=refined).reply)
    episodes = Episodes(pdr(distill_temperature=1.0, temperature=0.7), NumberVerifier(), train_calls="distill")
    (rows,) = episodes([group(2)], policy)
    assert [row.phase for row in rows] == ["distill"] * 2
    assert (rewards(rows), [row.correct for row in rows]) == ([reward] * 2, [reward > 0] * 2)
    assert {DECODE(row.completion_ids) for row in rows} == {"THE WORKSPACE says 2"}
    assert Counter(map(stage, policy.base)) == {"draft": 6, "refine": 2}, "all but the trained calls are the base's"
    assert policy.batches == [6, 2, 2]


def picking(answer: str | None, refined: str = "9") -> WithAdapter:
    """Drafts answer 1, 2 and 3; the picker picks the candidate with `answer`, or says nothing of use."""
    drafts = iter(["1", "2", "3"] * 2)

    def reply(prompt: str, number: int) -> str:
        places = dict(re.findall(r"Candidate (\d):\nAnswer: (\d)", prompt))
        if len(places) > 1:
            picked = next((place for place, own in places.items() if own == answer), None)
            return "Hard to say." if picked is None else f"Selected: {picked}"
        return f"Answer: {refined}" if places else f"Answer: {next(drafts)}"

    return WithAdapter(reply)


@pytest.mark.parametrize(
    ("answer", "refined", "process", "reward"),
    [
        ("2", "9", True, 1.0),
        ("3", "2", True, -1.0),
        ("2", "9", False, -1.0),
        ("3", "2", False, 1.0),
        (None, "2", True, -1.0),  # the workspace is a random pick, which is no merit of the call
        (None, "2", False, -1.0),
    ],
)
def test_a_picker_alone(answer: str | None, refined: str, process: bool, reward: float) -> None:
    policy = picking(answer, refined)
    program = pdr(distiller="topk", k=1)
    episodes = Episodes(program, NumberVerifier(), train_calls="select", process_rewards=process)
    (rows,) = episodes([group(2)], policy)
    assert [row.phase for row in rows] == ["select"] * 2
    assert (rewards(rows), [row.correct for row in rows]) == ([reward] * 2, [reward > 0] * 2)
    assert len(policy.base) == 8


def test_nothing_to_pick_from_is_no_reward() -> None:
    drafts = iter(["1", "3", "5"] * 2)
    policy = ScriptedPolicy(
        lambda prompt, number: "Selected: 1" if "Candidate 2" in prompt else f"Answer: {next(drafts, 2)}"
    )
    episodes = Episodes(pdr(distiller="topk", k=1), NumberVerifier(), train_calls="select", process_rewards=True)
    (rows,) = episodes([group(2)], policy)
    assert rewards(rows) == [None, None]


def test_a_model_of_its_own_is_not_called() -> None:
    models = {"picker": Adapter("picker")}
    program = Operator("question -> answer", Schedule(widths=(3, 1), distill_model="picker"), models=models)
    (rows,) = Episodes(program, NumberVerifier(), train_calls="distill")([group(2)], solver("1", "2", "3"))
    assert rewards(rows) == [1.0, 1.0]


@pytest.mark.parametrize("widths", [(3, 1), (3, 2, 1)])
def test_every_call_of_a_distiller_is_a_row(widths: tuple[int, ...]) -> None:
    for distiller, train_calls in (("summary", "distill"), ("topk", "select"), ("topk_per_sample", "select")):
        program = pdr(distiller=distiller, widths=widths, k=2)
        episodes = Episodes(program, NumberVerifier(), train_calls=train_calls, starts=0.5)  # type: ignore[arg-type]
        each = episodes.rows_per_episode("operator")
        assert each == sum(program.schedule.distill_calls(r) for r in range(len(widths) - 1))
        made = episodes([group(2 * each), group(2 * each, seed=8)], ScriptedPolicy(lambda _, n: f"Answer: {n % 3}"))
        assert [len(rows) for rows in made] == [2 * each] * 2
        assert {row.phase for rows in made for row in rows} == {train_calls}
        assert episodes.counts["fillers"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("distiller", ["summary", "topk", "topk_per_sample", "random_k", "oracle_correct"])
@pytest.mark.parametrize("widths", [(3, 1), (3, 2, 1)])
def test_any_distiller_fills_the_group(distiller: str, widths: tuple[int, ...]) -> None:
    program = pdr(distiller=distiller, widths=widths, k=2)
    for train_calls in ("all", "refine", "drafts"):
        episodes = Episodes(program, NumberVerifier(), train_calls=train_calls)
        rows = 2 * episodes.rows_per_episode("operator")
        (made,) = episodes([group(rows)], ScriptedPolicy(lambda prompt, number: f"Answer: {number % 3}"))
        assert len(made) == rows
        assert {row.reward for row in made} <= {1.0, -1.0}


@pytest.mark.parametrize("early", [{"agree": 0.9, "quorum": 0.5}, {"agree": 0.6, "first_wave": 2, "next_wave": 1}])
def test_no_round_ends_early(early: dict[str, Any]) -> None:
    program = pdr(widths=(8, 1), **early)
    (rows,) = Episodes(program, NumberVerifier())([group(20)], solver("2"))
    assert Counter(row.phase for row in rows) == {"draft": 16, "distill": 2, "refine": 2}


def test_a_draft_that_passes_ends_no_episode() -> None:
    program = PDR(
        "question -> answer", widths=(8, 1), distiller="checked", k=2, check=lambda args, pred: 1.0, stop_at=1.0,
        first_wave=2,
    )  # fmt: skip
    (rows,) = Episodes(program, NumberVerifier())([group(18)], solver("2"))
    assert Counter(row.phase for row in rows) == {"draft": 16, "refine": 2}


def test_sequential_refinement_is_an_operator_too() -> None:
    program = SR("question -> answer", rounds=3, critique=True)
    (rows,) = Episodes(program, NumberVerifier())([group(10)], ScriptedPolicy(lambda prompt, number: "Answer: 2"))
    assert [row.phase for row in rows[:5]] == ["draft", "critique", "refine", "critique", "refine"]


# ---- where it starts


def test_starts_read_a_workspace_that_nobody_is_trained_for() -> None:
    episodes = Episodes(pdr(), NumberVerifier(), starts=1.0)
    policy = solver("1", "2", "3")
    (rows,) = episodes([group(10)], policy)
    assert policy.batches == [6, 2, 6, 2, 2]
    assert len(rows) == 10
    assert [row.phase for row in rows[:5]] == ["refine"] * 3 + ["distill", "refine"]
    assert all("THE WORKSPACE says 2" in DECODE(row.prompt_ids) for row in rows[:3])
    assert episodes.counts["started"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("starts", "started"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_groups_starts_so(starts: float, started: int) -> None:
    episodes = Episodes(pdr(), NumberVerifier(), starts=starts, train_calls="refine")
    groups = [group(2, question=f"{number}?", seed=number) for number in range(8)]
    groups += [group(2, "trace", question=f"{number}?") for number in range(8)]
    made = episodes(groups, solver("2"))
    assert episodes.counts["started"] == 2 * started
    assert [len(rows) for rows in made] == [2] * 16


# ---- its seeds


def test_equal_groups_draw_different_samples_and_repeat_themselves() -> None:
    program = pdr(distiller="random_k", k=1, widths=(3, 1))

    def prompts(seed: int) -> list[str]:
        policy = ScriptedPolicy(lambda prompt, number: f"Answer: {number}")
        Episodes(program, NumberVerifier())([group(8, seed=seed), group(8, seed=seed + 1)], policy)
        return policy.sent[1][0]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(5)
    assert len(set(prompts(1))) == 4


def test_an_equal_question_twice_is_two_groups() -> None:
    both = [group(10), group(10)]
    assert [len(rows) for rows in Episodes(pdr(), NumberVerifier())(both, solver("2"))] == [10, 10]
    same = [both[0]] * 2
    assert [len(rows) for rows in Episodes(pdr(), NumberVerifier())(same, solver("2"))] == [10, 10]


def test_the_program_is_left_as_it_was() -> None:
    program = pdr()
    before = program.dump_state()
    Episodes(program, NumberVerifier(), starts=1.0)([group(10)], solver("2"))
    assert program.dump_state() == before
    assert all(predictor.lm is None for predictor in program.predictors())


def test_it_works_below_a_running_loop_and_a_session() -> None:
    async def notebook() -> list[list[Row]]:
        return Episodes(pdr(), NumberVerifier())([group(10)], solver("2"))

    (rows,) = asyncio.run(notebook())
    assert len(rows) == 10
    with calls.session(on_call=lambda call: pytest.fail("told of a call of another session")):
        (rows,) = Episodes(pdr(), NumberVerifier())([group(10)], solver("2"))
    assert len(rows) == 10


def test_the_long_trace_has_its_own_cap_and_the_drafts_prompt() -> None:
    program = pdr(draft_tokens=64)
    drafting = program.predictors()[0]
    drafting.signature = signature_of(drafting).with_instructions("Be brief.")
    policy = solver("2")
    Episodes(program, NumberVerifier(), trace_tokens=512)([group(2, "trace"), group(10)], policy)
    texts, caps, _ = policy.sent[0]
    assert caps == [512] * 2 + [64] * 6
    assert len(set(texts)) == 1
    assert texts[0].startswith("Be brief.")


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "mode", "settings", "sentence"),
    [
        (12, "operator", {}, "whole operator episodes of 5 trained calls, at least two; .* such as 15"),
        (12, "operator", {}, r"12 rows \(`rows` of TrainingConfig, `num_generations` of OperatorConfig\)"),
        (5, "operator", {}, "a multiple of 5, at least 10, such as 10"),
        (1, "trace", {}, "a multiple of 1, at least 2, such as 2"),
        (4, "operator", {"train_calls": "drafts"}, "3 trained calls, at least one; .* such as 6"),
        (1, "operator", {"train_calls": "refine"}, "such as 2"),
        (0, "operator", {"process_rewards": True}, "such as 5"),
    ],
)
def test_sizes_that_do_not_divide(rows: int, mode: Mode, settings: dict[str, Any], sentence: str) -> None:
    episodes = Episodes(pdr(), NumberVerifier(), **settings)
    policy = solver("2")
    with pytest.raises(ConfigError, match=sentence):
        episodes([group(rows, mode)], policy)
    assert not policy.sent


@pytest.mark.parametrize(
    ("program", "settings", "sentence"),
    [
        (dspy.Predict("question -> answer"), {}, "takes an operator"),
        (pdr(), {"verifier": NumberVerifier}, "must be a verifier"),
        (pdr(), {"train_calls": "some"}, "all, refine, drafts, distill, select"),
        (pdr(), {"train_calls": "select"}, 'it makes distill calls, see `train_calls="distill"`'),
        (pdr(distiller="topk"), {"train_calls": "distill"}, 'it makes select calls, see `train_calls="select"`'),
        (pdr(distiller="random_k"), {"train_calls": "select"}, "it makes none"),
        (pdr(distiller="topk", k=1, widths=(1, 1)), {"train_calls": "select"}, r"to pick; .* `widths=\(4, 1\)`"),
        (SR("question -> answer", rounds=2, critique=True), {"train_calls": "select"}, "it makes none"),
        (LongCoT("question -> answer"), {"train_calls": "distill"}, "it makes none"),
        (pdr(temperature=0.7), {"train_calls": "distill"}, r"Schedule\(distill_temperature=None\)"),
        (pdr(), {"starts": 1.5}, "a fraction"),
        (pdr(), {"threshold": 0}, r"in \(0, 1\]"),
        (pdr(), {"trace_tokens": 0}, "at least 1 token"),
        (pdr(), {"process_rewards": True, "train_calls": "refine"}, 'needs `train_calls="all"`'),
        (pdr(temperature=0.7), {}, r"Schedule\(temperature=0.7\)"),
        (pdr(top_p=0.9), {}, r"Schedule\(top_p=0.9\)"),
        (pdr(distill_temperature=0.0), {}, r"Schedule\(distill_temperature=0.0\)"),
    ],
)
def test_settings_that_cannot_work(program: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Episodes(program, **{"verifier": NumberVerifier(), **settings})


def test_an_untrained_distillation_may_be_cold() -> None:
    episodes = Episodes(pdr(distill_temperature=0.0), NumberVerifier(), train_calls="refine")
    policy = solver("2")
    episodes([group(2)], policy)
    assert [temperature for _, _, temperature in policy.sent] == [1.0, 0.0, 1.0]


def test_one_round_is_no_operator_group() -> None:
    program: Operator = LongCoT("question -> answer")
    with pytest.raises(ConfigError, match="two rounds or more"):
        Episodes(program, NumberVerifier())([group(2)], solver("2"))
