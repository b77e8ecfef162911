"""Quoting of a model's text inside a prompt, so that it cannot pass for the prompt's own headings."""

from __future__ import annotations

import re
from collections.abc import Sequence


def sheltered(text: str, headings: Sequence[str] = (), *, among: bool = False) -> str:
    """Quote a model's text so that no part of it can pass for a part of the prompt around it.

    Lines that begin like a heading of the prompt are quoted (`> Workspace:`): the headings of workspaces and tallies,
    the reply form, and `headings`, the labels of the task's inputs; for a text `among` candidates, also those of other
    candidates. Chat-template tokens are broken up (`< |im_end|>`), because servers parse them inside a message's text
    too.
    """
    names = "|".join(re.escape(name) for name in ("candidates", "workspace", "flaws found", *headings))
    own = f"{_CANDIDATE}|{_OWN}" if among else _OWN
    heading = re.compile(rf"{_LINE}(?=[ \t*_#\-]{{0,8}}(?:{own}|(?:{names})[ \t*_]{{0,4}}(?::|$)))", re.I | re.M)
    return _MARK.sub(lambda mark: f"{mark[0]} ", heading.sub("> ", text))


_LINE = "(?:^|(?<=[\r\x0b\x0c\x85\u2028\u2029]))"
_CANDIDATE = r"candidate[ \t]{1,4}\d+[ \t*_]{0,4}(?:\(unfinished\)[ \t*_]{0,4})?(?::|$)"
_OWN = (
    r"answers of all attempts:"
    r"|check result:"
    r"|(?:write the steps first\. then )?end with (?:one line of exactly|exactly these)"
    r"|reply with the text alone"
)
_MARK = re.compile(
    r"<(?=[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|/?(?:s|think|thinking|thought|(?:start|end)_of_turn)>)|\[(?=/?INST\])"
)
