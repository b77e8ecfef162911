"""The tests of programs in their usual forms, and the function that they call."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pdr_dspy.text.python_source import bound, does_something, parsed
from pdr_dspy.verifiers.fields import short
from pdr_dspy.verifiers.sandbox import Case, Stdin

_BEGUN = re.compile(r"^(?:async[ \t]+)?def[ \t]+([A-Za-z_]\w*)", re.M)
_QUOTED = re.compile(r"(?<!\w)def[ \t]+([A-Za-z_]\w*)[ \t]*\(")
_METHOD = re.compile(r"^class[ \t]+([A-Za-z_]\w*)|^[ \t]+def[ \t]+(?!__)([A-Za-z_]\w*)[ \t]*\([ \t]*self\b", re.M)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FORMS = (
    "write Python statements (assertions, `def check(candidate)` or `def test_...`), a list of such statements, or a "
    'list [{"input": ..., "output": ...}]'
)


class NoEntry(ValueError):
    """The tests call `candidate`, and neither they nor the task name the function."""


def cases_of(
    tests: Any, entry: str | None, prompt: str = ""
) -> tuple[tuple[Case, ...] | tuple[Stdin, ...], str | None]:
    """Tests in any of the accepted forms as cases, and the name of the function or method that they call.

    Args:
        tests: a text, a list of statements, or a list of inputs with their outputs.
        entry: the function's name, if it is known.
        prompt: the task, which may begin the function.

    Raises:
        NoEntry: the tests call `candidate`, and no function can be found.
        ValueError: any other form.
    """
    if isinstance(tests, str):
        data = _data(tests)
        if isinstance(data, list):
            return cases_of(data, entry, prompt)
        if data is not None:
            raise ValueError(f"{short(tests)} is data, not tests: {FORMS}")
        return (Case(tests),), _entry_of([tests], entry, prompt)
    if isinstance(tests, (Mapping, bytes)) or not isinstance(tests, Iterable):
        raise ValueError(f"{short(str(tests))} is no list: {FORMS}")
    rows = list(tests)
    if rows and all(isinstance(row, str) for row in rows):
        return tuple(Case(row) for row in rows), _entry_of(rows, entry, prompt)
    if rows and all(isinstance(row, Mapping) and "input" in row and "output" in row for row in rows):
        if any(row.get("testtype") == "functional" for row in rows):
            entry = entry or _task_entry(prompt)
            if not entry:
                raise ValueError("functional tests need the name of the method")
            method = entry if "." in entry else f"Solution.{entry}"
            return tuple(_functional(row) for row in rows), method
        return tuple(Stdin(str(row["input"]), str(row["output"])) for row in rows), None
    raise ValueError(f"{short(str(rows))} has another form: {FORMS}")


def begun(prompt: str) -> str | None:
    """The last function that a task begins at the left margin; None without one."""
    found = _BEGUN.findall(prompt)
    return found[-1] if found else None


def _task_entry(prompt: str) -> str | None:
    """The function that a task begins; else the method of its class, or the only function that its prose quotes."""
    if at_margin := begun(prompt):
        return at_margin
    owner = method = None
    for match in _METHOD.finditer(prompt):
        owner, method = (match[1], None) if match[1] else (owner, match[2])
    if owner and method:
        return f"{owner}.{method}"
    quoted = set(_QUOTED.findall(prompt))
    return quoted.pop() if len(quoted) == 1 else None


def tests_something(source: str) -> bool:
    """Whether statements can fail on a wrong program: they assert, raise, or define or call tests. Others prepare the
    statements after them."""
    tree = parsed(source)
    if tree is None:
        return True
    return any(
        isinstance(node, (ast.Assert, ast.Raise, ast.ClassDef, *_FUNCTIONS))
        or (isinstance(node, ast.Call) and _called(node).lower().startswith("assert"))
        for node in ast.walk(tree)
    )


def _data(text: str) -> Any:
    """The value of a text that is one JSON value or one Python literal; None if it is statements."""
    try:
        found = json.loads(text)
        return "null" if found is None else found
    except (ValueError, RecursionError):
        pass
    tree = parsed(text)
    if tree is None:
        return None
    match tree.body:
        case [ast.Expr(value=ast.List() | ast.Tuple() | ast.Set() | ast.Dict() | ast.Constant())]:
            try:
                found = ast.literal_eval(text.strip())
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                return text
            return list(found) if isinstance(found, tuple) else text if found is None else found
    return None


def _functional(row: Mapping[str, Any]) -> Case:
    try:
        args = [json.loads(line) for line in str(row["input"]).splitlines() if line.strip()]
        want = json.loads(str(row["output"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{short(str(row))} is not JSON") from error
    return Case(f"assert candidate({', '.join(map(repr, args))}) == {want!r}")


def _entry_of(sources: Sequence[str], entry: str | None, prompt: str) -> str | None:
    """The function that tests call: the one that they pass to `check`, the last that the task begins if they use it or
    `candidate`, or the only one that all their assertions call.

    Raises NoEntry, and ValueError if there is no test.
    """
    read = [parsed(source) for source in sources]
    trees = [tree for tree in read if tree is not None]
    if len(trees) == len(read) and not any(does_something(tree) for tree in trees):
        raise ValueError(f"{short(str(sources[0]))} tests nothing: {FORMS}")
    if entry:
        return entry
    own = set().union(*(bound(tree) for tree in trees)) | set(vars(builtins)) | {"candidate"}
    task = _task_entry(prompt)
    if any(_needs_candidate(tree) for tree in trees):
        named = next((name for tree in trees for name in _checked(tree)), None) or task
        if named is None:
            raise NoEntry("they call `candidate`, but neither the tests nor the task name its function")
        return named
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if task is not None and task.partition(".")[0] in used - own:
        return task if "." not in task else task.partition(".")[0]
    asserted = [
        [name for name in _calls(node.test) if name not in own]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    common = [name for name in asserted[0] if all(name in names for names in asserted)] if asserted else []
    if common:
        return common[0]
    everywhere = {name for tree in trees for name in _calls(tree)} - own
    return everywhere.pop() if len(everywhere) == 1 else None


def _needs_candidate(tree: ast.Module) -> bool:
    """Whether tests use `candidate`, or define a `check` for it."""
    check = next((node for node in tree.body if isinstance(node, _FUNCTIONS) and node.name == "check"), None)
    if check is not None and (check.args.args or check.args.posonlyargs):
        return True
    return any(isinstance(node, ast.Name) and node.id == "candidate" for node in ast.walk(tree)) and (
        "candidate" not in bound(tree)
    )


def _checked(tree: ast.Module) -> Iterator[str]:
    """The functions that tests pass to `check` themselves."""
    for statement in tree.body:
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Name(id=name), *_])) if (
                name != "candidate" and name not in bound(tree)
            ):
                yield name


def _calls(tree: ast.AST) -> list[str]:
    """The names of the called functions, in the order of the text."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [_called(node) for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))]


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""
