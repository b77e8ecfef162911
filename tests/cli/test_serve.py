"""`pdr serve`, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pdr_dspy import LongCoT, save
from pdr_dspy.cli import app as cli
from tests.endpoint.conftest import one_more, pdr, until
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow

BODY = {"model": "best", "messages": [{"role": "user", "content": "What is 41 + 1?"}]}


@pytest.fixture
def model() -> Iterator[MockServer]:
    with MockServer(one_more) as server:
        yield server


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(cli.app, ["serve", *[str(argument) for argument in arguments]])


def post(url: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def start(*arguments: Any) -> tuple[subprocess.Popen[str], str]:
    """A running `pdr serve`, and its address."""
    line = [sys.executable, "-m", "pdr_dspy", "serve", *[str(argument) for argument in arguments], "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r"http://\S+/v1", said)
    if found is None:
        process.kill()
        pytest.fail(f"{said}{process.communicate()[1]}")
    return process, found[0]


def test_it_serves_until_it_is_told_to_end_and_drains(model: MockServer, tmp_path: Path) -> None:
    saved = [save(pdr(), tmp_path / "best.json"), save(LongCoT("question -> answer: int"), tmp_path / "one.json")]
    process, url = start(*saved, "--api-base", model.api_base, "--budget-total", "5000", "--deadline", "60")
    try:
        assert post(f"{url}/chat/completions", BODY)["choices"][0]["message"]["content"] == "42"
        assert post(f"{url}/programs/one", {"inputs": {"question": "What is 1 + 1?"}})["outputs"] == {"answer": 2}
        model.gate = threading.Event()
        answers: list[dict[str, Any]] = []
        asked = threading.Thread(target=lambda: answers.append(post(f"{url}/chat/completions", BODY)))
        asked.start()
        until(lambda: model.in_flight == 3)
        process.send_signal(signal.SIGTERM)
        model.gate.set()
        asked.join(30)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert answers[0]["choices"][0]["finish_reason"] == "stop"
    assert process.returncode == 0, log
    assert "drained" in log
    assert "model=best" in log
    assert "What is" not in log


def test_it_answers_to_its_own_host_and_keys_only(model: MockServer, tmp_path: Path) -> None:
    saved = save(pdr(), tmp_path / "best.json")
    keys = tmp_path / "keys"
    keys.write_text("k" * 32)
    for options, headers, status in (
        ((), {"Host": "evil.example"}, 403),
        (("--keys", keys), {}, 401),
        (("--keys", keys), {"Authorization": f"Bearer {'k' * 32}"}, 200),
    ):
        process, url = start(saved, "--api-base", model.api_base, *options)
        try:
            found = 200
            try:
                post(f"{url}/chat/completions", BODY, **headers)
            except urllib.error.HTTPError as error:
                found = error.code
                error.close()
            assert found == status
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--host", "0.0.0.0"), "there are no keys"),
        (("--keys", "none"), "cannot be read"),
        (("--certificate", "c.pem"), "belong together"),
        (("--host", "256.0.0.1", "--without-keys"), "cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_asked(
    invoke: Callable[..., Result], model: MockServer, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    done = invoke(save(pdr(), tmp_path / "best.json"), "--api-base", model.api_base, *options)
    assert done.exit_code in (1, 2)
    assert why in done.stderr


def test_two_programs_of_one_name_are_refused(invoke: Callable[..., Result], model: MockServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    saved = [save(pdr(), folder / "best.json") for folder in (tmp_path, tmp_path / "other")]
    done = invoke(*saved, "--api-base", model.api_base)
    assert done.exit_code == 2
    assert "two programs are called 'best'" in done.stderr


def test_a_file_that_is_no_program_is_refused(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    done = invoke(tmp_path / "bad.json", "--api-base", "http://127.0.0.1:9/v1")
    assert done.exit_code == 2
    assert "no saved program" in done.stderr
