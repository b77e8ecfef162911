"""The whole road on a real model: serve, run, evaluate, save, load, run again. SmolLM2-135M gets little right; the road
and its book-keeping are what is tested."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest

from optimize.wheel_weights import SOURCES
from pdr_dspy import artifact
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR
from pdr_dspy.serving import LlamaCppServer
from programs import arithmetic

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("smollm2"), pytest.mark.timeout(600)]
SCHEDULE = Schedule(widths=(4, 1), distiller="random_k", k=2, kappa=128, draft_tokens=40, temperature=0.8)


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaCppServer]:
    with LlamaCppServer("smollm2-135m", slots=4, context=512, sources=SOURCES) as running:
        yield running


def generated(server: LlamaCppServer) -> int:
    """Tokens that the server has generated since it started, by its own count."""
    with urllib.request.urlopen(server.api_base.removesuffix("/v1") + "/metrics", timeout=30) as page:
        found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", page.read().decode(), re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def test_the_road(server: LlamaCppServer, tmp_path: Path) -> None:
    examples = arithmetic.data("train", limit=2)
    program = PDR(arithmetic.Arithmetic, SCHEDULE)
    with dspy.context(lm=server.lm), Rollouts(tmp_path / "rollouts") as store:
        before = generated(server)
        report = evaluate(program, examples, arithmetic.verifier(), run_dir=tmp_path / "run", store=store)
        assert generated(server) - before == sum(row.output for row in report.rows)
        assert [len(row.calls) for row in report.rows] == [5, 5]
        assert report.failed == 0
        for row in report.rows:
            assert 0 < row.sequential < row.total
            assert not any(call.estimated for call in row.calls)
            assert max(row.rounds[0].workspace_tokens) <= SCHEDULE.kappa

        path = artifact.save(program, tmp_path / "best.json", verifier=arithmetic.verifier(), figures=[report])
        before = generated(server)
        again = evaluate(artifact.load(path), examples, arithmetic.verifier(), store=store)
        assert again.reused == 1.0
        assert generated(server) == before
        assert [row.answer for row in again.rows] == [row.answer for row in report.rows]


def test_a_refinement_reads_what_the_draft_wrote(server: LlamaCppServer) -> None:
    program = SR("question -> answer", rounds=2, draft_tokens=32, kappa=64)
    with dspy.context(lm=server.lm):
        prediction = program(question="Name a colour.")
    assert prediction.stop in (Stop.DONE, Stop.FELL_BACK, Stop.NO_ANSWER)
    assert [call.phase for call in prediction.ledger.calls] == ["draft", "refine"]
    assert prediction.ledger.total == prediction.ledger.sequential
    assert prediction.rounds[0].drafts[0].solution.endswith(prediction.rounds[0].workspaces[0].text[-10:])
