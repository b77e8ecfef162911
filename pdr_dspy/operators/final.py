"""Selection of the answer among the drafts: by votes, by checks, or both.

Pure functions over the drafts of a round. Self-consistency is the plurality (Wang et al., 2022, arXiv 2203.11171);
best-of-N is the draft with the highest check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pdr_dspy.operators import consensus
from pdr_dspy.operators.workspace import Draft


def plurality(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The first draft of the most common answer; among equally common answers, of the one that came up first."""
    if len(drafts) == 1:
        return drafts[0]
    answers = [consensus.vote(draft.outputs, fields) for draft in drafts]
    votes = Counter(answers)
    return max(zip(drafts, answers, strict=True), key=lambda draft: votes[draft[1]])[0]


def weighted(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The best-checked draft of the answer with the most votes, each weighted by its draft's check.

    A draft that could not be checked has weight 0. If all weights are 0 the plurality decides.
    """
    weights: Counter[str | None] = Counter()
    for draft in drafts:
        weights[consensus.vote(draft.outputs, fields)] += draft.score or 0.0  # type: ignore[assignment]
    if not any(weights.values()):
        return plurality(drafts, fields)
    leading = max(weights, key=lambda answer: weights[answer])
    return best([draft for draft in drafts if consensus.vote(draft.outputs, fields) == leading], fields)


def best(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The draft with the highest check; among equally high ones the most common answer, then the first."""
    scores = [-1.0 if draft.score is None else draft.score for draft in drafts]
    return plurality([draft for draft, score in zip(drafts, scores, strict=True) if score == max(scores)], fields)


BY_NAME = {"vote": plurality, "weighted": weighted, "best": best}
"""The selections named by `Schedule.final`, besides "refine"."""
