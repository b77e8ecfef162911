"""What the distillers that let the model pick share: the drafts that a Select reply names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.calls.ledger import Call
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.operators.distillers.base import DistillerInput
from pdr_dspy.operators.workspace import Draft


def selection(k: int, count: int) -> OutputFormat:
    """The form of a Select reply: k of the numbers 1 to `count`. That no number stands there twice is left to `picked`:
    no server holds a model to `uniqueItems`."""
    numbers = {"type": "array", "items": {"enum": list(range(1, count + 1))}, "minItems": k, "maxItems": k}
    schema = {"type": "object", "properties": {"selected": numbers}, "required": ["selected"]}
    return OutputFormat(schema={**schema, "additionalProperties": False}, name="selection")


def picked(given: DistillerInput, reply: Reply, order: Sequence[Draft]) -> tuple[list[Draft], tuple[Call, ...]]:
    """The drafts that a Select reply names; a random k, and a failure on the record, when it names none."""
    k = min(given.k, len(order))
    named = reply.reading.outputs.get("selected")
    if not named and reply.text and not reply.call.truncated:
        bare = re.fullmatch(r"[\[\](){}\s\d,;.&]+", reply.text)  # nothing but the numbers
        form = r"\b(\d{1,3})\b" if bare else r"(?i)candidates?\s*#?\s*(\d{1,3})\b"
        named = [int(number) for number in re.findall(form, reply.text)]
    numbers = list(dict.fromkeys(n for n in named or () if 1 <= n <= len(order)))[:k]
    if numbers:
        return [order[number - 1] for number in numbers], reply.calls
    failure = reply.call.failure or "it named no candidate; a random choice stands in"
    subset = given.rng(f"fallback {reply.call.index}").sample(list(order), k)
    return subset, reply._replace(call=reply.call.model_copy(update={"failure": failure})).calls
