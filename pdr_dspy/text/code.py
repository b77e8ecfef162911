"""The Python programs in a completion.

A text that parses as Python is all code; of any other, the lines that keep it from parsing are prose. A completion may
still have several readings, the most likely first. `task_examples` reads the examples of a task.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator

from pdr_dspy.text.python_source import MAX_SOURCE, binds, does_something, is_words, parsed
from pdr_dspy.text.reasoning import split_thought

MAX_CODE = MAX_SOURCE
"""Maximum characters of a completion, or of a task, that are searched."""

_FENCE = re.compile(r"^(?P<before>.{0,80}?)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w.+#-]*)[ \t]*(?:\{.*\})?[ \t]*$")
_PYTHON = re.compile(r"(?:i?python[\d.]*|py[\d]?|sage)?", re.I)
_INLINE = re.compile(r"```(?:python|py)?[ \t]*([^`\n]{1,500})```", re.I)
_OPENS = re.compile(r"(?:async[ \t]+def|def|class|import|from)[ \t]|@\w")
_BROKEN = re.compile(r"(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[:(]|@\w+[\w.]*[ \t]*(?:\(|$)", re.M)
"""Begins a definition, and hardly prose."""
_TRIES = 10
"""Open brackets and quotes in prose that are passed over, at most."""
_CHUNKS = 5000
"""Statements and lines of a text that are tried one by one, at most."""
_STATEMENT = re.compile(
    r"(?:def|class|async|import|from|if|for|while|try|with|return|print|assert|raise|global|del|pass|yield|lambda|not)\b"
    r"|@|#|\"\"\"|'''|[)\]}]|[A-Za-z_][\w.]*(?:\[[^\]\n]*\])?[ \t]*(?:[-+*/%&|^]?=|\(|,[ \t]*[A-Za-z_]\w*[ \t]*=)"
)
_FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import[^\n]*\n?", re.M)


def programs(completion: str, prompt: str = "", entry: str | None = None) -> tuple[str, ...]:
    """The possible programs of a completion, the most likely first; empty if it holds no code.

    The code may be fenced or not, in one block or several; it may repeat the task's beginning or continue it, or be
    only the body of the function, with or without its indentation.

    Args:
        completion: the model's text.
        prompt: the task; if it is the beginning of a Python file, its imports and whole functions come first.
        entry: the requested function or class, or `Class.method`.
    """
    text = completion.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    if len(text) > MAX_CODE:
        return ()
    _, answer, unfinished = split_thought(text)
    if unfinished:
        return ()
    text = answer if answer.strip() else text
    name = entry.partition(".")[0] if entry else None
    found: list[str] = []
    for code in _readings(text, name):
        found += _completed(code, prompt.replace("\r\n", "\n"), name)
    return tuple(dict.fromkeys(code for code in found if code.strip()))


def _readings(text: str, name: str | None) -> Iterator[str]:
    """Pieces of a completion that may be the code, the most likely first."""
    whole_text = _whole(text, name)
    if whole_text is not None:
        yield whole_text
        return
    first = next((line for line in text.split("\n") if line.strip()), "")
    if _OPENS.match(first) and "```" in text and _defines(text, name):
        yield text.strip("\n")  # code with fences inside its strings
    blocks = [code for language, code in _blocks(text) if _PYTHON.fullmatch(language) and code.strip()]
    whole = [code for code in blocks if _defines(code, name)]
    chosen = whole[-1] if whole else None
    if chosen is not None:
        place = len(blocks) - 1 - blocks[::-1].index(chosen)
        before = [_helpers(code) for code in blocks[:place] if name is None or not _defines(code, name)]
        after = [_helpers(code) for code in blocks[place + 1 :] if not _defines(code, name)]
        if name is not None:
            yield "\n".join([*filter(None, before), chosen, *filter(None, after)])
        yield chosen
        yield from reversed(whole[:-1])
        return
    yield from sorted(blocks, key=len, reverse=True)
    if blocks:
        return
    inline = _INLINE.search(text)
    if inline:
        yield inline[1].strip()
    yield from _bare(text, name)


def _whole(text: str, name: str | None) -> str | None:
    """A text that is Python from its first line to its last, and the requested program; else None.

    Nothing in it is dropped, since statements before the function may decide what it does, or stop the program.
    """
    for candidate in dict.fromkeys((text.strip("\n"), textwrap.dedent(text).strip("\n"))):
        tree = parsed(candidate)
        if tree is not None:
            if not (does_something(tree) if name is None else binds(tree, name)):
                return None
            return _without_words(candidate, tree)
    return None


def _without_words(code: str, tree: ast.Module) -> str:
    """The code without the lines of words before and after it that happen to be Python, such as `Solution`."""
    body = list(tree.body)
    lines = code.split("\n")
    start, end = 0, len(lines)
    while is_words(body[0]):
        if body[0].end_lineno == body[1].lineno:  # `Here; x = 1`
            break
        start = body.pop(0).end_lineno or 0
    while is_words(body[-1]):
        if body[-1].lineno == body[-2].end_lineno:
            break
        end = body.pop().lineno - 1
    return "\n".join(lines[start:end]).strip("\n") if (start, end) != (0, len(lines)) else code


def _code_between(lines: list[str]) -> str | None:
    """The statements of a text without the prose between them; None if a definition in it is broken."""
    kept: list[str] = []
    rest = "\n".join(lines)
    tries = 0
    while rest:
        chunks = list(itertools.islice(_chunks(rest), _CHUNKS + 1))
        rest = ""
        if len(chunks) > _CHUNKS:
            return None
        for place, chunk in enumerate(chunks):
            tree = parsed(chunk)
            if tree is not None:
                if not all(map(is_words, tree.body)) or not tree.body:
                    kept.append(chunk)
                continue
            below = chunk.lstrip("\n").partition("\n")[2]
            takes_more = re.search(r"^\S", below, re.M) is not None
            # The last definition may be cut off by the token limit; any other that is broken is the program's fault.
            if _BROKEN.match(chunk.lstrip("\n")) and (takes_more or place < len(chunks) - 1):
                return None
            # A bracket or a quote that the prose leaves open takes in the code below it.
            if takes_more and tries < _TRIES:
                tries += 1
                rest = "\n".join([below, *chunks[place + 1 :]])
                break
    return "\n".join(kept).strip("\n") if any(line.strip() for line in kept) else None


def _bare(text: str, name: str | None) -> Iterator[str]:
    """Code without fences, among prose."""
    lines = text.strip("\n").split("\n")
    code = _code_between(lines)
    found = parsed(code) if code is not None else None
    if code is not None and found is not None and (does_something(found) if name is None else binds(found, name)):
        yield code
        return
    start = next((place for place, line in enumerate(lines) if _OPENS.match(line)), None)
    if start is not None and (name is None or _defines(text, name)):
        # It is not Python: its error is the program's.
        yield code if code is not None and _defines(code, name) else "\n".join(lines[start:])
        return
    yield "\n".join(lines)
    # The completion of a file continues after the function; its body ends at the first line without indentation.
    first = next((place for place, line in enumerate(lines) if line.strip()), 0)
    later = [place for place, line in enumerate(lines) if place > first and line[:1].strip()]
    if later:
        yield "\n".join(lines[: later[0]])
    indented = next((place for place, line in enumerate(lines) if line.startswith(("    ", "\t"))), None)
    if indented:
        rest = lines[indented:]
        end = next((place for place, line in enumerate(rest) if line[:1].strip()), len(rest))
        yield "\n".join(rest[:end])


def _blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks with their languages; the last one may be unclosed."""
    found: list[tuple[str, str]] = []
    marks = language = ""
    indent, body, before = 0, [], []
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if not marks:
            if fence and not (fence["before"].strip() and fence["before"].rstrip()[-1] not in ":.>"):
                marks, language, body = fence["marks"], fence["language"], []
                indent = len(line) - len(line.lstrip()) if not fence["before"].strip() else 0
            else:
                before.append(line)
            continue
        closing = line.strip()
        if closing and set(closing) == {marks[0]} and len(closing) >= len(marks):
            found.append((language, "\n".join(body)))
            marks = ""
            continue
        body.append(line[min(indent, len(line) - len(line.lstrip())) :])
    if marks:
        if (
            not found
            and not language
            and any(_OPENS.match(line) or line[:1] in " \t" for line in before if line.strip())
        ):
            found.append(("", "\n".join(before)))  # the prompt opened the block, the completion only closed it
        elif "\n".join(body).strip():
            found.append((language, "\n".join(body)))
    return found


