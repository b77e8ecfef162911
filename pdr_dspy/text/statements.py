r"""Finds the answers stated in a completion and their wording: labels, markers, tags, table rows, boxes, sentences.

A statement is found by its form alone; its value is parsed elsewhere. Text inside a statement with an explicit end (a
tag, a marker's section, a block of code) contains no other statement. Everything here takes linear time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence

from pdr_dspy.text import labels, precedence
from pdr_dspy.text import statement_patterns as patterns
from pdr_dspy.text.around_boxes import stands_alone
from pdr_dspy.text.corrections import corrections
from pdr_dspy.text.marks import Mark, Marked
from pdr_dspy.text.spans import Spans
from pdr_dspy.text.stated import MAX_ANSWER as MAX_ANSWER
from pdr_dspy.text.stated import How as How
from pdr_dspy.text.stated import Sought as Sought
from pdr_dspy.text.stated import Statement as Statement
from pdr_dspy.text.template import TURN_END
from pdr_dspy.text.wrapping import Block, block, boxes


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


class _Search(Marked):
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
        if name in self.sought.prose and any(not one.generic and not one.rank for one in own):
            own = [one for one in own if not one.generic]
        if ">" in self.text and any(map(self.is_quoted, own)):
            own = [one for one in own if not self.is_quoted(one)] or own
        return precedence.ordered(own)

    def is_quoted(self, one: Statement) -> bool:
        """Whether a statement stands in a quoted line: what another said, if the text states an answer itself."""
        line = self.text[(begin := self.text.rfind("\n", 0, one.start) + 1) : begin + 10]
        return line.lstrip(" \t").startswith(">")

    # --- selection of statements

    def accepted(self, marks: Sequence[Mark]) -> list[Mark]:
        """The marks at which statements begin or end: not those inside statements with an explicit end, nor in a text's
        code block."""
        taken = Spans(self.taken)
        kept: list[Mark] = []
        writing: Mark | None = None  # the open text statement
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
                    text = writing.field in self.sought.prose
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

    def read(self, marks: Sequence[Mark]) -> None:
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

    def past_closing(self, mark: Mark) -> tuple[int, tuple[str, ...]]:
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

    def read_text(self, mark: Mark, start: int, limit: int, held: Block, close: tuple[str, ...]) -> None:
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
        lines = [line for line in self.named if not taken.hold(*line)]  # with the nouns of an answer among others
        if not self.languages or not lines:
            return
        signed = [line for line in lines if labels.INLINE_SIGN.search(self.shadow, *line)]
        for match in self.last_in(signed, labels.inline_label(self.languages)):
            self.within(field, match, "label", taken)
        stating = [line for line in lines if labels.has_verb(self.shadow[slice(*line)], self.languages)]
        for match in self.last_in(stating, labels.sentence(self.languages)):
            self.within(field, match, "sentence", taken, labels.words(self.languages).endings)

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
        if taken.around(start) is not None:
            return True
        return patterns.SOMEBODY.search(self.shadow[max(start - patterns.SOMEBODY_MOST, 0) : start].lower()) is not None

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
            if found and len(joint) <= 60 and TURN_END not in joint and patterns.JOINT.fullmatch(joint):
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
        if field in self.sought.prose:
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
