"""What an evaluation got right, as a chat dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

from pdr_dspy.cli.app import app
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.testing import Completion, ScriptedRequest, scripted_lm
from pdr_dspy.training.export_sft import Exported, Sample, export, write
from pdr_dspy.verifiers import NumberVerifier

QUESTIONS = [
    dspy.Example(question=f"{n} + {n}?", answer=str(2 * n), id=f"q{n}").with_inputs("question") for n in (1, 2, 3)
]


def pdr() -> Operator:
    return PDR("question -> answer", widths=(3, 1), distiller="summary", draft_tokens=100)


def reply(request: ScriptedRequest) -> str | Completion:
    """Drafts: every sibling with an odd seed is right; the refinement of the last question is wrong."""
    right = str(2 * int(request.user.split("Question:")[1].split()[0]))
    if "Candidate 1:" in request.user:
        return f"The attempts say {right}"
    if "The attempts say" in request.user:
        return f"Refined. Answer: {0 if right == '6' else right}"
    return f"Draft {request.seed % 2}. Answer: {right if request.seed % 2 else 0}"


def run(folder: Path, program: Operator, answering: Any = reply, **settings: Any) -> None:
    with dspy.context(lm=scripted_lm(answering)):
        evaluate(program, QUESTIONS, NumberVerifier(), run_dir=folder, **settings)


def texts(found: Exported, kind: str) -> list[tuple[str, str]]:
    return [(sample.id, sample.messages[-1]["content"]) for sample in found.samples if sample.kind == kind]


def test_what_was_right_and_what_it_had_read(tmp_path: Path) -> None:
    served: list[ScriptedRequest] = []

    def noted(request: ScriptedRequest) -> str | Completion:
        served.append(request)
        return reply(request)

    run(tmp_path, pdr(), noted)
    found = export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    assert texts(found, "draft") == [
        ("q1", "Draft 1. Answer: 2"),
        ("q2", "Draft 1. Answer: 4"),
        ("q3", "Draft 1. Answer: 6"),
    ]
    assert texts(found, "workspace") == [("q1", "The attempts say 2"), ("q2", "The attempts say 4")]
    assert texts(found, "refinement") == [("q1", "Refined. Answer: 2"), ("q2", "Refined. Answer: 4")]
    assert {name: count for name, count in found.counts.items() if count} == {
        "drafts": 3,
        "workspaces": 2,
        "refinements": 2,
        "rows": 3,
        "right_rows": 2,
    }
    asked = {(request.system, request.user) for request in served}
    for sample in found.samples:
        system, user, answer = sample.messages
        assert (system["content"], user["content"]) in asked
        assert [message["role"] for message in sample.messages] == ["system", "user", "assistant"]
        assert set(answer) == {"role", "content"}


def test_long_traces_with_their_thought(tmp_path: Path) -> None:
    def thinking(request: ScriptedRequest) -> Completion:
        right = 2 * int(request.user.split("Question:")[1].split()[0])
        return Completion(f"Answer: {right}", thought="Twice the same.")

    program = LongCoT("question -> answer", thinking_tokens=50)
    run(tmp_path, program, thinking, repeats=2)
    found = export(tmp_path, program, QUESTIONS, NumberVerifier())
    assert texts(found, "trace") == [("q1", "Answer: 2"), ("q2", "Answer: 4"), ("q3", "Answer: 6")]
    assert all(sample.messages[-1]["reasoning_content"] == "Twice the same." for sample in found.samples)
    assert found.counts["duplicates"] == 3
    assert found.counts["rows"] == 6


def test_cut_and_lost_completions_are_left_out(tmp_path: Path) -> None:
    program = LongCoT("question -> answer", draft_tokens=6)
    run(tmp_path / "cut", program, lambda request: f"Answer: {2 * int(request.user.split()[1])}\nand so on and on")
    found = export(tmp_path / "cut", program, QUESTIONS, NumberVerifier())
    assert (found.samples, found.counts["truncated"], found.counts["right_rows"]) == ((), 3, 3)

    run(tmp_path / "lost", pdr())
    for segment in (tmp_path / "lost" / "rollouts").iterdir():
        segment.unlink()
    found = export(tmp_path / "lost", pdr(), QUESTIONS, NumberVerifier())
    assert (found.samples, found.counts["not_stored"]) == ((), 7)


def test_prompts_that_are_no_longer_the_same_are_left_out(tmp_path: Path) -> None:
    run(tmp_path, pdr())
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "models": ["scripted/other"]}))
    found = export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    assert (found.samples, found.counts["other_prompt"]) == ((), 7)


def test_a_call_that_failed_then_fails_again(tmp_path: Path) -> None:
    def flaky(request: ScriptedRequest) -> str | Completion:
        if "Candidate" not in request.user and "attempts" not in request.user and request.seed % 2 == 0:
            raise OSError("reset")
        return reply(request)

    run(tmp_path, pdr(), flaky)
    found = export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    assert found.counts["refinements"] == found.counts["workspaces"] == 2
    assert found.counts["other_prompt"] == 0


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no evaluation"):
        export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    (tmp_path / "config.json").write_text('{"kind": "training"}')
    with pytest.raises(StoreError, match="holds no evaluation"):
        export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StoreError, match="not readable JSON"):
        export(tmp_path, pdr(), QUESTIONS, NumberVerifier())
    run(tmp_path / "run", pdr())
    with pytest.raises(StoreError, match="another program"):
        export(tmp_path / "run", LongCoT("question -> answer"), QUESTIONS, NumberVerifier())
    with pytest.raises(StoreError, match="no finished row"):
        export(tmp_path / "run", pdr(), [dspy.Example(question="?", answer="1", id="x")], NumberVerifier())
    with pytest.raises(ConfigError, match="must be an operator"):
        export(tmp_path / "run", dspy.Predict("question -> answer"), QUESTIONS, NumberVerifier())


def test_it_is_written_as_chat(tmp_path: Path) -> None:
    sample = Sample("trace", ({"role": "user", "content": "ναί?"}, {"role": "assistant", "content": "2"}), "q", 0, 1)
    write(tmp_path / "deep" / "out.jsonl", [sample, sample])
    lines = (tmp_path / "deep" / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {**sample._asdict(), "messages": list(sample.messages)}
    assert len(lines) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write(tmp_path / "file" / "out.jsonl", [sample])


PROGRAM = '''
"""Doubling."""
import dspy
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.verifiers import NumberVerifier

def build():
    return PDR("question -> answer", widths=(3, 1), distiller="summary", draft_tokens=100)

def data(split="test", *, limit=None, seed=0):
    return [
        dspy.Example(question=f"{n} + {n}?", answer=str(2 * n), id=f"q{n}").with_inputs("question") for n in (1, 2, 3)
    ][:limit]

def verifier():
    return NumberVerifier()
'''


@pytest.mark.slow
def test_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("programs").mkdir()
    Path("programs/doubling_for_sft.py").write_text(PROGRAM)
    run(Path("runs/eval-doubling_for_sft-0123abcd"), pdr())
    run(Path("other"), pdr())
    runner = CliRunner()

    def pdr_export(*arguments: str) -> Any:
        return runner.invoke(app, ["export-sft", *arguments, "--out", "out.jsonl"])

    named = pdr_export("runs/eval-doubling_for_sft-0123abcd")
    assert named.exit_code == 0, named.output
    assert "7 samples" in named.output
    assert len(Path("out.jsonl").read_text().splitlines()) == 7
    counted = pdr_export("other", "--program", "programs/doubling_for_sft.py", "--json")
    assert json.loads(counted.stdout)["refinements"] == 2
    summaries = pdr_export("other", "--program", "programs/doubling_for_sft.py", "--what", "summaries", "--json")
    assert json.loads(summaries.stdout)["summaries"] == 2
    assert [json.loads(line)["kind"] for line in Path("out.jsonl").read_text().splitlines()] == ["summary"] * 2
    Path("picker.py").write_text(PROGRAM.replace('"summary"', '"topk", k=1'))
    picks = pdr_export("other", "--program", "picker.py", "--what", "picks", "--orders", "4", "--json")
    assert json.loads(picks.stdout)["picks"] > 3, "the drafts of another program with the same first round"
    for wrong, said in (
        (("--what", "all"), "must be one of right, summaries, picks, verdicts"),
        (("--what", "verdicts"), "needs a program with a JudgeCheck"),
        (("--what", "right", "--teacher"), "makes picks and verdicts"),
        (("--what", "right", "--orders", "2"), "is for `--what picks`"),
    ):
        refused = pdr_export("other", "--program", "programs/doubling_for_sft.py", *wrong)
        assert (refused.exit_code, said in refused.output) == (2, True), refused.output
    Path("lost").mkdir()
    for name in ("config.json", "rows.jsonl"):
        Path("lost", name).write_bytes(Path("other", name).read_bytes())
    kept = Path("out.jsonl").read_text()
    run(Path("wrong"), pdr())
    rows = Path("wrong/rows.jsonl").read_text()
    Path("wrong/rows.jsonl").write_text(rows.replace('"score":1.0', '"score":0.0'))
    wrong = pdr_export("wrong", "--program", "programs/doubling_for_sft.py")
    assert wrong.exit_code == 2
    assert "makes no sample with `--what right` (" in wrong.output
    assert "0 right rows" in wrong.output
    for program, what, many in (("programs/doubling_for_sft.py", "right", "7 calls"), ("picker.py", "picks", "3 rows")):
        lost = pdr_export("lost", "--program", program, "--what", what)
        assert (lost.exit_code, f"lacks the completions of {many}" in lost.output) == (1, True), lost.output
    assert Path("out.jsonl").read_text() == kept
    rows = Path("other/rows.jsonl").read_text().splitlines()
    Path("other/rows.jsonl").write_text(f"{rows[0]}\n")
    part = pdr_export("other", "--program", "programs/doubling_for_sft.py")
    assert "2 examples without row" in part.output
    Path("programs/doubling_for_sft.py").rename("doubling_for_sft.py")
    moved = pdr_export("runs/eval-doubling_for_sft-0123abcd")
    assert moved.exit_code == 2
    assert "`--program` names what" in moved.output
    assert pdr_export("other").exit_code == 2
    assert "--program" in pdr_export("other").output
    assert pdr_export("programs").exit_code == 1