def _defines(code: str, name: str | None) -> bool:
    """Whether code defines a name at its top level, or seems to if it is not Python."""
    if name is None or _begins(code, name):
        return True
    tree = parsed(code) if name in code else None
    return tree is not None and binds(tree, name)


def _begins(code: str, name: str) -> bool:
    """Whether a line at the left margin begins the definition of a name."""
    known = re.escape(name)
    return (
        re.search(
            rf"^(?:(?:async[ \t]+)?def[ \t]+{known}[ \t]*\(|class[ \t]+{known}\b|{known}[ \t]*(?::[^=\n]+)?=)",
            code,
            re.M,
        )
        is not None
    )


def _chunks(code: str) -> Iterator[str]:
    """Statements at the left margin, each with the indented lines below it."""
    chunk: list[str] = []
    quote = ""
    depth = 0
    decorated = False
    for line in code.split("\n"):
        begins = bool(line[:1].strip()) and line[0] not in ")]}#" and not quote and depth <= 0
        goes_on = chunk and (
            decorated or chunk[-1].endswith("\\") or re.match(r"(?:else[ \t]*:|elif\b|except\b|finally[ \t]*:)", line)
        )
        if begins and chunk and not goes_on:
            yield "\n".join(chunk)
            chunk = []
        if begins:
            decorated = line.startswith("@")
        chunk.append(line)
        quote, depth = _inside(line, quote, 0 if begins else depth)
    if chunk:
        yield "\n".join(chunk)


