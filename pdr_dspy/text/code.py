"""Python code in a text: the programs in a completion, and the examples of a task.

Texts are read line by line; only execution shows whether something is Python. A completion therefore has several
readings, the most likely first.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from pdr_dspy.text.reasoning import split_thought

MAX_CODE = 200_000
"""Maximum characters of a completion that are searched for a program."""


# ----------------------------------------------------------------------------------------------------------- programs

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
            end = _string_end(line, place)
            place = end
        elif line[place] in "([{":
            depth += 1
        elif line[place] in ")]}":
            depth -= 1
        place += 1
    return quote, depth


def _string_end(line: str, start: int) -> int:
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


# ----------------------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True)
class CodeExample:
    """One example of a task: statements, and the output of the last one. Without `want` it only prepares the next."""

    source: str
    want: str | None


_DOC = re.compile(r"(?<![\w\"'])([rRuU]?)(\"\"\"|''')(.*?)(?<!\\)\2", re.S)
_PROMPT = re.compile(r"^[ \t]*>>>[ \t]?(.*)$")
_MORE = re.compile(r"^[ \t]*\.\.\.[ \t]?(.*)$")
_ARROW = re.compile(
    r"[ \t]*(?:#[ \t]*)?(?P<sign>➞|→|⇒|⟶|➡|={1,3}>|-{1,2}>|==|="
    r"|(?:should |must |will |would )?(?:returns?|be|equals?|evaluates? to|gives?|yields?|outputs?)\b(?: to\b)?)[ \t:]*"
)
_CLAUSE = re.compile(
    r"^[ \t*\-]*(?:For|If|When|With)[ \t]+(?P<call>[A-Za-z_]\w*[ \t]*=.{1,1000}?),?[ \t]+"
    r"(?:then )?(?:the )?(?:output|result|answer|return value|function)[ \t]+"
    r"(?:should be|should return|is|returns|must be|would be|will be)[ \t:]+"
    r"(?P<want>.{1,1000})$"
)
_INPUT = re.compile(r"^[ \t*\-]*Inputs?[ \t]*[:=][ \t]*(?P<call>.+)$", re.I)
_OUTPUT = re.compile(r"^[ \t*\-]*Outputs?[ \t]*[:=][ \t]*(?P<want>.+)$", re.I)
_LEAD = re.compile(
    r"[\s*\-•#`.:(]*(?:(?:\d{1,3}|for|e\.?g|i\.?e|ex|example|examples|test|case|sample|if|call|calling|and|then|so|note|input)"
    r"\b[\s.:,)#`-]*){0,3}",
    re.I,
)
"""May precede the call of an example on its line."""
_LONGEST = 2000
_CALLS = 200
_WORDS = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


def code_examples(prompt: str, entry: str | None = None) -> tuple[CodeExample, ...]:
    """The examples of a task that can be read with certainty: `>>>` in a docstring, calls followed by an arrow, `==` or
    a verb and a literal, `For x = 3 the output should be 4`, `Input:` and `Output:`, and `assert f(3) == 4`.

    Ambiguous texts (a result in prose, a name in place of a value) give no example.

    Args:
        prompt: the task, the beginning of a Python file or prose.
        entry: the function that the examples call; None reads only `>>>` and assertions.
    """
    prompt = prompt.replace("\r\n", "\n")
    if len(prompt) > MAX_CODE:
        return ()
    name = entry.rpartition(".")[2] if entry else None
    texts = [_docstring(*match.groups()) for match in _DOC.finditer(prompt[_start(prompt, name) :])]
    if not texts:
        texts = [prompt]
    parameters = _parameters(prompt, name)
    found: list[CodeExample] = []
    weak: list[CodeExample] = []
    for text in texts:
        sessions, rest = _sessions(text)
        found += [example for example in sessions if _is_python(example.source)]
        for strong, example in _stated(rest, name, parameters):
            (found if strong else weak).append(example)
    if not found and len({_kind(example.want) for example in weak}) == 1:
        found = weak
    return tuple(dict.fromkeys(found)) if not any(example.want is None for example in found) else tuple(found)


def _start(prompt: str, name: str | None) -> int:
    """Where the function's own text begins: a helper before it has its own examples."""
    if name is None:
        return 0
    places = [
        match.start() for match in re.finditer(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", prompt, re.M)
    ]
    return places[-1] if places else 0


def _docstring(prefix: str, marks: str, body: str) -> str:
    """The text of a docstring; the raw text of the file if its escapes would break the examples in it."""
    try:
        text = ast.literal_eval(f"{prefix}{marks}{body}{marks}")
    except (SyntaxError, ValueError):
        return body
    return text if all(_is_python(example.source) for example in _sessions(text)[0]) else body


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _parameters(prompt: str, name: str | None) -> list[str]:
    if name is None:
        return []
    place = _start(prompt, name)
    opening = prompt.find("(", place)
    end = _closing(prompt, opening) if opening >= 0 else None
    if end is None:
        return []
    try:
        tree = ast.parse(f"def f{prompt[opening : end + 1]}: pass")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    given = tree.body[0].args  # type: ignore[attr-defined]
    return [one.arg for one in (*given.posonlyargs, *given.args) if one.arg != "self"]


def _sessions(text: str) -> tuple[list[CodeExample], list[str]]:
    """The interactive sessions of a text, and its other lines."""
    found: list[CodeExample] = []
    rest: list[str] = []
    lines = text.split("\n")
    place = 0
    while place < len(lines):
        prompt = _PROMPT.match(lines[place])
        if prompt is None:
            rest.append(lines[place])
            place += 1
            continue
        source = [prompt[1]]
        place += 1
        while place < len(lines) and (more := _MORE.match(lines[place])):
            source.append(more[1])
            place += 1
        want: list[str] = []
        while place < len(lines) and lines[place].strip() and not _PROMPT.match(lines[place]):
            want.append(lines[place])
            place += 1
        code = "\n".join(source)
        if "+SKIP" in code or not code.strip() or code.lstrip().startswith("#"):
            continue
        found.append(CodeExample(code, textwrap.dedent("\n".join(want)).strip() or None))
    while found and found[-1].want is None:
        found.pop()
    return found, rest


def _stated(lines: list[str], name: str | None, parameters: list[str]) -> Iterator[tuple[bool, CodeExample]]:
    """Examples in other forms, and whether their form is unambiguous."""
    text = "\n".join(lines)
    for place, line in enumerate(lines):
        if line.strip().startswith("assert ") and _assertion(line.strip()):
            yield True, CodeExample(line.strip(), "")
        if name is None:
            continue
        clause = _CLAUSE.match(line)
        if clause and (call := _with_names(clause["call"], name, parameters)) and (want := _literal(clause["want"])):
            yield True, CodeExample(call, want)
        given = _INPUT.match(line)
        below = next((later for later in lines[place + 1 : place + 3] if later.strip()), "")
        result = _OUTPUT.match(below)
        if given and result and (want := _literal(result["want"])):
            call = _with_names(given["call"], name, parameters)
            if call is None and len(parameters) == 1 and (value := _literal(given["call"])):
                call = f"{name}({value})"
            if call:
                yield True, CodeExample(call, want)
    if name is None:
        return
    for match in itertools.islice(re.finditer(rf"(?<![\w.]){re.escape(name)}\(", text), _CALLS):
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if not _LEAD.fullmatch(line):
            continue
        end = _closing(text, match.end() - 1)
        if end is None or not _literal_call(call := text[match.start() : end + 1]):
            continue
        sign = _ARROW.match(text, end + 1)
        if sign is None:
            continue
        stop = text.find("\n", sign.end())
        want = _literal(text[sign.end() : stop if stop >= 0 else len(text)])
        if want is not None:
            yield sign["sign"] != "=", CodeExample(" ".join(call.split("\n")) if "\n" in call else call, want)


def _assertion(line: str) -> bool:
    try:
        match ast.parse(line).body:
            case [ast.Assert(test=ast.Compare(ops=[ast.Eq()]))]:
                return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return False


def _closing(text: str, opening: int) -> int | None:
    """The position of a bracket's closing partner, outside of quotes."""
    depth, place = 0, opening
    while place < min(len(text), opening + _LONGEST):
        if text[place] in "\"'":
            place = _string_end(text, place)
        elif text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return None


def _literal_call(call: str) -> bool:
    """Whether all arguments of a call are literals."""
    try:
        match ast.parse(call.replace("\n", " "), mode="eval").body:
            case ast.Call(args=args, keywords=keywords):
                for argument in (*args, *(keyword.value for keyword in keywords)):
                    ast.literal_eval(argument)
                return True
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return False


def _with_names(given: str, name: str, parameters: list[str]) -> str | None:
    """`lst = [1], k = 2` as a call, if these are the function's parameters."""
    call = f"{name}({given.strip().rstrip('.')})"
    if not _literal_call(call):
        return None
    keywords = ast.parse(call, mode="eval").body.keywords  # type: ignore[attr-defined]
    return call if keywords and {keyword.arg for keyword in keywords} <= set(parameters) else None


def _literal(text: str) -> str | None:
    """A literal at the beginning of a text that only a remark may follow; None for anything else."""
    text = text.strip()[:_LONGEST]
    for candidate in (_without_remark(text), text):
        for shown in (candidate.rstrip(".,;").strip(), candidate):  # `2.` ends a sentence; the float is equal
            shown = _WORDS.get(shown, shown)
            try:
                value = ast.literal_eval(shown)
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
                continue
            # ("a") may be meant as a tuple: ambiguous.
            return None if shown.startswith("(") and not isinstance(value, tuple) else shown
    return None


def _without_remark(text: str) -> str:
    """The text up to a comment, or up to a remark in brackets after a space."""
    place = 0
    while place < len(text):
        if text[place] in "\"'":
            place = _string_end(text, place)
        elif text[place] in "([{":
            end = _closing(text, place)
            if end is None:
                return text
            if place and text[place] == "(" and text[place - 1] in " \t":
                return text[:place].strip()
            place = end
        elif text[place] == "#" or text.startswith("//", place):
            return text[:place].strip()
        place += 1
    return text


def _kind(want: str | None) -> str:
    try:
        return type(ast.literal_eval(want or "")).__name__
    except (SyntaxError, ValueError):
        return ""
