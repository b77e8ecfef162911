"""The examples of a programming task: a call and its result, as far as its text states them with certainty."""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from pdr_dspy.text.code import MAX_CODE, string_end


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
            place = string_end(text, place)
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
            place = string_end(text, place)
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
