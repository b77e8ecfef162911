"""What docs/ and the README say works: their Python runs, what it prints is what they show, their commands exist, their
links lead somewhere, and the site has every page.

The pages of docs/extending are packages, docs/deploy.md and docs/guides/checks.md need servers: they have tests of
their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy
import pytest
import typer
import yaml

import pdr_dspy.serving
from pdr_dspy.cli.app import app
from pdr_dspy.verifiers import VERIFIERS
from tests.outside import test_checks_page, test_deploy, test_extending
from tests.support.pages import Block, blocks, commands, links
from tests.support.textbook import textbook

pytestmark = pytest.mark.slow

ROOT = Path.cwd()
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
ELSEWHERE = {DOCS / "extending" / f"{page}.md" for page in test_extending.PAGES}
ELSEWHERE |= {test_checks_page.PAGE, test_deploy.PAGE}
RUN = [
    path
    for path in (ROOT / "README.md", *PAGES)
    if path not in ELSEWHERE and any(one.language == "python" for one in blocks(path))
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Served(contextlib.AbstractContextManager[Any]):
    """Stands in for a local server: it has a model, and starts nothing."""

    def __init__(self, *_: Any, **options: Any) -> None:
        self.lm, self.api_base = textbook(), "http://127.0.0.1:8000/v1"

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the repository's programs on the path, and servers that start nothing."""
    for name in ("LlamaCppServer", "VLLMServer"):
        monkeypatch.setattr(pdr_dspy.serving, name, Served)
    monkeypatch.setattr(pdr_dspy, "connect", lambda *given, **options: textbook(), raising=False)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules), set(VERIFIERS.names())
    yield tmp_path
    for name in set(sys.modules) - before[0]:
        if (tmp_path / f"{name}.py").is_file():
            del sys.modules[name]
    for name in set(VERIFIERS.names()) - before[1]:
        VERIFIERS.remove(name)
    dspy.configure(lm=None)


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, folder: Path) -> None:
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    sys.modules[module.__name__] = module  # for classes that are looked up where they are defined
    try:
        with dspy.context(lm=textbook()):
            for block in blocks(page):
                if block.file is not None:
                    (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / block.file).write_text(block.body, encoding="utf-8")
                if block.language == "python":
                    printed = run(block, page, module)
                    if block.printed is not None:
                        assert printed.split() == block.printed.split(), (
                            f"{name_of(page)}, line {block.line}: {printed}"
                        )
    finally:
        del sys.modules[module.__name__]


def run(block: Block, page: Path, module: ModuleType) -> str:
    """Run a block in the page's module; what it prints. Functions have their source, as those of a file have."""
    if block.file is not None:
        module = ModuleType(Path(block.file).stem)
    name = f"{page.name}:{block.line}"
    linecache.cache[name] = (len(block.body), None, block.body.splitlines(keepends=True), name)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block.body, name, "exec"), vars(module))
    return out.getvalue()


def test_no_page_has_python_that_is_not_run() -> None:
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text(encoding="utf-8")
        assert text.count("```python") == sum(one.language == "python" for one in blocks(page)), name_of(page)
        assert not re.search(r"^ *```(?:py|pycon|py3|Python)\b", text, re.M), name_of(page)
        assert not re.search(r"^ *```\n(?=\S)(?:(?!^ *```).)*^ *(?:import|from) ", text, re.M | re.S), name_of(page)
    assert ELSEWHERE
    assert not ELSEWHERE & set(RUN)


def known_options(words: list[str]) -> set[str]:
    command: Any = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_its_commands_exist(page: Path) -> None:
    for words in commands(page, "pdr"):
        options = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
        assert options <= known_options(words), f"{name_of(page)}: {' '.join(words)}"
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for words in commands(page, "make"):
        assert {word for word in words[1:] if "=" not in word} <= targets, f"{name_of(page)}: {' '.join(words)}"
    for module in re.findall(r"python -m ([\w.]+)", page.read_text(encoding="utf-8")):
        if module.split(".")[0] in ("benchmarks", "studies", "optimize", "examples", "pdr_dspy"):
            assert importlib.util.find_spec(module) is not None, f"{name_of(page)}: python -m {module}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_its_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_the_site_names_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Leaves Python names of extensions alone."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from named(inner)

    generated = {path.with_suffix(".md").name for path in (DOCS / "results").glob("*.svg")}
    there = {path.relative_to(DOCS).as_posix() for path in PAGES if path.name not in generated}
    assert set(named(site["nav"])) == there
