"""One pass, scored over all drafts that other programs made of the same question: the same mean, with less noise.

The drafts of a round are equal requests that differ only in their seeds, and so is a single pass: each draft is the
answer that one pass would have given at another seed. Their mean is an unbiased estimate of what one pass scores on the
question, at no extra tokens, and its variance is smaller by the number of drafts.
"""

from __future__ import annotations

from typing import NamedTuple

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.evaluation.records import Report, Row


class Drafts(NamedTuple):
    """The first-round drafts of one run."""

    prompt: str
    """The address of their request without its seed: the same for every draft of equal model, prompt and sampling."""
    scores: tuple[float, ...]
    """Of each draft, a fraction; 0 for one that could not be read."""

    @property
    def mean(self) -> float:
        """What one pass scores on this question, from all drafts."""
        return sum(self.scores) / len(self.scores)


def drafts_in(row: Row) -> Drafts | None:
    """The first-round drafts of a run.

    None if some are missing, since the others would be a biased sample: the run failed, a draft was cancelled, left or
    not scored, or not all came from one prompt.
    """
    if row.error is not None or not row.rounds or any(call.cancelled for call in row.calls):
        return None
    first = _first_turns(row)
    scores = [draft.score for draft in row.rounds[0].drafts if draft.score is not None]
    prompts = {call.prompt for call in first}
    if len(prompts) != 1 or "" in prompts or not len(first) == len(row.rounds[0].drafts) == len(scores):
        return None
    return Drafts(prompts.pop(), tuple(scores))


def pass_prompt(row: Row) -> str:
    """The address, without its seed, of the request of a run that is one pass; "" for any other run."""
    first = _first_turns(row)
    whole = row.error is None and len(first) == 1 and len(row.rounds) == 1
    return first[0].prompt if whole and all(call.phase is Phase.DRAFT for call in row.calls) else ""


def over_drafts(single: Report, wide: Report) -> Report:
    """A single pass, scored over all first-round drafts of another program on the same questions and seeds instead of
    over its own. With 4 drafts, a difference from one pass is about as certain as with twice the questions.

    Its costs are those of the single pass, and its name says how many drafts each question has.

    Args:
        single: report of one pass.
        wide: report of a program whose first round is the same request several times. If on any question it is not,
            or the numbers of drafts differ, `single` is returned unchanged.
    """
    runs = {(row.id, row.repeat): row for row in wide.rows}
    drafts = {place: drafts_in(row) for place, row in runs.items()}
    widths = {0 if found is None else len(found.scores) for found in drafts.values()}
    width = widths.pop() if len(widths) == 1 else 0
    if width < 2:
        return single
    rows: list[Row] = []
    for row in single.rows:
        found = drafts.get((row.id, row.repeat))
        if found is None or pass_prompt(row) != found.prompt:
            return single
        answers = [draft.answer for draft in runs[row.id, row.repeat].rounds[0].drafts]
        for place, (score, answer) in enumerate(zip(found.scores, answers, strict=True)):
            repeat, paid = row.repeat * width + place, row.paid if place == 0 else 0
            rows.append(row.model_copy(update={"repeat": repeat, "score": score, "answer": answer, "paid": paid}))
    rows.sort(key=lambda row: (row.repeat, row.id))
    config = {**single.config, "repeats": single.config.get("repeats", 1) * width, "over": width}
    name = f"{single.name}, mean of {width} drafts"
    return single.model_copy(update={"rows": tuple(rows), "name": name, "config": config})


def _first_turns(row: Row) -> list[Call]:
    return [call for call in row.calls if call.phase is Phase.DRAFT and call.round == 1 and call.part == 0]
