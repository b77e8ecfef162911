"""Verdicts and picks that saw the gold answer, learnt without it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, LongCoT, SelfConsistency
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.training.export_picks import asked_picks, export_picks
from pdr_dspy.training.export_sft import Exported, export
from pdr_dspy.training.export_verdicts import export_verdicts
from pdr_dspy.verifiers import NumberVerifier, Score
from pdr_dspy.verifiers.checks import JudgeCheck

NUMBERS = range(1, 7)
QUESTIONS = [
    dspy.Example(question=f"{n} + {n}?", answer=f"GOLD-{n}", id=f"q{n}").with_inputs("question") for n in NUMBERS
]


class Secret:
    """Knows that GOLD-n means 2n, which no draft and no prompt says."""

    grades_drafts = True
    gold = "answer"

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(float(str(prediction.get("answer")) == str(2 * int(example.answer.removeprefix("GOLD-")))))

    def check_gold(self, example: dspy.Example) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"kind": "Secret"}


def topk(k: int = 1, **settings: Any) -> Operator:
    return PDR("question -> answer", **{"widths": (4, 1), "distiller": "topk", "k": k, "draft_tokens": 100, **settings})


def judged(**settings: Any) -> Operator:
    return PDR(
        "question -> answer", widths=(4, 1), distiller="random_k", k=1, draft_tokens=100, check=JudgeCheck(**settings)
    )


def reply(request: ScriptedRequest) -> str:
    """Right by the seed: of four siblings those with remainders below n % 4, so none to three of them."""
    if "meet the criteria" in request.user:
        return "No"
    if "Candidate" in request.user:
        return "Selected: [1]" if "Selected:" in request.user else "Notes"
    n = int(request.user.split("Question:")[1].split()[0])
    return f"Draft {request.seed % 4}. Answer: {2 * n if request.seed % 4 < n % 4 else request.seed % 4 + 50}"


def run(folder: Path, program: Operator, answering: Callable[[ScriptedRequest], Any] = reply) -> list[ScriptedRequest]:
    """Evaluate; the requests that were sent."""
    lm = scripted_lm(answering)
    with dspy.context(lm=lm):
        evaluate(program, QUESTIONS, Secret(), run_dir=folder)
    return lm.served.requests


def sent(requests: list[ScriptedRequest], marked: str) -> set[tuple[str, str]]:
    return {(request.system, request.user) for request in requests if marked in request.user}


def prompts(found: Exported) -> set[tuple[str, str]]:
    return {(system["content"], user["content"]) for system, user, _ in (sample.messages for sample in found.samples)}


def gold_in_prompts(found: Exported) -> list[str]:
    return re.findall(r"GOLD-\d|Reference answer", json.dumps([sample.messages for sample in found.samples]))


def right_places(prompt: str) -> list[int]:
    n = int(prompt.split("Question:")[1].split()[0])
    answers = re.findall(r"Candidate (\d+):\nDraft \d\. Answer: (\d+)", prompt)
    return [int(place) for place, answer in answers if answer == str(2 * n)]


# ---- picks


@pytest.mark.slow
@pytest.mark.parametrize("distiller", ["topk", "topk_per_sample"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_prompt_is_what_the_program_sends_and_the_pick_is_right(tmp_path: Path, distiller: str, k: int) -> None:
    program = topk(k, distiller=distiller, widths=(4, 3, 1))
    requests = run(tmp_path, program)
    found = export_picks(tmp_path, program, QUESTIONS, Secret())
    orders = 3 if distiller == "topk_per_sample" else 1
    assert found.samples
    assert prompts(found) <= sent(requests, "Selected: <"), "byte by byte"
    assert not gold_in_prompts(found)
    for sample in found.samples:
        _, user, answer = sample.messages
        right = right_places(user["content"])
        numbers = json.loads(answer["content"].removeprefix("Selected: "))
        assert len(numbers) == k
        assert set(numbers[: len(right)]) <= set(right)
        assert (sample.kind, sample.round) == ("pick", 1)
    # 4 + 4? has no right draft, and none of the others has only right ones
    assert found.counts["no_choice"] == orders
    assert {sample.id for sample in found.samples} == {"q1", "q2", "q3", "q5", "q6"}
    assert found.counts["picks"] + found.counts["duplicates"] == 5 * orders


def test_drafts_of_a_vote_teach_a_picker(tmp_path: Path) -> None:
    run(tmp_path, SelfConsistency("question -> answer", n=4, draft_tokens=100))
    found = export_picks(tmp_path, topk(), QUESTIONS, Secret())
    assert found.counts["picks"] == 5
    program = topk()
    requests = run(tmp_path / "again", program)
    assert prompts(found) <= sent(requests, "Selected: <")


@pytest.mark.slow
def test_more_orders_than_the_program_asks_for(tmp_path: Path) -> None:
    run(tmp_path, topk())
    found = export_picks(tmp_path, topk(), QUESTIONS, Secret(), orders=12)
    assert found.counts["picks"] + found.counts["duplicates"] == 60
    assert found.counts["picks"] > 40
    places = [json.loads(sample.messages[-1]["content"].removeprefix("Selected: "))[0] for sample in found.samples]
    assert set(places) == {1, 2, 3, 4}, "no place is preferred"
    again = export_picks(tmp_path, topk(), QUESTIONS, Secret(), orders=12)
    assert again == found


def test_calls_to_measure_a_picker_with(tmp_path: Path) -> None:
    requests = run(tmp_path, topk())
    asked = asked_picks(tmp_path, topk(), QUESTIONS, Secret())
    assert [each.id for each in asked] == ["q1", "q2", "q3", "q5", "q6"]
    for each in asked:
        system, user = each.messages
        assert (system["content"], user["content"]) in sent(requests, "Selected: <")
        assert each.right == set(right_places(user["content"]))
        assert each.replies == tuple(f"Selected: [{place}]" for place in (1, 2, 3, 4))


def test_other_drafts_are_not_this_programs(tmp_path: Path) -> None:
    run(tmp_path, topk())
    found = export_picks(tmp_path, topk(draft_tokens=99), QUESTIONS, Secret())
    assert (found.samples, found.counts["other_prompt"]) == ((), 6)
    wider = export_picks(tmp_path, topk(widths=(5, 1)), QUESTIONS, Secret())
    assert (wider.samples, wider.counts["other_prompt"]) == ((), 6)
    for segment in (tmp_path / "rollouts").iterdir():
        segment.unlink()
    found = export_picks(tmp_path, topk(), QUESTIONS, Secret())
    assert (found.samples, found.counts["not_stored"]) == ((), 6)


def test_a_failed_draft_is_no_candidate(tmp_path: Path) -> None:
    def flaky(request: ScriptedRequest) -> str:
        if "Candidate" not in request.user and request.seed % 4 == 3:
            raise OSError("reset")
        return reply(request)

    requests = run(tmp_path, topk(), flaky)
    found = export_picks(tmp_path, topk(), QUESTIONS, Secret())
    assert prompts(found) <= sent(requests, "Selected: <")
    assert found.counts["picks"] == 4, "of 3 + 3? the three drafts that came are right"


def test_a_program_with_a_model_of_its_own_for_picks(tmp_path: Path) -> None:
    run(tmp_path, topk())
    schedule = topk().schedule.replace(distill_model="picker")
    program = Operator("question -> answer", schedule, models={"picker": scripted_lm(lambda _: pytest.fail("called"))})
    found = export_picks(tmp_path, program, QUESTIONS, Secret())
    assert found.counts["picks"] == 5


# ---- a teacher


def test_a_teacher_reads_the_reference_and_the_student_does_not(tmp_path: Path) -> None:
    program = topk()
    requests = run(tmp_path, program)
    asked: list[ScriptedRequest] = []

    def teacher(request: ScriptedRequest) -> str:
        asked.append(request)
        right = right_places(request.user)[0]
        n = int(request.user.split("Question:")[1].split()[0])
        if n == 1:
            return f"As the reference says.\nSelected: [{right}]"
        if n == 2:
            return f"It is GOLD-2, I know.\nSelected: [{right}]"
        if n == 3:
            return f"I think otherwise.\nSelected: [{5 - right if 5 - right not in right_places(request.user) else 9}]"
        return f"Candidate {right} adds up.\nSelected: [{right}]"

    found = export_picks(tmp_path, program, QUESTIONS, Secret(), teacher=scripted_lm(teacher))
    assert all(f"GOLD-{n}" in asked[place].user for place, n in enumerate((1, 2, 3, 5, 6)))
    assert (found.counts["leaked"], found.counts["disagreed"], found.counts["picks"]) == (2, 1, 2)
    assert prompts(found) <= sent(requests, "Selected: <")
    assert not gold_in_prompts(found)
    assert all("adds up.\nSelected: [" in sample.messages[-1]["content"] for sample in found.samples)


def test_a_teacher_that_fails_is_counted(tmp_path: Path) -> None:
    run(tmp_path, topk())

    def down(request: ScriptedRequest) -> str:
        raise OSError("reset")

    found = export_picks(tmp_path, topk(), QUESTIONS, Secret(), teacher=scripted_lm(down))
    assert (found.samples, found.counts["failed"]) == ((), 5)


def test_a_teacher_needs_the_gold(tmp_path: Path) -> None:
    class Without(Secret):
        gold = "no such field"

    run(tmp_path, topk())
    with pytest.raises(DataError, match="no gold answer"):
        export_picks(tmp_path, topk(), QUESTIONS, Without(), teacher=scripted_lm(lambda _: "Selected: [1]"))


# ---- verdicts


@pytest.mark.parametrize("field", [None, "answer"])
def test_verdicts_are_those_of_the_programs_judge(tmp_path: Path, field: str | None) -> None:
    program = judged(field=field)
    requests = run(tmp_path, program)
    found = export_verdicts(tmp_path, program, QUESTIONS, Secret())
    assert found.samples
    assert prompts(found) <= sent(requests, "meet the criteria")
    assert not gold_in_prompts(found)
    for sample in found.samples:
        _, user, answer = sample.messages
        n = int(user["content"].split("Question:")[1].split()[0])
        said = re.search(r"(\d+)\n</answer>", user["content"])
        assert said is not None
        assert answer["content"] == ("Yes" if said[1] == str(2 * n) else "No")
    assert {sample.messages[-1]["content"] for sample in found.samples} == {"Yes", "No"}
    # every sibling's text differs; of the answers alone the right ones are equal, and are judged once
    right = {n: n % 4 for n in NUMBERS}
    assert found.counts["verdicts"] == (24 if field is None else sum(4 - max(many - 1, 0) for many in right.values()))
    assert found.counts["verdicts"] + found.counts["duplicates"] == 24, "every draft is counted"


def test_drafts_without_an_answer_give_no_verdict_and_are_counted(tmp_path: Path) -> None:
    def odd(request: ScriptedRequest) -> str:
        drafts = "Workspace" not in request.user and "meet the criteria" not in request.user
        if drafts and request.seed % 4 == 0:
            raise OSError("reset")
        return "I do not know" if drafts and request.seed % 4 == 1 else reply(request)

    run(tmp_path, judged(), odd)
    found = export_verdicts(tmp_path, judged(), QUESTIONS, Secret())
    assert (found.counts["rows"], found.counts["verdicts"], found.counts["no_answer"]) == (6, 12, 12)


def test_examples_without_a_row_are_counted(tmp_path: Path) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        evaluate(topk(), QUESTIONS[:4], Secret(), run_dir=tmp_path)
    for found in (
        export_picks(tmp_path, topk(), QUESTIONS, Secret()),
        export_verdicts(tmp_path, judged(), QUESTIONS, Secret()),
        export(tmp_path, topk(), QUESTIONS, Secret()),
    ):
        assert (found.counts["rows"], found.counts["examples_without_row"]) == (4, 2)


def test_gold_answers_that_were_corrected_since_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, topk())
    expected = export_picks(tmp_path, topk(), QUESTIONS, Secret())
    asked_picks(tmp_path, topk(), QUESTIONS, Secret())
    assert not caplog.records
    corrected = [example.copy(answer="GOLD-9") if example.id in ("q1", "q2") else example for example in QUESTIONS]
    assert export_picks(tmp_path, topk(), corrected, Secret()) == expected
    (record,) = caplog.records
    assert "the scores of 2 rows were given with another gold answer" in record.getMessage()
    assert "run `pdr eval` again" in record.getMessage()
    asked_picks(tmp_path, topk(), corrected, Secret())
    assert len(caplog.records) == 2


def test_what_another_models_replay_was_shown_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path, judged())
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    expected = export_verdicts(tmp_path, judged(), QUESTIONS, Secret())
    path.write_text(json.dumps({**config, "models": ["another/model", *config["models"], "third/model"]}))
    assert export_verdicts(tmp_path, judged(), QUESTIONS, Secret()) == expected
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    wrong = [line.replace('"key":"', '"key":"x') if '"q1"' in line else line for line in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(wrong) + "\n")
    less = export_verdicts(tmp_path, judged(), QUESTIONS, Secret())
    assert less.counts["not_stored"] == 1
    assert less.samples == tuple(sample for sample in expected.samples if sample.id != "q1")


def test_a_teachers_verdict_is_kept_if_the_verifier_agrees(tmp_path: Path) -> None:
    program = judged()
    requests = run(tmp_path, program)
    shown: list[str] = []

    def teacher(request: ScriptedRequest) -> str:
        shown.append(request.user)
        return "Yes"

    found = export_verdicts(tmp_path, program, QUESTIONS, Secret(), teacher=scripted_lm(teacher))
    assert all("Reference answer, which is right:\nGOLD-" in user for user in shown)
    assert {sample.messages[-1]["content"] for sample in found.samples} == {"Yes"}
    assert found.counts["disagreed"] == 24 - found.counts["verdicts"]
    assert prompts(found) <= sent(requests, "meet the criteria")
    assert not gold_in_prompts(found)


# ---- summaries


def test_summaries_whose_refinement_was_right(tmp_path: Path) -> None:
    def summarising(request: ScriptedRequest) -> str:
        n = int(request.user.split("Question:")[1].split()[0])
        if "Workspace:" in request.user:
            return "Refined, no answer" if n == 5 else f"Refined. Answer: {2 * n if n % 2 else 0}"
        return reply(request)

    program = PDR("question -> answer", widths=(4, 1), distiller="summary", draft_tokens=100)
    requests = run(tmp_path, program, summarising)
    found = export(tmp_path, program, QUESTIONS, Secret(), what="summaries")
    assert [(sample.id, sample.kind) for sample in found.samples] == [("q1", "summary"), ("q3", "summary")]
    assert prompts(found) <= sent(requests, "Candidate 1:")
    assert not gold_in_prompts(found)
    assert found.counts["summaries"] == 2
    with pytest.raises(ConfigError, match="makes distill calls"):
        export(tmp_path, topk(), QUESTIONS, Secret(), what="summaries")


def test_a_program_of_two_models_is_exported_whole(tmp_path: Path) -> None:
    def refining(request: ScriptedRequest) -> str:
        n = int(request.user.split("Question:")[1].split()[0])
        return f"Refined. Answer: {2 * n}" if "Workspace:" in request.user else reply(request)

    schedule = topk().schedule.replace(distill_model="picker")
    picker = scripted_lm(refining, model="scripted/model:picker")
    run(tmp_path, program := Operator("question -> answer", schedule, models={"picker": picker}), refining)
    assert {"Candidates:" in request.user for request in picker.served.requests} == {True}
    found = export(tmp_path, program, QUESTIONS, Secret())
    assert (found.counts["workspaces"], found.counts["refinements"], found.counts["other_prompt"]) == (6, 6, 0)
    assert found.counts["drafts"] > 0
    assert export_picks(tmp_path, program, QUESTIONS, Secret()).counts["picks"] == 5


# ---- what is refused


def test_what_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="makes select calls"):
        export_picks(tmp_path, LongCoT("question -> answer"), QUESTIONS, Secret())
    with pytest.raises(ConfigError, match="results of the check 'check', which asks a model"):
        export_picks(tmp_path, topk(check=JudgeCheck()), QUESTIONS, Secret())
    with pytest.raises(ConfigError, match="needs a program with a JudgeCheck"):
        export_verdicts(tmp_path, topk(), QUESTIONS, Secret())
    with pytest.raises(ConfigError, match="must be an operator"):
        export_picks(tmp_path, dspy.Predict("question -> answer"), QUESTIONS, NumberVerifier())
    with pytest.raises(ConfigError, match="orders=0"):
        export_picks(tmp_path, topk(), QUESTIONS, Secret(), orders=0)
    with pytest.raises(StoreError, match="holds no evaluation"):
        export_picks(tmp_path, topk(), QUESTIONS, Secret())
    run(tmp_path, topk())
    with pytest.raises(StoreError, match="no finished row"):
        export_picks(tmp_path, topk(), [dspy.Example(question="?", answer="1", id="x")], Secret())


# ---- a verifier that fails


class Failing(Secret):
    """It fails on the drafts of one question."""

    grades_drafts = False

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        if example.id == "q1":
            raise self.failure
        return super().__call__(example, prediction, trace)


@pytest.mark.parametrize("failure", [SystemExit(3), KeyError("odd"), StopIteration()], ids=repr)
def test_drafts_that_the_verifier_fails_on_are_left_out_and_counted(
    tmp_path: Path, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        evaluate(topk(), QUESTIONS, lambda example, prediction: 1.0, run_dir=tmp_path)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    bare = [json.loads(row) for row in rows]
    for row in bare:
        for round_ in row["rounds"]:
            for draft in round_["drafts"]:
                draft["score"] = None
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in bare))
    caplog.clear()
    found = export_picks(tmp_path, topk(), QUESTIONS, Failing(failure))
    assert found.counts["ungraded"] == 1
    assert {sample.id for sample in found.samples} == {"q2", "q3", "q5", "q6"}
    (record,) = caplog.records
    assert type(failure).__name__ in record.getMessage()
    verdicts = export_verdicts(tmp_path, judged(), QUESTIONS, Failing(failure))
    assert verdicts.counts["ungraded"] > 0
    assert "q1" not in {sample.id for sample in verdicts.samples}
    asked = asked_picks(tmp_path, topk(), QUESTIONS, Failing(failure))
    assert {each.id for each in asked} == {"q2", "q3", "q5", "q6"}


def test_an_interrupt_ends_an_export(tmp_path: Path) -> None:
    run(tmp_path, judged())
    with pytest.raises(KeyboardInterrupt):
        export_verdicts(tmp_path, judged(), QUESTIONS, Failing(KeyboardInterrupt()))
