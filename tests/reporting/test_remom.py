"""Schedules for vLLM's semantic router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest
import yaml
from typer.testing import CliRunner

from pdr_dspy import PDR, SR, LongCoT, Operator, SelfConsistency, save
from pdr_dspy.cli import app as cli
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.consensus import needed
from pdr_dspy.reporting.remom import as_remom

FITS = {"distiller": "random_k", "draft_tokens": 100, "kappa": 800}


SCHEMA: dict[str, type] = {
    "breadth_schedule": list,
    "model_distribution": str,
    "temperature": float,
    "include_reasoning": bool,
    "compaction_strategy": str,
    "compaction_tokens": int,
    "synthesis_template": str,
    "synthesis_model": str,
    "max_concurrent": int,
    "max_completion_tokens": int,
    "round_timeout_seconds": int,
    "min_successful_responses": int,
    "on_error": str,
    "shuffle_seed": int,
    "include_intermediate_responses": bool,
    "max_responses_per_round": int,
}
"""`ReMoMAlgorithmConfig` of the router's configuration schema v0.3 (vllm-sr 0.4.0), which allows no others."""
DECISION = {"name": str, "description": str, "priority": int, "output_contract": str, "algorithm": dict}
"""The fields of `Decision` there that an export may use."""


def pdr(signature: Any = "question -> answer", **settings: Any) -> Operator:
    return PDR(signature, **{**FITS, **settings})


def remom(program: dspy.Module) -> dict[str, Any]:
    (decision,) = yaml.safe_load(as_remom(program, "best"))["routing"]["decisions"]
    assert decision["algorithm"]["type"] == "remom"
    return decision["algorithm"]["remom"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (pdr(widths=(4, 1), k=4), {"breadth_schedule": [4]}),
        (pdr(widths=(8, 1), k=3), {"breadth_schedule": [8], "max_responses_per_round": 3}),
        (pdr(widths=(4, 4, 1), k=4, temperature=0.6), {"breadth_schedule": [4, 4], "temperature": 0.6}),
        (pdr(widths=(8, 1), k=8, quorum=0.7), {"breadth_schedule": [8], "min_successful_responses": needed(8, 0.7)}),
        (pdr(widths=(2, 1), k=2, thinking_tokens=50), {"max_completion_tokens": 150}),
        (SR("question -> answer", rounds=3, draft_tokens=100, kappa=200), {"breadth_schedule": [1, 1]}),
    ],
)
def test_what_remom_can_do_is_reported(program: Operator, said: dict[str, Any]) -> None:
    got = remom(program)
    assert said.items() <= got.items()
    assert set(got) - set(said) <= {
        *("breadth_schedule", "temperature", "compaction_strategy", "max_completion_tokens", "include_reasoning"),
        *("include_intermediate_responses", "on_error"),
    }
    assert sum(got["breadth_schedule"]) + 1 == program.schedule.calls
    assert all(type(value) is SCHEMA[name] for name, value in got.items())
    (decision,) = yaml.safe_load(as_remom(program, "best"))["routing"]["decisions"]
    assert all(type(value) is DECISION[name] for name, value in decision.items())


def tuned() -> Operator:
    program = pdr(widths=(4, 1), k=4)
    return program.with_schedule(program.schedule, instructions={"draft": "Think hard."})


def shown() -> Operator:
    program = pdr(widths=(4, 1), k=4)
    return program.with_schedule(program.schedule, demos={"draft": [{"question": "1+1", "answer": "2"}]})


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (LongCoT("question -> answer"), "is one round"),
        (SelfConsistency("question -> answer", n=8), "is one round"),
        (pdr(widths=(4, 1), distiller="summary"), "`distiller='summary'`"),
        (pdr(widths=(4, 1), distiller="topk", k=2), "`distiller='topk'`"),
        (pdr(widths=(8, 4, 1), k=4), "`k=4` of 8 drafts, others for each of the next 4"),
        (pdr(widths=(4, 1), k=4, kappa=300), "`kappa=300` cuts 4 answers"),
        (pdr(widths=(4, 1), k=4, refine_tokens=50), "`refine_tokens=50`"),
        (pdr(widths=(4, 1), k=4, temperature=0.0), "`temperature=0`"),
        (pdr(widths=(4, 1), k=4, top_p=0.9), "`top_p=0.9`"),
        (pdr(widths=(8, 4, 1), k=4, quorum=0.7), "`quorum=0.7` of widths that differ"),
        (pdr(widths=(4, 1), k=4, agree=0.95), "`agree=0.95`"),
        (pdr(widths=(4, 1), k=4, tally=True), "`tally=True`"),
        (SR("question -> answer", rounds=2, draft_tokens=100, kappa=200, critique=True), "`critique=True`"),
        (pdr(widths=(4, 3), k=4, final="vote"), "`final='vote'`"),
        (pdr(widths=(4, 1), k=4, check=lambda args, pred: 1.0, stop_at=1.0), "`check='check'`; `stop_at=1.0`"),
        (pdr("question, context -> answer", widths=(4, 1), k=4), "the inputs question, context"),
        (pdr("question -> answer: int", widths=(4, 1), k=4), "the type of `answer`"),
        (pdr(widths=(4, 1), k=4, agree=0.95, first_wave=2), "`first_wave=2`"),
        (pdr("question -> answer, why", widths=(4, 1), k=4), "the outputs answer, why"),
        (tuned(), "the tuned instructions of `draft`"),
        (shown(), "the demonstrations of `draft`"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_name(program: Operator, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        as_remom(program, "best")
    assert why in str(raised.value)


def test_a_module_of_several_steps_is_refused() -> None:
    class Steps(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = pdr(widths=(4, 1), k=4)

    with pytest.raises(ConfigError, match="several steps"):
        as_remom(Steps(), "best")


def test_what_a_task_says_of_itself_goes_along() -> None:
    class Task(dspy.Signature):
        """Answer in one word: "yes" or no."""

        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    (decision,) = yaml.safe_load(as_remom(pdr(Task, widths=(4, 1), k=4), "best"))["routing"]["decisions"]
    assert decision["output_contract"] == 'Answer in one word: "yes" or no.'
    (decision,) = yaml.safe_load(as_remom(pdr(widths=(4, 1), k=4), "a: b"))["routing"]["decisions"]
    assert "output_contract" not in decision
    assert decision["name"] == "a: b"


def test_the_command_writes_it_beside_the_program(tmp_path: Path) -> None:
    saved = save(pdr(widths=(4, 1), k=4), tmp_path / "best.json")
    done = CliRunner().invoke(cli.app, ["export", str(saved), "--to", "remom"])
    assert done.exit_code == 0, done.stderr
    written = Path(done.stdout.strip())
    assert written == tmp_path / "best.remom.yaml"
    assert yaml.safe_load(written.read_text())["routing"]["decisions"][0]["name"] == "best"
    save(pdr(widths=(4, 1), k=4, tally=True), saved)
    done = CliRunner().invoke(cli.app, ["export", str(saved), "--to", "remom"])
    assert done.exit_code == 2
    assert "`tally=True`" in done.stderr
    done = CliRunner().invoke(cli.app, ["export", str(tmp_path), "--to", "remom"])
    assert done.exit_code == 2
    assert "takes a saved program" in done.stderr
