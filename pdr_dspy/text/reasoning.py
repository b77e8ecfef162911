"""Finds the end of a completion's thought and the start of its solution, for servers that do not separate the two.

Known forms: `<think>...</think>` (also `thinking`, `thought` and `seed:think`, in any case), `[THINK]...[/THINK]`,
`<|begin_of_thought|>...<|end_of_thought|>` and similar, and the channels of gpt-oss's harmony format,
`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>`. A thought is at
the beginning of a completion, or the completion begins inside a thought that the chat template has opened. Later tags,
and tags in backticks, are only mentioned. Everything here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def split_thought(text: str) -> tuple[str, str, bool]:
    """Split a completion into (thought, solution, whether the thought is unfinished).

    The solution of an unfinished thought is empty. A completion without a thought is returned unchanged.
    """
    span = solution_span(text)
    if span is None:
        return _MARKS.sub("", text).strip(), "", True
    if span == (0, len(text)):
        return "", text, False
    start, end = span
    return _MARKS.sub("", text[:start]).strip(), text[start:end].strip(), False


def solution_span(text: str) -> tuple[int, int] | None:
    """The span (start, end) of the solution in a completion; None if a thought is unfinished."""
    start, end = 0, len(text)
    if "<" not in text and "THINK]" not in text and "think▷" not in text:
        return start, end
    for _ in range(_FORMS):  # the solution of one form may begin with a thought in the other
        span = _span(text[start:end])
        if span is None:
            return None
        if span == (0, end - start):
            break
        start, end = start + span[0], start + span[1]
    return start, end


_FORMS = 8


def _span(text: str) -> tuple[int, int] | None:
    if (special := text.find("<|")) >= 0 and _HARMONY.match(text, special) and _begins(text, special):
        return _final_channel(text)
    start = 0
    while True:  # another thought may follow
        if opener := _OPENER.match(text, start):
            closer = next((tag for tag in _tags(text, opener.end()) if _closes(tag)), None)
            if closer is None:
                return None
        else:
            closer = next(_tags(text, start), None)
            if closer is None or not _closes(closer):
                return start, len(text)
        start = closer.end()


def _closes(tag: re.Match[str]) -> bool:
    return tag.lastgroup is not None


def _tags(text: str, start: int) -> Iterator[re.Match[str]]:
    """Unquoted tags from `start` on: `5`</think> ends a thought, a tag with a backtick on both sides does not."""
    for tag in _TAG.finditer(text, start):
        quoted = text[tag.start() - 1 : tag.start()] == "`" and text.startswith("`", tag.end())
        if not quoted or text.startswith("``", tag.end()):
            yield tag


def _begins(text: str, special: int) -> bool:
    """Whether the first special token can begin a completion: a channel at its start, or the end of a message that the
    chat template has opened."""
    return text.startswith("<|end|>", special) or not text[:special].strip()


_NAMES = "(?:think|thinking|thought|seed:think)"
_OPENER = re.compile(
    rf"\s*(?:(?i:<{_NAMES}>)|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>)",
)
_TAG = re.compile(
    rf"(?i:<(?P<slash>/)?{_NAMES}>)|\[(?P<mistral>/)?THINK\]|◁(?P<kimi>/)?think▷"
    r"|<\|(?:begin|(?P<sky>end))_of_thought\|>|<\|(?:START|(?P<command>END))_THINKING\|>"
)
"""Includes the tags of Magistral, Kimi, Sky-T1 and OpenThinker, and Command A."""
_HEADER = r"<\|channel\|>\s*(?P<channel>\w+)[^\n]{0,200}?<\|message\|>"
_MESSAGE = re.compile(_HEADER)
_HARMONY = re.compile(r"(?:<\|start\|>\s*\w+\s*)?<\|channel\|>|<\|end\|>\s*<\|start\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_MARKS = re.compile(rf"{_TAG.pattern}|<\|start\|>\s*\w+\s*|{_HEADER}|<\|(?:end|return|call)\|>")


def _final_channel(text: str) -> tuple[int, int] | None:
    """The body of the last message to the user."""
    final = None
    for message in _MESSAGE.finditer(text):
        if message["channel"].lower() == "final":
            final = message
    if final is None:
        return None
    end = _MESSAGE_END.search(text, final.end())
    return final.end(), end.start() if end else len(text)
