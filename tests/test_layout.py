"""The house as drawn: a row imports only rows above it, for types too, and there is no cycle of modules."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import dspy
import pytest

PACKAGE = Path(__file__).parent.parent / "pdr_dspy"
ROWS: list[set[str]] = [
    {"errors"},
    {"arguments"},
    {"settings", "runtime", "text"},
    {"prompts"},
    {"calls"},
    {"verifiers", "datasets"},
    {"operators"},
    {"serving", "evaluation"},
    {"artifact"},
    {"search", "training"},
    {"reporting", "testing", "endpoint"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
ROW = {name: place for place, row in enumerate(ROWS) for name in row}
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "core", "misc"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}


def module_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def unit(module: str) -> str:
    """`pdr_dspy.search.space` -> `search`: the row's entry that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


MODULES = {module_of(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file it does, for types too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pdr_dspy")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            module = node.module or ""
            if module.split(".")[0] == "pdr_dspy":
                for alias in node.names:
                    below = f"{module}.{alias.name}"
                    yield below if below in MODULES else module


@pytest.mark.parametrize("module", MODULES)
def test_a_row_imports_only_rows_above_it(module: str) -> None:
    own = unit(module)
    assert own in ROW, f"{own} stands in no row; give it its place in the table"
    for imported in imports(MODULES[module]):
        other = unit(imported)
        if other != own:
            assert ROW[other] < ROW[own], f"{module} imports {imported}, which is not above it"


@pytest.mark.slow
def test_there_is_no_import_cycle() -> None:
    graph = {module: set(imports(path)) & set(MODULES) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for imported in sorted(graph[module] - {module}):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


BRIDGE = PACKAGE / "calls" / "dspy_bridge"
INNER = {name for name, value in vars(dspy).items() if isinstance(value, ModuleType)} - {"lm15", "threading"}
"""DSPy's own packages; `dspy.lm15` is public."""
PRIVATE = {"_input_keys", "_engine_spec", "_async_engine_spec", "_engine_store", "_completions", "_store", "_lm_usage"}
"""Attributes of DSPy's objects that are not for others."""


def begins_with_dspy(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "dspy"


@pytest.mark.parametrize("path", [path for path in FILES if BRIDGE not in path.parents], ids=lambda path: path.stem)
def test_dspy_is_used_by_its_public_names_outside_of_the_bridge(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            used = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            used = [ast.unparse(node)] if begins_with_dspy(node) else []
            assert node.attr not in PRIVATE, f"line {node.lineno}: {node.attr} is DSPy's own"
        elif isinstance(node, ast.Constant):
            assert node.value not in PRIVATE, f"line {node.lineno}: {node.value} is DSPy's own"
        for name in used:
            package, _, rest = name.partition(".")
            parts = rest.split(".")
            inner = package == "dspy" and (parts[0] in INNER or any(re.match("_(?!_)", part) for part in parts))
            assert not inner, f"line {getattr(node, 'lineno', '?')}: {name} belongs into calls/dspy_bridge/"


def test_the_script_inside_a_sandbox_needs_the_standard_library_alone() -> None:
    tree = tree_of(PACKAGE / "verifiers" / "sandbox" / "inside.py")
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    assert found
    assert {name.partition(".")[0] for name in found} <= sys.stdlib_module_names


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_house_rules(path: Path) -> None:
    tree = tree_of(path)
    assert path.stem.lstrip("_") not in FORBIDDEN_NAMES
    assert ast.get_docstring(tree), "a module says what it is"
    if path.name != "__init__.py":
        futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        assert any(alias.name == "annotations" for node in futures for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_IMPORTS, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"line {node.lineno}: {node.func.id}"
            if unit(module_of(path)) != "cli":
                assert node.func.id != "print", f"line {node.lineno}: the library prints nothing"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_and_classes_say_what_they_do(path: Path) -> None:
    tree = tree_of(path)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert path.stem.startswith("_") or ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
