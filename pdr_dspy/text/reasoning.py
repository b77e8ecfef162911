"""Where a completion's thought ends and its solution begins, for servers that do not keep the two apart.

Known forms: `<think>...</think>` (also `thinking`, `thought` and `seed:think`, in any case), `[THINK]...[/THINK]`,
`<|begin_of_thought|>...<|end_of_thought|>` and their like, and the channels of gpt-oss's harmony
format, `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>`. A thought
stands at the beginning of a completion, or the completion begins inside one that the chat template has opened. Tags
further on, and tags in backticks, are only talked about. Everything here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def split_thought(text: str) -> tuple[str, str, bool]:
    """Split a completion into (thought, solution, whether the thought was left unfinished).

    The solution of an unfinished thought is empty. A completion without a thought comes back as it is.
    """
    span = solution_span(text)
    if span is None:
        return _MARKS.sub("", text).strip(), "", True
    if span == (0, len(text)):
        return "", text, False
    start, end = span
    return _MARKS.sub("", text[:start]).strip(), text[start:end].strip(), False


def solution_span(text: str) -> tuple[int, int] | None:
    """Where the solution stands in a completion, as (start, end); None when a thought is left unfinished."""
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
    while True:  # what follows a thought may begin with another one
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
    """Tags from `start` on that are not quoted: `5`</think> ends a thought, a tag with a backtick on both sides does
    not."""
    for tag in _TAG.finditer(text, start):
        quoted = text[tag.start() - 1 : tag.start()] == "`" and text.startswith("`", tag.end())
        if not quoted or text.startswith("``", tag.end()):
            yield tag


def _begins(text: str, special: int) -> bool:
    """Whether the first special token may be that of a completion: a channel at its beginning, or the end of a message
    that the chat template has opened."""
    return text.startswith("<|end|>", special) or not text[:special].strip()


_NAMES = "(?:think|thinking|thought|seed:think)"
_OPENER = re.compile(
    rf"\s*(?:(?i:<{_NAMES}>)|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>)",
)
_TAG = re.compile(
    rf"(?i:<(?P<slash>/)?{_NAMES}>)|\[(?P<mistral>/)?THINK\]|◁(?P<kimi>/)?think▷"
    r"|<\|(?:begin|(?P<sky>end))_of_thought\|>|<\|(?:START|(?P<command>END))_THINKING\|>"
)
"""Also those of Magistral, Kimi, Sky-T1 and OpenThinker, and Command A."""
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
