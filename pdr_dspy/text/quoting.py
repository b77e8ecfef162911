"""Text of a model's inside a prompt, where it must not pass for the prompt's own headings."""

from __future__ import annotations

import re
from collections.abc import Sequence


def sheltered(text: str, headings: Sequence[str] = (), *, among: bool = False) -> str:
    """What a model wrote, so that it can stand inside a prompt without passing for a part of the prompt itself.

    Lines that begin as a heading of the prompt does are quoted (`> Workspace:`): those of what earlier rounds left, of
    a tally, of the form of the reply, `headings`, which are the labels of the task's inputs, and, for a text `among`
    candidates, those of another candidate. Marks of chat templates are spelled apart (`< |im_end|>`), for servers read
    them in the text of a message too.
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
