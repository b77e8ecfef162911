r"""Finds the answers stated in a completion and their wording: labels, markers, tags, table rows, boxes, sentences.

A statement is found by its form alone; its value is parsed elsewhere. Text inside a statement with an explicit end (a
tag, a marker's section, a block of code) contains no other statement. Everything here takes linear time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from pdr_dspy.text import labels, precedence
from pdr_dspy.text import statement_patterns as patterns
from pdr_dspy.text.around_boxes import stands_alone
from pdr_dspy.text.corrections import corrections
from pdr_dspy.text.spans import Spans, fences
from pdr_dspy.text.stated import MAX_ANSWER as MAX_ANSWER
from pdr_dspy.text.stated import How as How
from pdr_dspy.text.stated import Sought as Sought
from pdr_dspy.text.stated import Statement as Statement
from pdr_dspy.text.template import TURN_END
from pdr_dspy.text.wrapping import STRUCK, Block, block, boxes


def statements(
    text: str,
    sought: Sought,
    *,
    truncated: bool = False,
    taken: Sequence[tuple[int, int]] = (),
    given: Sequence[Statement] = (),
) -> dict[str, list[Statement]]:
    """The statements of each field, the one that counts first.

    Args:
        text: without any thought, and after `without_template`.
        sought: the fields to find.
        truncated: the text was truncated by its cap: a statement on its unfinished last line is left out unless it has
            an explicit end.
        taken: spans that were already parsed, such as JSON objects; they contain no further statement.
        given: the statements found in these spans.
    """
    return _Search(text, sought, truncated, taken, given).run()


class _Mark(NamedTuple):
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


class _Search:
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

    def run(self) -> dict[str, list[Statement]]:
        marks = [*self.tags(), *self.markers()]
        self.rows()
        marks += self.lines()
        self.read(self.accepted(sorted(marks, key=lambda mark: mark[:2])))
        if self.sought.answer is not None:
            self.unnamed(self.sought.answer)
            self.correct(self.sought.answer)
        by_field: dict[str, list[Statement]] = {name: [] for name in self.sought.fields}
        for one in self.found:
            by_field[one.field].append(one)
        return {name: self.ordered(name, own) for name, own in by_field.items()}

    def ordered(self, name: str, own: list[Statement]) -> list[Statement]:
        """The statement that holds first. One with a generic name counts for a text field only if none carries the
        field's name."""
        if name in self.sought.texts - self.sought.short and any(not one.generic and not one.rank for one in own):
            own = [one for one in own if not one.generic]
        if ">" in self.text and any(map(self.is_quoted, own)):
            own = [one for one in own if not self.is_quoted(one)] or own
        return precedence.ordered(own)

    def add(self, mark: _Mark, text: str, *, exact: Literal["marker", "tag"] | None = None, whole: bool = True) -> None:
        if mark.field is not None and text.strip():
            self.found.append(Statement(mark.field, mark.start, text, mark.how, mark.rank, exact, whole, mark.generic))

    def is_quoted(self, one: Statement) -> bool:
        """Whether a statement stands in a quoted line: what another said, if the text states an answer itself."""
        line = self.text[(begin := self.text.rfind("\n", 0, one.start) + 1) : begin + 10]
        return line.lstrip(" \t").startswith(">")

    def line_end(self, place: int) -> int:
        end = self.text.find("\n", place)
        return len(self.text) if end < 0 else end

    # --- labels

    def tags(self) -> list[_Mark]:
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
                mark = _Mark(begun.start(), begun.end(), field, generic=labels.key(field) != name)
                self.add(mark, self.text[begun.end() : tag.start()], exact="tag")
                self.taken.append((begun.start(), tag.end()))
        marks = []
        half = patterns.HALF_CLOSED.search(self.text)
        for name, tag in opened.items():
            if name not in self.sought.keys:
                continue
            field = self.sought.keys[name]
            if half and tag.end() <= half.start() and name.startswith(labels.key(half[1])):
                mark = _Mark(tag.start(), tag.end(), field, generic=labels.key(field) != name)
                self.add(mark, self.text[tag.end() : half.start()], exact="tag")
                self.taken.append((tag.start(), len(self.text)))
                continue
            line = self.text[self.text.rfind("\n", 0, tag.start()) + 1 : tag.start()]
            if not line.strip(" \t*_>`"):
                marks.append(_Mark(tag.start(), tag.end(), field, generic=labels.key(field) != name))
        return marks

    def holder(self, name: str, tag: re.Match[str], opened: dict[str, re.Match[str]]) -> None:
        """Find `<final>42</final>`: a short element whose name may also be that of a solution or an example."""
        if not tag["slash"]:
            opened[name] = tag
        elif begun := opened.pop(name, None):
            held = self.text[begun.end() : tag.start()].strip()
            if held and len(held) <= 200 and "\n" not in held:
                mark = _Mark(begun.start(), begun.end(), self.sought.answer, generic=True, rank=precedence.WEAK)
                self.add(mark, held)

    def markers(self) -> list[_Mark]:
        """Find the sections of DSPy's ChatAdapter. The last one may end without a marker."""
        if "[[" not in self.text:
            return []
        found = list(patterns.MARKER.finditer(self.text))
        marks = []
        for place, marker in enumerate(found):
            field = self.sought.named(marker["name"])
            mark = _Mark(marker.start(), marker.end(), field, section=True)
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
            self.add(_Mark(start, begin, field), self.text[begin:end].strip())
            self.taken.append((start, end))

    def lines(self) -> Iterator[_Mark]:
        """Labels at the head of a line."""
        pattern = patterns.line_pattern(self.sought, self.languages)
        self.named = self.lines_with(patterns.needles(self.sought, self.languages))
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

    def line(self, match: re.Match[str]) -> _Mark | None:
        index = next((i for i in range(len(self.sought.fields)) if match[f"own{i}"] is not None), None)
        field, generic = (self.sought.fields[index], False) if index is not None else (self.sought.answer, True)
        if match["bound"] is not None:
            field, generic = None, False
        lead, gap = match["lead"], match["gap"]
        mark = _Mark(match.start(), match.end(), field, lead=lead, generic=generic)
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

    # --- selection of statements

    def accepted(self, marks: Sequence[_Mark]) -> list[_Mark]:
        """The marks at which statements begin or end: not those inside statements with an explicit end, nor in a text's
        code block."""
        taken = Spans(self.taken)
        kept: list[_Mark] = []
        writing: _Mark | None = None  # the open text statement
        begun = 0  # position of its first word
        for mark in marks:
            if not mark.section:
                if (inside := taken.around(mark.start)) and inside[0] != mark.start:
                    continue
                if writing is not None:
                    fence = self.code.around(mark.start)
                    if (writing.strong and not mark.strong and begun < mark.start) or (
                        fence is not None and writing.start < fence[0]
                    ):
                        continue
                    text = writing.field in self.sought.texts - self.sought.short
                    if text and mark.generic and not writing.generic:
                        continue  # `Answer:` in a poem
            kept.append(mark)
            if mark.field is None:
                writing = None
            elif mark.field in self.sought.long or not self.text[mark.value : self.line_end(mark.value)].strip():
                writing = mark
            else:
                writing = None
            if writing is mark:
                word = patterns.WORD.search(self.text, mark.value)
                begun = word.start() if word else len(self.text)
        return kept

    def read(self, marks: Sequence[_Mark]) -> None:
        """Read the statements after the marks."""
        for place, mark in enumerate(marks):
            self.extents.append((mark.start, max(mark.value, mark.start + 1)))
            if mark.field is None:
                continue
            limit = marks[place + 1].start if place + 1 < len(marks) else len(self.text)
            turn = self.text.find(TURN_END, mark.value, limit)
            limit = limit if turn < 0 else turn
            if fence := self.code.around(mark.start):  # the whole form is in one code block
                limit = min(limit, max(self.text.rfind("\n", 0, fence[1]), mark.value))
            start, close = self.past_closing(mark)
            held = block(self.text, start, limit)
            if held is None:
                continue
            if mark.field in self.sought.long:
                self.read_text(mark, start, limit, held, close)
            elif held.closed or held.end < self.last:
                text = held.text if held.closed else patterns.unclosed(held.text, close)
                text = patterns.sentence(text) if mark.how == "sentence" else text
                if self.text[start : held.end].lstrip(" \t*_").startswith("\n"):
                    text = "\n" + text  # on the line below its label `- 42` may be an item
                self.add(mark, text, exact="marker" if mark.section else None)
                self.extents.append((mark.start, held.end))

    def past_closing(self, mark: _Mark) -> tuple[int, tuple[str, ...]]:
        """Where the value begins once marks around its label are closed, and the closing marks that may follow the
        value: `**Answer:** 42`, `**Answer: 42**`."""
        start, end = mark.value, self.line_end(mark.value)
        if mark.section or not mark.lead.strip():
            return start, ()
        said = self.shadow[mark.start + len(mark.lead) : mark.value]
        still: list[str] = []
        for opened in reversed(list(patterns.OPENED.finditer(mark.lead))):
            closing = patterns.closing(opened)
            if closing in said:
                continue
            rest = self.text[start:end]
            spaces = len(rest) - len(rest.lstrip(" \t"))
            if rest.startswith(closing):
                start += len(closing)
            elif rest.startswith(closing, spaces) and (closing != opened[0] or rest.count(closing) % 2):
                start += spaces + len(closing)
            else:
                still.append(closing)
        return start, tuple(still)

    def read_text(self, mark: _Mark, start: int, limit: int, held: Block, close: tuple[str, ...]) -> None:
        """Read a field that may take several lines: its whole text; of a truncated text, up to its unfinished last
        line."""
        end, going_on = limit, self.truncated and limit == len(self.text)
        if held.closed and self.text[start : held.end].lstrip().startswith(("```", "~~~")) and going_on:
            end, going_on = held.end, False
        elif mark.field in self.sought.texts and not mark.section:
            line = self.line_of(mark.field, start, limit, held)
            if line is not None:
                end, going_on = line, going_on and not held.closed and line >= self.last
        if going_on:
            end = max(min(end, self.last), start)
        body = self.text[start:end]
        if ":" not in self.shadow[mark.start : mark.value]:
            body = patterns.UNDERLINE.sub("", body, count=1)
        if ">" in mark.lead:
            body = re.sub(r"\n[ \t]{0,3}> ?", "\n", body)
        self.add(mark, patterns.unclosed(body, close), exact="marker" if mark.section else None, whole=not going_on)
        self.extents.append((mark.start, end))

    def line_of(self, field: str | None, start: int, limit: int, held: Block) -> int | None:
        """The end of a text that is a single line or display, when the lines after it only comment on it. None if the
        lines belong together."""
        first, rest = self.text[start : held.end].strip(), self.text[held.end : limit]
        bare = held.closed or (len(first) <= 80 and len(first.split()) <= 6 and first[-1:] not in ",;:([{!?…")
        if not bare:
            return None
        if field not in self.sought.short:
            return held.end if patterns.EXPLAINED.match(rest) else None
        if self.truncated and limit == len(self.text) and not rest[: max(self.last - held.end, 0)].strip():
            return held.end if held.end < self.last else None  # only the line after it was truncated
        if patterns.ABOUT.match(rest):
            return held.end
        paragraph = patterns.PARAGRAPH.match(rest)
        words = len(paragraph[1].split()) if paragraph else 0
        if first[-1:] in ".。" and not patterns.FIGURES.fullmatch(first):
            return None  # a sentence that others may follow
        return held.end if words >= 8 or (words >= 4 and patterns.FIGURES.fullmatch(first)) else None

    # --- answers without a field's name

    def unnamed(self, field: str) -> None:
        """Find boxes, and labels and sentences within lines."""
        taken = Spans([*self.taken, *self.extents])
        if "\\" in self.text and (spans := self.boxed(field, taken)):
            taken = Spans([*taken.spans, *spans])
        if "####" in self.text:
            self.hashes(field, taken)
        if "选" in self.text or "選" in self.text:
            for match in patterns.CHOSEN.finditer(self.shadow):
                if match.end() < self.last and not taken.around(match.start()):
                    self.found.append(Statement(field, match.start(), match[1], "sentence", 0, generic=True))
        if not self.languages:
            return
        said = labels.words(self.languages)
        lines = self.named  # with the nouns of an answer among others
        for match in self.last_in(lines, labels.inline_label(self.languages)):
            self.within(field, match, "label", taken)
        for match in self.last_in(lines, labels.sentence(self.languages)):
            self.within(field, match, "sentence", taken, said.endings)

    def within(self, field: str, match: re.Match[str], how: How, taken: Spans, endings: str = "") -> None:
        """Add the statement of a label or a sentence within a line."""
        if self.is_foreign(match.start(), taken) or not (value := self.behind(match.end())):
            return
        rank = precedence.standing(self.shadow, match.start(), match.end(), match.groupdict().get("about") or "")
        if rank is None:
            return
        if how == "sentence":
            value = patterns.sentence(value, endings)
        if rank == precedence.EXPLICIT:
            plain = precedence.plain_value(patterns.sentence(value)) if field not in self.sought.long else None
            if field in self.sought.short:
                plain = precedence.plain_value(value, strictly=True)
            if plain is None:
                rank = precedence.INLINE if how == "label" else precedence.WEAK
            elif how == "sentence":
                value = plain
        if value.strip():
            self.found.append(Statement(field, match.start(), value, how, rank, generic=True))

    def last_in(self, lines: Sequence[tuple[int, int]], pattern: re.Pattern[str]) -> Iterable[re.Match[str]]:
        """The last matches of a pattern in some lines; earlier ones do not count anyway."""
        found: deque[re.Match[str]] = deque(maxlen=patterns.LAST)
        for start, end in lines:
            found.extend(pattern.finditer(self.shadow, start, end))
        return found

    def is_foreign(self, start: int, taken: Spans) -> bool:
        """Whether a label is inside a statement, or belongs to another person's answer or to none."""
        return taken.around(start) is not None or bool(patterns.SOMEBODY.search(self.shadow, max(start - 40, 0), start))

    def behind(self, start: int) -> str | None:
        """The text after a label: the rest of its line, or the next line if that is empty."""
        held = block(self.text, start, min(len(self.text), start + MAX_ANSWER))
        if held is None or (self.truncated and not held.closed and held.end >= self.last):
            return None
        return patterns.even(held.text.partition(TURN_END)[0])

    def boxed(self, field: str, taken: Spans) -> list[tuple[int, int]]:
        """Find boxes, and return their spans. Neighbouring ones are joined: several guesses stay several."""
        found, start, end = "", -1, -1
        spans = [span for span in boxes(self.text) if not taken.around(span[0])]
        for begin, stop in spans:
            joint = self.text[end + 1 : begin]
            if found and len(joint) <= 60 and patterns.JOINT.fullmatch(joint):
                found += (" or " if "or" in joint.lower() else ", ") + self.text[begin:stop]
            else:
                self.box(field, start, end, found)
                found, start = self.text[begin:stop], begin
            end = stop
        self.box(field, start, end, found)
        return spans

    def box(self, field: str, start: int, end: int, found: str) -> None:
        if found.strip() and stands_alone(self.text, start, end):
            self.found.append(Statement(field, start, found, "box", 0, generic=True))

    def hashes(self, field: str, taken: Spans) -> None:
        """`#### 42`, as GSM8K ends its solutions; `#### Step 2` is a heading."""
        for match in patterns.HASHES.finditer(self.text):
            if match.end() < self.last and not taken.around(match.start()) and not patterns.HEADING.match(match[1]):
                self.found.append(Statement(field, match.start(), match[1], "label", 0, generic=True))

    # --- corrections

    def correct(self, field: str) -> None:
        """Replace what is corrected behind a statement of an unnamed answer."""
        if field in self.sought.texts - self.sought.short:
            return
        words, taken = field in self.sought.texts, Spans(self.taken)
        own = sorted((one for one in self.found if one.field == field), key=lambda one: one.start)[-patterns.LAST :]
        for place, one in enumerate(own):
            held, given = one.text.strip(), taken.around(one.start)
            begin = given[1] if given else max(self.text.find(held[:20], one.start), one.start) + 1
            follows = own[place + 1].start if place + 1 < len(own) else len(self.text)
            end = self.text.find(TURN_END, begin, self.line_end(follows))
            end = self.line_end(follows) if end < 0 else end
            for found in corrections(self.text, begin, end, answer=held, words=words):
                if taken.around(found.start) or (
                    words and len(self.text[begin - 1 : found.start].split()) > patterns.FEW
                ):
                    continue
                if found.start >= follows:
                    break
                if found.denies:
                    self.found = [one for one in self.found if one.field != field or one.start >= found.start]
                last = place + 1 == len(own) or follows <= found.end  # `Update: the answer is 42` is one statement
                if last and found.value is not None and found.end < self.last:
                    self.found.append(Statement(field, found.start, found.value, "sentence", 0, generic=True))
