"""Program files: what their parts may be."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from pdr_dspy.cli.program_files import find_task
from pdr_dspy.errors import ConfigError
from pdr_dspy.verifiers import Verifier

FILE = """
from pdr_dspy import LongCoT


def build():
    return LongCoT("question -> answer")


def data(split="test", *, limit=None, seed=0):
    return []


def metric(example, prediction, trace=None):
    return example.answer == prediction.answer


def verifier():
    return {returned}
"""


@pytest.mark.parametrize("returned", ["metric", "lambda example, prediction: metric(example, prediction)"])
def test_a_program_file_may_return_a_plain_metric(returned: str, tmp_path: Path) -> None:
    path = tmp_path / f"own_metric_{len(returned)}.py"
    path.write_text(FILE.format(returned=returned))
    verifier = find_task(str(path)).verifier()
    assert isinstance(verifier, Verifier)
    assert verifier(dspy.Example(answer="1"), dspy.Prediction(answer="1")) == 1


def test_what_is_no_verifier_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own_metric_wrong.py"
    path.write_text(FILE.format(returned="'exact'"))
    with pytest.raises(ConfigError, match=r"`verifier\(\) -> 'exact'` must be a verifier"):
        find_task(str(path)).verifier()
