"""What docs/guides/checks.md says works: its Python runs in the order in which it stands."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import BestOfN
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.checks import CHECKS, Calibration, RewardCheck
from tests.support.textbook import textbook

PAGE = Path("docs/guides/checks.md").resolve()
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n+```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
TRAINSET = [
    dspy.Example(id=str(n), question=f"What is {n} + 1?", answer=str(n + 1)).with_inputs("question") for n in range(12)
]


def reply(request: ScriptedRequest) -> str:
    """Right and in one word for one draft of two; as a judge, it sees that half of the time."""
    asked = re.findall(r"What is (\d+) \+ 1\?", request.user)
    right = str(int(asked[-1]) + 1) if asked else "two"
    if "Reply Yes or No" in request.user:
        return "Yes" if right in request.user.split("<answer>")[1] else "No"
    said = right if request.seed % 2 or "Check result" in request.user else "I do not know"
    return f"Reasoning: so.\nAnswer: {said}" if "reasoning" in request.system.lower() else f"Answer: {said}"


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    yield {"trainset": TRAINSET, "metric": lambda example, pred, trace=None: float(example.answer == pred.answer)}
    CHECKS.remove("one-word")


@pytest.mark.slow
def test_the_page_runs(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 7
    scripted = scripted_lm(reply, directly=True)
    for number, (block, shown) in enumerate(blocks):
        with dspy.context(lm=textbook() if shown else scripted, adapter=dspy.ChatAdapter()):
            if "one_word" in space and "one_word_check" not in space:
                space["one_word_check"] = RewardCheck(space["one_word"])
            file = f"checks.md, block {number + 1}"
            linecache.cache[file] = (len(block), None, block.splitlines(keepends=True), file)  # DSPy reads the source
            exec(compile(block, file, "exec"), space)
        if shown:
            assert capsys.readouterr().out == shown
    with dspy.context(lm=scripted, adapter=dspy.ChatAdapter()):
        calibration = space["trusted"].calibration
        assert isinstance(calibration, Calibration)
        assert calibration.questions == 12
        assert calibration.precision == 1.0
        for name in ("ours", "again"):
            assert len(space[name](question="What is 6 + 1?").answer.split()) == 1
    assert space["again"].checks == space["program"].checks


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if "://" not in link and not (PAGE.parent / link).exists()] == []


def one_word(args: Any, pred: Any) -> float:
    return 1.0 if len(pred.answer.split()) == 1 else 0.0


def test_ours_answers_as_dspys_best_of_n_does() -> None:
    lm = scripted_lm(reply, directly=True)
    with dspy.context(lm=lm):
        ours = BestOfN("question -> answer", n=4, check=one_word, stop_at=1.0)(question="What is 6 + 1?")
    assert ours.answer == "7"
    assert ours.rounds[0].drafts[-1].score == 1.0
