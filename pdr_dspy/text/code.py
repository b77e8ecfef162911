"""The Python programs in a completion.

Texts are read line by line; only execution shows whether something is Python. A completion therefore has several
readings, the most likely first. `task_examples` reads the examples of a task.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from pdr_dspy.text.reasoning import split_thought

MAX_CODE = 200_000
"""Maximum characters of a completion, or of a task, that are searched."""

_FENCE = re.compile(r"^(?P<before>.{0,80}?)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w.+#-]*)[ \t]*(?:\{.*\})?[ \t]*$")
_PYTHON = re.compile(r"(?:i?python[\d.]*|py[\d]?|sage)?", re.I)
_INLINE = re.compile(r"```(?:python|py)?[ \t]*([^`\n]{1,500})```", re.I)
_OPENS = re.compile(r"(?:async[ \t]+def|def|class|import|from)[ \t]|@\w")
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
    first = next((line for line in text.split("\n") if line.strip()), "")
    if _OPENS.match(first) and "```" in text and _defines(text, name):
        yield text.strip("\n")  # code with fences inside its strings
    blocks = [code for language, code in _blocks(text) if _PYTHON.fullmatch(language) and code.strip()]
    whole = [code for code in blocks if _defines(code, name)]
    chosen = whole[-1] if whole else None
    if chosen is not None:
        place = len(blocks) - 1 - blocks[::-1].index(chosen)
        before = [_definitions(code) for code in blocks[:place] if name is None or not _defines(code, name)]
        after = [_definitions(code) for code in blocks[place + 1 :] if not _defines(code, name)]
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


def _bare(text: str, name: str | None) -> Iterator[str]:
    """Code without fences."""
    lines = text.strip("\n").split("\n")
    start = next((place for place, line in enumerate(lines) if _OPENS.match(line)), None)
    if start is not None and (name is None or _defines(text, name)):
        code = lines[start:]
        yield "\n".join(code)
        yield "\n".join(code[: _prose(code)])
        yield _definitions("\n".join(code))
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


def _prose(lines: list[str]) -> int:
    """The line at which code ends and prose begins."""
    for place, line in enumerate(lines):
        if line[:1].strip() and not _STATEMENT.match(line):
            return place
    return len(lines)


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
    if name is None:
        return True
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
    for line in code.split("\n"):
        begins = bool(line[:1].strip()) and line[0] not in ")]}#" and not quote and depth <= 0
        goes_on = chunk and (chunk[-1].startswith("@") or re.match(r"(?:else|elif|except|finally)\b", line))
        if begins and chunk and not goes_on:
            yield "\n".join(chunk)
            chunk = []
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


def _completed(code: str, prompt: str, name: str | None) -> list[str]:
    """The code combined with the imports and helpers of the task, or inserted into the function that the task
    begins."""
    if not _defines(prompt, name) or name is None:
        return [code]
    if _defines(code, name):
        brought = [chunk for chunk in _chunks(prompt) if not _defines(chunk, name) and not _is_prose(chunk)]
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
    if _definitions(code).strip() == code.strip():  # only functions other than the requested one, and no body
        return [code]
    body = textwrap.indent(code.strip("\n"), unit)
    return [f"{begun}{body}\n", f"{begun}{unit}{code.strip(chr(10))}\n"]


def _is_prose(chunk: str) -> bool:
    return bool(chunk.strip()) and not _STATEMENT.match(chunk)


def _indentation(prompt: str, name: str) -> str:
    """The indentation of the body of the function that the task begins."""
    lines = prompt.split("\n")
    place = max(place for place, line in enumerate(lines) if _defines(line, name))
    after = next((line for line in lines[place + 1 :] if line.strip() and line[0] in " \t"), "    ")
    return after[: len(after) - len(after.lstrip())] or "    "
