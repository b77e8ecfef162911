"""The OpenAPI document says what is taken: schemathesis reads it and tries to prove the opposite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import dspy
import pytest

import pdr_dspy
from pdr_dspy import LongCoT
from pdr_dspy.endpoint import Keys, Limits
from pdr_dspy.testing import scripted_lm
from tests.endpoint.conftest import pdr
from tests.endpoint.test_modules import Twice
from tests.support.endpoint_server import EndpointServer

pytestmark = pytest.mark.slow
KEY = "k" * 32
SETTINGS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]
"""
"""A deadline of 1e-300 seconds has passed before there is an answer, which is no fault of the server's."""


class Task(dspy.Signature):
    """Add."""

    number: int = dspy.InputField()
    share: float = dspy.InputField(ge=0, le=1, default=0.5)
    more: list[str] = dspy.InputField(default=[])
    kind: Literal["a", "b"] = dspy.InputField(default="a")
    answer: int = dspy.OutputField()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_document_holds(tmp_path: Path, seed: int) -> None:
    """`positive_data_acceptance` is left out: no schema can say that a budget is below the first round, or that the
    last message must be the user's."""
    programs = {
        "one": LongCoT("question -> answer", draft_tokens=32),
        "rounds": pdr(),
        "typed": LongCoT(Task, draft_tokens=32),
        "steps": Twice(),
    }
    lm = scripted_lm(lambda request: "Yes.\nAnswer: 7\nResult: 7", directly=True)
    limits = Limits(calls=12, seconds=20.0)
    with EndpointServer(pdr_dspy.app(programs, lm=lm, limits=limits, keys=Keys([KEY])), limits) as server:
        line = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--seed", str(seed)]
        line += ["--max-examples", "15", "--exclude-checks", "positive_data_acceptance", "--no-color"]
        line += ["--header", f"Authorization: Bearer {KEY}"]
        (tmp_path / "schemathesis.toml").write_text(SETTINGS)
        environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)}
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "Operations:       8 selected / 8 total" in done.stdout
