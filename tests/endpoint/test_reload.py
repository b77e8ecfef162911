"""Files that change while they are served."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

import pdr_dspy
from pdr_dspy import LongCoT, save
from pdr_dspy.endpoint import ProgramFile
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.testing import scripted_lm
from tests.endpoint.conftest import pdr
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
QUESTION: Any = [{"role": "user", "content": "What is 41 + 1?"}]


def calls_of(server: EndpointServer, model: str) -> int:
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        done: Any = client.chat.completions.create(model=model, messages=QUESTION).to_dict()
    return done["pdr"]["calls"]


def health(server: EndpointServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/health") as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_changed_file_is_taken_over_once_it_was_checked(start: Start, model: MockServer, tmp_path: Path) -> None:
    path = save(pdr(), tmp_path / "best.json")
    server = start([path])
    assert calls_of(server, "best") == 4
    save(pdr(widths=(5, 1)), path)
    assert calls_of(server, "best") == 6
    good = path.read_text()
    for bad in ("", good[:-40], good.replace('"kappa": 200', '"kappa": 201'), "{}"):
        path.write_text(bad)
        assert calls_of(server, "best") == 6
        assert health(server)["files_not_taken_over"] == ["best"]
    path.unlink()
    assert calls_of(server, "best") == 6
    save(LongCoT("question -> answer: int", draft_tokens=64), path)
    assert calls_of(server, "best") == 1
    assert "files_not_taken_over" not in health(server)


def test_a_run_under_way_ends_as_it_began(start: Start, model: MockServer, tmp_path: Path) -> None:
    path = save(pdr(), tmp_path / "best.json")
    server = start([path])
    original = model._answer
    replaced: list[int] = []

    async def answer(body: dict[str, Any], request: Any) -> Any:
        if not replaced:
            replaced.append(1)
            save(LongCoT("question -> answer: int", draft_tokens=64), path)
        return await original(body, request)

    model._answer = answer  # type: ignore[method-assign]
    assert calls_of(server, "best") == 4
    assert calls_of(server, "best") == 1


def test_a_file_that_was_never_good_is_not_served(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: "Answer: 1")
    with pytest.raises(ArtifactError, match="cannot be read"):
        pdr_dspy.app(tmp_path / "none.json", lm=lm)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no saved program"):
        pdr_dspy.app([tmp_path / "bad.json"], lm=lm)


def test_names_are_unique_and_there_is_one(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: "Answer: 1")
    (tmp_path / "other").mkdir()
    paths = [save(pdr(), folder / "best.json") for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(ConfigError, match="two programs are called 'best'"):
        pdr_dspy.app(paths, lm=lm)
    pdr_dspy.app({"one": paths[0], "two": ProgramFile(paths[1])}, lm=lm)
    for nothing in ([], {}):
        with pytest.raises(ConfigError, match="no program"):
            pdr_dspy.app(nothing, lm=lm)
    with pytest.raises(ConfigError, match="without a slash"):
        pdr_dspy.app({"a/b": pdr()}, lm=lm)


def test_a_file_names_no_code_that_is_run(tmp_path: Path) -> None:
    path = save(pdr(), tmp_path / "best.json")
    content = json.loads(path.read_text())
    del content["sha256"]
    schedule = content["operators"][""]["schedule"]
    schedule |= {"distiller": "mine", "distiller_from": "own_part:mine"}
    from pdr_dspy.artifact.file import digest

    path.write_text(json.dumps({**content, "sha256": digest(content)}))
    (tmp_path / "own_part.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(ArtifactError, match="mine"):
        pdr_dspy.app(path, lm=scripted_lm(lambda request: "x"))
    assert not os.path.exists(tmp_path / "ran")


def test_without_a_model_nothing_is_served() -> None:
    with pytest.raises(ConfigError, match="no language model"):
        pdr_dspy.app(pdr())
