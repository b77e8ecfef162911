"""The tally: how often each answer came up among the drafts of a round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pdr_dspy.operators.workspace import Draft
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.wrapping import tidy

ANSWERS = 8
"""Different answers that a tally lists."""
LONGEST = 80
"""Characters of an answer in a tally."""


def tally(drafts: Sequence[Draft]) -> str:
    """How often each answer came up, the most common first; texts that are equal but for case, spaces and what wraps
    them are one answer."""
    said: dict[str, str] = {}
    votes: Counter[str] = Counter()
    for draft in drafts:
        values = [tidy(str(value)) for value in draft.outputs.values()]
        answer = "" if draft.truncated else _COUNTED.sub("", " ".join(" | ".join(values).split()))[:LONGEST].strip()
        shown = sheltered(answer) or "no answer"
        votes[shown.casefold()] += 1
        said.setdefault(shown.casefold(), shown)
    listed = [f"{said[key]} ({count} of {len(drafts)})" for key, count in votes.most_common(ANSWERS)]
    return f"Answers of all attempts: {', '.join(listed)}"


_COUNTED = re.compile(r"\(\d+ of \d+\)")
"""A count that an answer brings with it would be one of the tally's."""
