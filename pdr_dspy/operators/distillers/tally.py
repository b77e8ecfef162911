"""The tally: how often each answer came up among the drafts of a round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pdr_dspy.operators.workspace import Draft
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.wrapping import tidy

ANSWERS = 8
"""Maximum number of different answers in a tally."""
LONGEST = 80
"""Maximum characters of an answer in a tally."""


def tally(drafts: Sequence[Draft]) -> str:
    """How often each answer came up, the most common first; texts that differ only in case, spaces and wrapping are one
    answer."""
    wording: dict[str, str] = {}
    votes: Counter[str] = Counter()
    for draft in drafts:
        values = [tidy(str(value)) for value in draft.outputs.values()]
        answer = "" if draft.truncated else _COUNTED.sub("", " ".join(" | ".join(values).split()))[:LONGEST].strip()
        shown = sheltered(answer) or "no answer"
        votes[shown.casefold()] += 1
        wording.setdefault(shown.casefold(), shown)
    listed = [f"{wording[key]} ({count} of {len(drafts)})" for key, count in votes.most_common(ANSWERS)]
    return f"Answers of all attempts: {', '.join(listed)}"


_COUNTED = re.compile(r"\(\d+ of \d+\)")
"""A count within an answer, which could pass for one of the tally's."""