def _inside(line: str, quote: str, depth: int) -> tuple[str, int]:
    """The triple quote that is still open after a line, and the number of open brackets."""
    place = 0
    while place < len(line):
        three = line[place : place + 3]
        if quote:
            if line[place] == "\\":
                place += 1
            elif three == quote:
                quote = ""
                place += 2
        elif three in ('"""', "'''"):
            quote = three
            place += 2
        elif line[place] == "#":
            break
        elif line[place] in "\"'":
            end = string_end(line, place)
            place = end
        elif line[place] in "([{":
            depth += 1
        elif line[place] in ")]}":
            depth -= 1
        place += 1
    return quote, depth


def string_end(line: str, start: int) -> int:
    """The position of the quote that ends the string at `start`; the end of the text or beyond if none does."""
    place = start + 1
    while place < len(line) and line[place] != line[start]:
        place += 2 if line[place] == "\\" else 1
    return place


def _definitions(code: str) -> str:
    """The definitions in a block, without statements that run."""
    return "\n".join(chunk for chunk in _chunks(code) if _OPENS.match(chunk))


def _helpers(code: str) -> str:
    """The definitions and the constants in a block, without statements that run."""
    return "\n".join(chunk for chunk in _chunks(code) if _OPENS.match(chunk) or _is_constant(chunk))


def _is_constant(chunk: str) -> bool:
    """Whether a statement assigns values that call nothing and use no name."""
    tree = parsed(chunk)
    match tree.body if tree is not None else []:
        case [ast.Assign(value=value)] | [ast.AnnAssign(value=ast.expr() as value)]:
            return not any(isinstance(node, (ast.Call, ast.Name, ast.Await)) for node in ast.walk(value))
    return False


def _completed(code: str, prompt: str, name: str | None) -> list[str]:
    """The code combined with the imports and helpers of the task, or inserted into the function that the task
    begins."""
    if name is None or not _begins(prompt, name):
        return [code]
    if _defines(code, name):
        brought = [chunk for chunk in _chunks(prompt) if not _begins(chunk, name) and not _is_prose(chunk)]
        future = "".join(
            found if found.endswith("\n") else f"{found}\n" for found in _FUTURE.findall("\n".join([*brought, code]))
        )
        rest = _FUTURE.sub("", "\n".join([*brought, code]))
        return [f"{future}{rest}\n"]
    begun = prompt if prompt.endswith("\n") else f"{prompt}\n"
    unit = _indentation(prompt, name)
    lines = code.strip("\n").split("\n")
    first = next((line for line in lines if line.strip()), "")
    if first[:1] in (" ", "\t"):
        return [f"{begun}{code.strip(chr(10))}\n", f"{begun}{textwrap.indent(textwrap.dedent(code), unit)}\n"]
    if parsed(code) is not None and _definitions(code).strip() == code.strip():
        return [code]  # only functions other than the requested one, and no body
    body = textwrap.indent(code.strip("\n"), unit)
    return [f"{begun}{body}\n", f"{begun}{unit}{code.strip(chr(10))}\n"]


def _is_prose(chunk: str) -> bool:
    return bool(chunk.strip()) and not _STATEMENT.match(chunk)


def _indentation(prompt: str, name: str) -> str:
    """The indentation of the body of the function that the task begins."""
    lines = prompt.split("\n")
    place = max(place for place, line in enumerate(lines) if _begins(line, name))
    after = next((line for line in lines[place + 1 :] if line.strip() and line[0] in " \t"), "    ")
    return after[: len(after) - len(after.lstrip())] or "    "
