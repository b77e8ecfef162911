"""What docs/extending says works: its Python runs, its packages install, its commands do what they say."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

from pdr_dspy.cli import app as cli
from pdr_dspy.datasets import DATASETS
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.search import AXES
from pdr_dspy.testing import conformance
from pdr_dspy.verifiers import VERIFIERS
from pdr_dspy.verifiers.checks import CHECKS
from tests.cli.test_app import PROGRAM, add_one
from tests.support.mock_server import MockServer
from tests.support.plugin import write_package
from tests.support.solver import engine

DOCS = Path("docs/extending").resolve()
PAGES = sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "README")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def modules(page: str) -> dict[str, str]:
    """The files that a page's package is made of: blocks that begin with a comment of a file's name."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(page, "python")]
    return {found[1]: block for found, block in named if found is not None}


@pytest.fixture
def installed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's package on the path, and a folder with a program to work in."""
    page: str = request.param
    shipped = [tomllib.loads(block)["project"] for block in blocks(page, "toml")]
    facts = shipped[0] if shipped else {"name": page, "version": "0", "entry-points": {}}
    package = write_package(
        tmp_path / "site", facts["name"], modules(page), facts["entry-points"], version=facts["version"]
    )
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    (tmp_path / "sums.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, "addition", raising=False)
    before = set(sys.modules)
    yield page
    for name in set(sys.modules) - before:
        if f"{name}.py" in modules(page) or name == "addition":
            del sys.modules[name]
    for registry in (AXES, DATASETS, DISTILLERS, VERIFIERS, CHECKS):
        for name in registry.names():
            registry.remove(name)


@pytest.mark.parametrize("installed", PAGES, indirect=True)
def test_the_python_of_a_page_runs(installed: str) -> None:
    space: dict[str, Any] = {"__name__": f"extending_{installed}"}
    with dspy.context(lm=engine()):
        for block in blocks(installed, "python"):
            if not re.match(r"# \w+\.py\n", block):
                exec(compile(block, f"{installed}.md", "exec"), space)


@pytest.mark.parametrize("installed", PAGES, indirect=True)
def test_the_commands_of_a_page_run(installed: str) -> None:
    lines = [line for block in blocks(installed, "sh") for line in block.splitlines() if line.startswith("pdr ")]
    assert lines
    with MockServer(add_one, kind="vllm", context=8192) as server:
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:8000/v1", server.api_base))[1:]
            if words[0] in ("run", "eval", "optimize") and "--api-base" not in words:
                words += ["--api-base", server.api_base]
            done = CliRunner().invoke(cli.app, words)
            assert done.exit_code == 0, (line, done.output)


@pytest.mark.parametrize("page", PAGES)
def test_a_plug_in_is_about_twenty_lines(page: str) -> None:
    for file, source in modules(page).items():
        code = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
        assert len(code) <= 25, f"{file} has {len(code)} lines"


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", *(f"docs/extending/{page}.md" for page in ["README", *PAGES])])
def test_links_lead_somewhere(file: str) -> None:
    path = DOCS.parent.parent / file
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_every_page_is_named_where_a_contributor_looks_and_has_its_check() -> None:
    index, start = (DOCS / "README.md").read_text(), (DOCS.parent.parent / "CONTRIBUTING.md").read_text()
    for page in PAGES:
        assert f"]({page}.md)" in index
        assert f"](docs/extending/{page}.md)" in start
    for check in conformance.__all__:
        assert f"`{check}`" in index
        assert any(f"{check}(" in block for page in PAGES for block in blocks(page, "python"))
