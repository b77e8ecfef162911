"""The study of a trained picker: it learns on a toy, resumes, and its table says what the lines say."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import paired
from studies import distiller, residues
from studies.distiller import Scored
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on the toy, with other questions than those of the published table."""
    folder = tmp_path_factory.mktemp("study")
    residues.study(folder, seeds=1, place=folder, learnt=160, held_out=100, first=0, steps=250)
    return folder


def test_the_picker_learns_and_tells_on_held_out_questions(folder: Path) -> None:
    about, scored = distiller.read_scores(folder / "residues-toy.jsonl")
    assert about["questions"] == 100
    scores = {name: [each.scores[name] for each in scored] for name in ("any draft", "vote", "base", "trained 0")}
    base = paired(scores["base"], scores["any draft"])
    assert base.interval.low < 0 < base.interval.high, "random weights pick by chance"
    for other in ("base", "any draft", "vote"):
        assert paired(scores["trained 0"], scores[other]).interval.low > 0, other
    text = distiller.table(folder / "residues-toy.jsonl")
    gained = paired(scores["trained 0"], scores["base"])
    assert f"{gained.difference:+.3f} [{gained.interval.low:+.3f}, {gained.interval.high:+.3f}] |\n" in text


def test_no_question_is_learnt_and_measured(folder: Path) -> None:
    learnt = {json.loads(line)["id"] for line in (folder / "picks.jsonl").read_text().splitlines()}
    _, scored = distiller.read_scores(folder / "residues-toy.jsonl")
    assert len(learnt) > 80
    assert not learnt & {each.question for each in scored}


def test_what_is_done_is_not_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "residues-toy.jsonl").read_text().splitlines()[1:]
    monkeypatch.setattr(distiller, "loaded", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(residues, "drafter", lambda: pytest.fail("drafted again"))
    monkeypatch.setattr("pdr_dspy.training.sft._trainer", lambda *_: pytest.fail("trained again"))
    residues.study(folder, seeds=1, place=folder, learnt=160, held_out=100, first=0, steps=250)
    assert (folder / "residues-toy.jsonl").read_text().splitlines()[1:] == before
    (folder / "measured-base.json").unlink()
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        residues.study(folder, seeds=1, place=folder, learnt=160, held_out=100, first=0, steps=250)


def test_chances_are_those_of_the_token_that_differs(tmp_path: Path) -> None:
    model, tokenizer = distiller.loaded(residues.untrained(tmp_path), None)
    messages = [{"role": "user", "content": "1) 17\n2) 4\nremainder 2\n"}]
    replies = [f"Selected: [{place}]" for place in (1, 2)]
    found = distiller.chances(model, tokenizer, messages, replies)
    ids = tokenizer.encode(messages[0]["content"])
    assert len(ids) == 3
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    one, two = (logits[tokenizer.encode(reply)[0]].item() for reply in replies)
    assert found == pytest.approx((1 / (1 + math.exp(two - one)), 1 / (1 + math.exp(one - two))), abs=1e-6)
    with pytest.raises(ConfigError, match="do not differ"):
        distiller.chances(model, tokenizer, messages, [replies[0], replies[0]])


def test_a_table_of_known_scores(tmp_path: Path) -> None:
    scored = [
        Scored(str(n), {"any draft": 0.5, "vote": float(n % 2), "base": 0.5, "trained 0": 1.0, "trained 1": 0.5})
        for n in range(10)
    ]
    text = distiller.table(distiller.write_scores("made", scored, {"questions": 12}, tmp_path))
    assert "10 held-out questions with right and wrong drafts. questions: 12." in text
    (line,) = [line for line in text.splitlines() if line.startswith("| trained |")]
    assert re.findall(r"\S+(?= \[)", line) == ["0.750", "+0.250", "+0.250", "+0.250"]
    assert "| vote | 0.500" in text
    assert "Trained, by seed: 1.000, 0.500." in text


def test_the_published_pages_are_those_of_the_lines() -> None:
    assert (distiller.OUT / "distiller.md").read_text() == distiller.page()


@pytest.mark.parametrize("name", ["sums", "code"])
def test_tasks_share_no_question(name: str) -> None:
    made = getattr(distiller, name)(12)
    learnt, held_out = ({str(example.inputs()) for example in part} for part in (made.learnt, made.held_out))
    assert learnt
    assert held_out
    assert not learnt & held_out
    assert made.picking.schedule.widths == (8, 1)


def test_at_the_command_line(tmp_path: Path) -> None:
    from typer import Typer

    app = Typer()
    app.command()(distiller.main)
    refused = CliRunner().invoke(app, ["--task", "poetry", "--run-dir", str(tmp_path)])
    assert refused.exit_code == 2
    assert "must be arithmetic or humaneval" in refused.output
