"""Checks of a proposed instruction: length, prose, copies, and answers that it reveals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Self, get_origin

import dspy

from pdr_dspy.calls.ledger import Call
from pdr_dspy.prompts.render import render

RUN, SHORT = 8, 4
"""This many consecutive words of a question count as a copy; of a shorter question all its words, from `SHORT` on."""
OVERLAP = 0.8
"""Fraction of common words from which two texts count as nearly equal (of all words, each counted once)."""
SHARED = 0.1
"""A gold answer shared by more than this fraction of the questions, and by more than one, is a label and not secret."""
LEAST = 5
"""Minimum words of an instruction."""


@dataclass(frozen=True)
class Known:
    """Texts that an instruction must not contain."""

    golds: tuple[str, ...]
    """Gold answers of few questions."""
    runs: frozenset[tuple[str, ...]]
    """Runs of words that occur in exactly one question."""

    @classmethod
    def of(
        cls,
        examples: Sequence[dspy.Example],
        questions: Sequence[Mapping[str, Any]],
        task: type[dspy.Signature],
    ) -> Self:
        """Derive them from the training examples, their inputs, and the task, whose types tell which answers are
        public."""
        golds: Counter[str] = Counter()
        for example, inputs in zip(examples, questions, strict=True):
            others = set(example.keys()) - set(inputs) - {"id"}
            for name in others & set(task.output_fields) or others:  # a larger module may call its outputs otherwise
                field = task.output_fields.get(name)
                if example[name] is not None and not (field and _closed(field.annotation)):
                    golds[_plain(str(example[name]))] += 1
        most = max(1, int(SHARED * len(examples)))
        seen: Counter[tuple[str, ...]] = Counter()
        for inputs in questions:
            lists = [_words(str(value)) for value in inputs.values()]
            seen.update({run for words in lists if len(words) >= SHORT for run in _runs(words, min(RUN, len(words)))})
        return cls(
            tuple(sorted(gold for gold, count in golds.items() if gold and count <= most)),
            frozenset(run for run, count in seen.items() if count == 1),
        )


def refusal(
    text: str,
    call: Call,
    *,
    tokens: int,
    max_tokens: int,
    form: Sequence[str],
    known: Known,
    own: str,
    others: Sequence[str],
) -> str | None:
    """Why `text` is rejected, in a few words; None if it is accepted.

    Args:
        text: the reply, tidied.
        call: the call that produced it.
        tokens: of the text.
        max_tokens: the maximum.
        form: lines that the program adds itself, see `form_of`.
        known: answers and questions that it must not contain.
        own: the student's instructions; their content is allowed.
        others: accepted texts for the same role.
    """
    if call.failure is not None:
        return f"the call failed: {call.failure}"
    if call.truncated:
        return f"the cap of {call.cap} tokens ended it"
    if tokens > max_tokens:
        return f"it has {tokens} tokens, the most is {max_tokens}"
    words = _words(text)
    letters = sum(character.isalpha() for character in text)
    if letters < 0.5 * len("".join(text.split())) or letters < 12 or (text.isascii() and len(words) < LEAST):
        return "it is no instruction in words"
    lines = Counter(re.sub(r"[\W\d]+", " ", line.casefold()).strip() for line in text.splitlines() if line.strip())
    if (len(words) > 40 and len(set(words)) < 0.2 * len(words)) or max(lines.values()) > 2:
        return "it says the same over and over"
    plain = _plain(text)
    for line in form:
        if line in plain:
            return f"it has the form of the reply, which the program adds: {line!r}"
    if "[[ ##" in text:
        return "it has field markers of DSPy"
    gone = _given_away(text, plain, words, known, own)
    if gone is not None:
        return gone
    if any(_plain(text) == _plain(other) for other in (own, *others)):
        return "it is there already"
    if any(overlap(text, other) >= OVERLAP for other in (own, *others)):
        return "it is nearly the same as one that is there already"
    return None


def tidied(reply: str) -> str:
    """The instruction in a reply: without introductory words, a code fence, a heading, or enclosing quotation marks."""
    text = re.sub(
        r"\A(?:sure|certainly|of course|okay|here)\b[^\n]{0,200}:\s*\n", "", reply.strip(), flags=re.IGNORECASE
    )
    fenced = re.findall(r"```[^\n`]*\n(.*?)\n?```", text, re.DOTALL)
    text = fenced[0].strip() if len(fenced) == 1 and 2 * len(fenced[0]) > len(text) else text.strip()
    heading = r"[#*_ ]*(?:(?:new|better|improved|revised|proposed) )?instructions?[*_ ]*:[*_]*\s*"
    text = re.sub(rf"\A{heading}", "", text, flags=re.IGNORECASE).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    return re.sub(r"\n{3,}", "\n\n", text)


def form_of(signature: type[dspy.Signature]) -> list[str]:
    """The lines that `signatures.render` adds to a prompt of this signature: where the answer goes, and the lines to
    fill in."""
    with dspy.context(adapter=None):
        last = render(signature, [], {})[-1]["content"]
    lines = [_plain(line) for line in str(last).splitlines()]
    return [
        line[: line.index("<") + 1] if "<" in line else line.rpartition(". ")[2].removeprefix("then ")
        for line in lines
        if line
    ]


def overlap(one: str, other: str) -> float:
    """The fraction of common words of two texts; each word counts once."""
    a, b = set(_words(one)), set(_words(other))
    return len(a & b) / len(a | b) if a | b else 1.0


def _given_away(text: str, plain: str, words: Sequence[str], known: Known, own: str) -> str | None:
    for size in sorted({len(run) for run in known.runs}):
        copied = (_runs(words, size) & known.runs) - _runs(_words(own), size)
        if copied:
            return f"it copies a training question: {' '.join(min(copied))!r}"
    for gold in known.golds:
        pattern = rf"(?<![\w.]){re.escape(gold)}(?![\w]|\.\d)"
        if len(gold) < 3:  # a small number may occur anywhere; only as an answer it counts
            pattern = rf"(?:\banswers?\b(?: is| are)?|=) *[:=]? *[\"'(<]*{pattern}"
        if re.search(pattern, plain) and not re.search(pattern, _plain(own)):
            return f"it gives away the answer of a training question: {gold!r}"
    return None


def _plain(text: str) -> str:
    """The text in lower case, with single spaces, and no separators within numbers."""
    return " ".join(re.sub(r"(?<=\d),(?=\d{3})", "", text.casefold()).split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _plain(text))


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def _closed(annotation: Any) -> bool:
    """Whether all answers of this type are public anyway."""
    return (
        annotation is bool
        or get_origin(annotation) is Literal
        or (isinstance(annotation, type) and issubclass(annotation, Enum))
    )
