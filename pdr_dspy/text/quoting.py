"""Quoting of a model's text inside a prompt, so that it cannot pass for the prompt's own headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache


def sheltered(text: str, headings: Sequence[str] = (), *, among: bool = False) -> str:
    """Quote a model's text so that no part of it can pass for a part of the prompt around it.

    Lines that begin like a heading of the prompt are quoted (`> Workspace:`): the headings of workspaces and tallies,
    the reply form, and `headings`, the labels of the task's inputs; for a text `among` candidates, also those of other
    candidates. Chat-template tokens are broken up (`< |im_end|>`), because servers parse them inside a message's text
    too.
    """
    if _may_have_heading(text, tuple(headings)):
        text = _heading(tuple(headings), among).sub("> ", text)
    return _MARK.sub(lambda mark: f"{mark[0]} ", text) if "<" in text or "[" in text else text


def _may_have_heading(text: str, headings: tuple[str, ...]) -> bool:
    """Whether a text has the words of a heading; a search for them is much faster than the pattern."""
    if not (text.isascii() and all(map(str.isascii, headings))):
        return True
    lowered = text.lower()
    return any(words in lowered for words in _WORDS) or any(heading.lower() in lowered for heading in headings)


@lru_cache(maxsize=256)
def _heading(headings: tuple[str, ...], among: bool) -> re.Pattern[str]:
    """The beginning of a line that begins like a heading of the prompt."""
    names = "|".join(re.escape(name) for name in ("candidates", "workspace", "flaws found", *headings))
    own = f"{_CANDIDATE}|{_OWN}" if among else _OWN
    return re.compile(rf"{_LINE}(?=[ \t*_#\-]{{0,8}}(?:{own}|(?:{names})[ \t*_]{{0,4}}(?::|$)))", re.I | re.M)


_LINE = "(?:^|(?<=[\r\x0b\x0c\x85\u2028\u2029]))"
_CANDIDATE = r"candidate[ \t]{1,4}\d+[ \t*_]{0,4}(?:\(unfinished\)[ \t*_]{0,4})?(?::|$)"
_OWN = (
    r"answers of all attempts:"
    r"|check result:"
    r"|(?:write the steps first\. then )?end with (?:one line of exactly|exactly these)"
    r"|reply with the text alone"
)
_WORDS = (
    *("candidate", "workspace", "flaws found", "answers of all attempts", "check result", "end with"),
    "reply with the text alone",
)
"""In lower case, one of these is in every heading of the prompt itself."""
_MARK = re.compile(
    r"<(?=[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|/?(?:s|think|thinking|thought|(?:start|end)_of_turn)>)|\[(?=/?INST\])"
)
