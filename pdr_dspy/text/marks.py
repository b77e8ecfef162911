"""Finds the marks at which statements begin or end: tags, markers, rows of tables, labels at the head of a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pdr_dspy.text import labels, precedence
from pdr_dspy.text import statement_patterns as patterns
from pdr_dspy.text.spans import Spans, fences
from pdr_dspy.text.stated import How, Sought, Statement
from pdr_dspy.text.wrapping import STRUCK


class Mark(NamedTuple):
    """The position of a label."""

    start: int
    value: int
    """Start of the labelled text."""
    field: str | None
    """None for a mark that only ends other statements."""
    strong: bool = True
    """Whether it also ends an open text statement; a weak mark (`answer = 3`, `the answer is`) does not."""
    section: bool = False
    """Whether it is a marker of the ChatAdapter."""
    lead: str = ""
    """The text before it in its line."""
    generic: bool = False
    how: How = "label"
    rank: int = 0


class Marked:
    """A text in which statements are searched, with its marks."""

    def __init__(
        self, text: str, sought: Sought, truncated: bool, taken: Sequence[tuple[int, int]], given: Sequence[Statement]
    ) -> None:
        self.text = text
        self.sought = sought
        self.shadow = labels.shadow(text)
        self.lowered = self.shadow.lower()
        self.languages = labels.languages_in(self.lowered)
        self.truncated = truncated
        self.last = text.rfind("\n") + 1 if truncated else len(text) + 1
        """Start of the unfinished last line."""
        self.struck = Spans([found.span() for found in STRUCK.finditer(text)] if "~~" in text else ())
        self.taken = [*taken, *self.struck.spans]
        """Spans with an explicit end: they contain no further statement."""
        self.found = list(given)
        self.extents: list[tuple[int, int]] = []
        """Spans of labelled statements: boxes and sentences in them belong to these."""
        self.named: list[tuple[int, int]] = []
        """Spans of the lines with a name of a field."""
        self.code = Spans(fences(text) if "```" in text or "~~~" in text else ())

    def add(self, mark: Mark, text: str, *, exact: Literal["marker", "tag"] | None = None, whole: bool = True) -> None:
        if mark.field is not None and text.strip():
            self.found.append(Statement(mark.field, mark.start, text, mark.how, mark.rank, exact, whole, mark.generic))

    def line_end(self, place: int) -> int:
        end = self.text.find("\n", place)
        return len(self.text) if end < 0 else end

    def tags(self) -> list[Mark]:
        """Find the elements with a field's name. Returns the last one that is never closed."""
        if "<" not in self.text:
            return []
        opened: dict[str, re.Match[str]] = {}
        given = Spans(self.taken)
        for tag in patterns.TAG.finditer(self.text):
            name = labels.key(tag["name"])
            field = self.sought.keys.get(name)
            if field is None or given.around(tag.start()):
                if field is None and self.sought.answer is not None and name in patterns.HOLDERS:
                    self.holder(name, tag, opened)
                continue
            if not tag["slash"]:
                opened[name] = tag  # the innermost of nested ones
            elif begun := opened.pop(name, None):
                mark = Mark(begun.start(), begun.end(), field, generic=labels.key(field) != name)
                self.add(mark, self.text[begun.end() : tag.start()], exact="tag")
                self.taken.append((begun.start(), tag.end()))
        marks = []
        half = patterns.HALF_CLOSED.search(self.text)
        for name, tag in opened.items():
            if name not in self.sought.keys:
                continue
            field = self.sought.keys[name]
            if half and tag.end() <= half.start() and name.startswith(labels.key(half[1])):
                mark = Mark(tag.start(), tag.end(), field, generic=labels.key(field) != name)
                self.add(mark, self.text[tag.end() : half.start()], exact="tag")
                self.taken.append((tag.start(), len(self.text)))
                continue
            line = self.text[self.text.rfind("\n", 0, tag.start()) + 1 : tag.start()]
            if not line.strip(" \t*_>`"):
                marks.append(Mark(tag.start(), tag.end(), field, generic=labels.key(field) != name))
        return marks

    def holder(self, name: str, tag: re.Match[str], opened: dict[str, re.Match[str]]) -> None:
        """Find `<final>42</final>`: a short element whose name may also be that of a solution or an example."""
        if not tag["slash"]:
            opened[name] = tag
        elif begun := opened.pop(name, None):
            held = self.text[begun.end() : tag.start()].strip()
            if held and len(held) <= 200 and "\n" not in held:
                mark = Mark(begun.start(), begun.end(), self.sought.answer, generic=True, rank=precedence.WEAK)
                self.add(mark, held)

    def markers(self) -> list[Mark]:
        """Find the sections of DSPy's ChatAdapter. The last one may end without a marker."""
        if "[[" not in self.text:
            return []
        found = list(patterns.MARKER.finditer(self.text))
        marks = []
        for place, marker in enumerate(found):
            field = self.sought.named(marker["name"])
            mark = Mark(marker.start(), marker.end(), field, section=True)
            if field is not None and place + 1 < len(found):
                end = found[place + 1].start()
                self.add(mark, self.text[marker.end() : end], exact="marker")
                self.taken.append((marker.start(), end))
                mark = mark._replace(field=None)
            marks.append(mark)
        return marks

    def rows(self) -> None:
        """Find `| Answer | 42 |` in tables, and columns headed by a field's name above one row of values."""
        if "|" not in self.shadow:
            return
        lines = [(match.start(), match.group()) for match in patterns.ROW.finditer(self.shadow)]
        for place, (start, line) in enumerate(lines):
            cells = patterns.cells(line)
            fields = [self.sought.named(cell.group()) for cell in cells]
            if not any(fields):
                continue
            below = []
            for next_start, next_line in lines[place + 1 : place + 4]:
                if next_start != start + len(line) + 1 + sum(len(text) + 1 for _, text in below):
                    break
                below.append((next_start, next_line))
            if below and patterns.RULE.fullmatch(below[0][1]):
                values = patterns.cells(below[1][1]) if len(below) == 2 else []
                for field, cell in zip(fields, values if len(values) == len(cells) else [], strict=False):
                    if field is not None:
                        self.row(field, below[1][0], cell)
            elif len(cells) == 2 and fields[0] is not None and not patterns.RULE.fullmatch(line):
                self.row(fields[0], start, cells[1])

    def row(self, field: str, start: int, cell: re.Match[str]) -> None:
        begin, end = start + cell.start(), start + cell.end()
        if self.line_end(end) < self.last:
            self.add(Mark(start, begin, field), self.text[begin:end].strip())
            self.taken.append((start, end))

    def lines(self) -> Iterator[Mark]:
        """Labels at the head of a line."""
        self.named = self.lines_with(patterns.needles(self.sought, self.languages))
        if not self.named:
            return
        pattern = patterns.line_pattern(self.sought, self.languages)
        for start, end in self.named:
            for match in pattern.finditer(self.shadow, start, end):
                if self.struck.around(match.end()):
                    continue
                if mark := self.line(match):  # on an unfinished line it still ends the statement before it
                    yield mark if mark.start < self.last else mark._replace(field=None)

    def lines_with(self, needles: Sequence[str]) -> list[tuple[int, int]]:
        """The spans of the lines that contain one of some words in lower case; the whole text if a letter becomes two
        in lower case. Most lines contain none, and a search for words is much faster than a pattern of labels."""
        if len(self.lowered) != len(self.shadow):
            return [(0, len(self.text))]
        found: dict[int, int] = {}
        for needle in needles:
            at = self.lowered.find(needle)
            while at >= 0:
                end = self.line_end(at)
                found[self.text.rfind("\n", 0, at) + 1] = end
                at = self.lowered.find(needle, end)
        return sorted(found.items())

    def line(self, match: re.Match[str]) -> Mark | None:
        index = next((i for i in range(len(self.sought.fields)) if match[f"own{i}"] is not None), None)
        field, generic = (self.sought.fields[index], False) if index is not None else (self.sought.answer, True)
        if match["bound"] is not None:
            field, generic = None, False
        lead, gap = match["lead"], match["gap"]
        mark = Mark(match.start(), match.end(), field, lead=lead, generic=generic)
        if match["result"] is not None:
            mark = mark._replace(rank=precedence.WEAK, strong=False)
        if match["about"] and (generic or field not in self.sought.texts) and precedence.is_part(match["about"]):
            mark = mark._replace(rank=precedence.PART)
        if match["about"] and not generic:  # `Title of the next part: ...` within a text
            mark = mark._replace(strong=False, rank=max(mark.rank, 1 if field in self.sought.texts else 0))
        if sign := match["sign"]:
            return mark._replace(strong=False) if sign.strip() in patterns.WEAK else mark
        if field is None:
            return None
        said = labels.key(self.shadow[match.start("which") : match.start("gap")])
        if match["verb"]:  # generic names are searched in all sentences
            known = field == self.sought.answer and said in labels.ANSWER_KEYS
            return None if known else mark._replace(strong=False, how="sentence", rank=precedence.WEAK)
        if patterns.bracketed(lead, gap):
            return mark
        rest = self.shadow[match.end() : self.line_end(match.end())].strip(" \t*_=~#-")
        if not rest:  # alone in its line, possibly ruled: `=== Poem ===`
            mark = mark._replace(value=self.line_end(match.end()))
            return mark if self.heads(match.end(), field, said) and not match["result"] else None
        rest = self.shadow[match.start("gap") : self.line_end(match.end())]
        if field not in self.sought.long and rest[:1].isspace() and patterns.VALUE_ALONE.fullmatch(rest.strip()):
            return mark._replace(value=match.start("gap"), strong=False, rank=1)
        return None

    def heads(self, end: int, field: str, said: str) -> bool:
        """Whether a label alone in its line heads its value. `### Answer` may head an explanation if the answer is a
        text; `### Final answer` heads the answer."""
        if self.line_end(end) >= min(self.last, len(self.text)):
            return False
        return field not in self.sought.texts or said not in labels.NOUNS
