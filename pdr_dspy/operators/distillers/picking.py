"""Shared parts of the distillers that let the model pick: the format of a Select reply, and the drafts that it
names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, permutations

from pdr_dspy.calls.ledger import Call
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.operators.distillers.base import DistillerInput
from pdr_dspy.operators.workspace import Draft

MOST_CHOICES = 1000
"""Maximum number of selections that a format lists."""


@lru_cache(maxsize=64)
def selections(k: int, count: int) -> tuple[OutputFormat, ...]:
    """The formats of a Select reply, k different numbers from 1 to `count`, best first.

    No server enforces `uniqueItems`, so the first format lists all selections: in any order while there are at most
    `MOST_CHOICES` (2 of 32, 3 of 11, 4 of 6), since a model constrained to ascending numbers that begins with its best
    cannot name a smaller one after it; beyond that in ascending order (3 of 19, 4 of 13, 6 of 12). Sent to llama.cpp,
    2 of 4 are 0.3 kB, 2 of 16 are 5.8 kB, and 6 of 12, the largest, 34 kB; a schema is 0.2 kB.

    The second is a schema, for longer lists and for servers that support nothing else: it allows a number twice, which
    `picked` handles.
    """
    k = min(k, count)
    forms: list[OutputFormat] = []
    for spelled, ways in ((permutations, math.perm(count, k)), (combinations, math.comb(count, k))):
        if ways <= MOST_CHOICES:
            texts = [f"Selected: {list(numbers)}" for numbers in spelled(range(1, count + 1), k)]
            forms.append(OutputFormat(choices=texts))
            break
    numbers = {"type": "array", "items": {"enum": list(range(1, count + 1))}, "minItems": k, "maxItems": k}
    schema = {"type": "object", "properties": {"selected": numbers}, "required": ["selected"]}
    return (*forms, OutputFormat(schema={**schema, "additionalProperties": False}, name="selection"))


def picked(given: DistillerInput, reply: Reply, order: Sequence[Draft]) -> tuple[list[Draft], tuple[Call, ...]]:
    """The drafts that a Select reply names; a random k, with a failure on the record, if it names none.

    If a reply constrained to k numbers names one twice, it is filled up with others at random, with a note on the
    record: its format left no other choice. An unconstrained reply that names fewer selects fewer.
    """
    k = min(given.k, len(order))
    named = reply.reading.outputs.get("selected")
    if not named and reply.text and not reply.call.truncated:
        bare = re.fullmatch(r"[\[\](){}\s\d,;.&]+", reply.text)  # only the numbers
        form = r"\b(\d{1,3})\b" if bare else r"(?i)candidates?\s*#?\s*(\d{1,3})\b"
        named = [int(number) for number in re.findall(form, reply.text)]
    numbers = list(dict.fromkeys(n for n in named or () if 1 <= n <= len(order)))[:k]
    if not numbers:
        failure = reply.call.failure or "it named no candidate; a random choice is used"
        subset = given.rng(f"fallback {reply.call.index}").sample(list(order), k)
        return subset, reply._replace(call=reply.call.model_copy(update={"failure": failure})).calls
    missing = k - len(numbers)
    if missing and reply.call.format == "held":
        others = [number for number in range(1, len(order) + 1) if number not in numbers]
        numbers += given.rng(f"fill {reply.call.index}").sample(others, missing)
        note = f"it named {k - missing} different candidates instead of {k}; chosen at random: {numbers[-missing:]}"
        reply = reply._replace(call=reply.call.model_copy(update={"note": note}))
    return [order[number - 1] for number in numbers], reply.calls
