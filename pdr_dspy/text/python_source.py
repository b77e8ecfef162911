"""The syntax of a text that may be Python; nothing is compiled or run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MAX_SOURCE = 200_000
"""Maximum characters of a text that is parsed."""

_ESCAPE = re.compile(r"\\N\{[^{}\\\n]{1,100}\}|\\[^\n]")
_GLUED = re.compile(r"(?<=[0-9])(?=(?:and|else|for|if|in|is|not|or)\b)")
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_WORDS = (
    ast.Name, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Tuple, ast.expr_context,
    ast.Is, ast.IsNot, ast.In, ast.NotIn, ast.And, ast.Or, ast.Not, ast.USub, ast.Sub, ast.Div,
)  # fmt: skip


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a text; None if it is not Python or longer than MAX_SOURCE.

    The values of strings in the tree are not those of the text: their escapes are blanked out, because the parser
    warns of unknown ones, and a warning may be an error here. Line numbers are the text's.
    """
    if len(text) > MAX_SOURCE:
        return None
    # `$` is invalid outside of strings, as a backslash is, and has no meaning inside them.
    quiet = _GLUED.sub(" ", _ESCAPE.sub("$$", text))
    try:
        return ast.parse(quiet)
    except _UNREADABLE:
        return None


def binds(tree: ast.Module, name: str) -> bool:
    """Whether a module defines a name at its top level, under a condition or not.

    Statements with a `return` outside of a function are a function's body: they define nothing.
    """
    return not any(isinstance(node, ast.Return) for node in _top(tree.body)) and name in bound(tree)


def bound(tree: ast.Module) -> set[str]:
    """The names that a module defines at its top level, under a condition or not."""
    found: set[str] = set()
    for node in _top(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.stmt) and not (isinstance(node, ast.AnnAssign) and node.value is None):
            found.update(_stored(node))
    return found


def _top(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements of a module, also those in conditions, loops and the like; not those in functions."""
    waiting: list[ast.AST] = list(body)
    while waiting:  # not recursive: a chain of `elif` is as deep as it is long
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, (*_BLOCKS, ast.ExceptHandler, ast.match_case)):
            waiting.extend(ast.iter_child_nodes(node))


def _stored(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement itself assigns."""
    for part in ast.iter_child_nodes(statement):
        if isinstance(part, (ast.expr, ast.withitem)):
            for node in ast.walk(part):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id


def is_words(statement: ast.stmt) -> bool:
    """Whether a statement is words that happen to be Python, such as `Solution` or `Complexity: O(n)`.

    It has no effect as a program, except that its names may be undefined.
    """
    match statement:
        case ast.AnnAssign(target=ast.Name(), annotation=said, value=None) | ast.Expr(value=said):
            return _only_words(said) and any(isinstance(node, ast.Name) for node in ast.walk(said))
    return False


def _only_words(said: ast.expr) -> bool:
    waiting: list[ast.AST] = [said]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Call(func=ast.Name(id="O"), keywords=[]):
                continue
        if not isinstance(node, _WORDS):
            return False
        waiting.extend(ast.iter_child_nodes(node))
    return True


def does_something(tree: ast.Module) -> bool:
    """Whether a module has a statement other than words, texts and other constants."""
    return any(
        not is_words(statement) and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in tree.body
    )
