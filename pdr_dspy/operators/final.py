"""Selection of the answer among the drafts: by votes, by likeness, by checks, or both.

Pure functions over drafts. Self-consistency is the plurality (Wang et al., 2022, arXiv 2203.11171);
best-of-N is the draft with the highest check. The medoid is minimum Bayes risk with the likeness of answers as the gain
(Bertsch et al., 2023, "It's MBR All the Way Down", arXiv 2310.01387): a vote for answers that are hardly ever equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pdr_dspy.operators import consensus
from pdr_dspy.operators.likeness import likeness, shingles
from pdr_dspy.operators.schedule import Schedule
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


def medoid(drafts: Sequence[Draft], fields: Sequence[str]) -> Draft:
    """The draft whose answer is most like those of the others, on average; among equally alike ones the first.

    Equal answers are alike whatever their texts, as in a vote, so that with answers of one word it is the plurality.
    """
    votes = [consensus.vote(draft.outputs, fields) for draft in drafts]
    firsts = {answer: draft for draft, answer in reversed(list(zip(drafts, votes, strict=True)))}
    counts, parts = Counter(votes), {answer: shingles(draft.outputs, fields) for answer, draft in firsts.items()}
    distinct = list(dict.fromkeys(votes))
    gains = dict.fromkeys(distinct, 0.0)
    for place, one in enumerate(distinct):
        gains[one] += counts[one] - 1
        for other in distinct[place + 1 :]:
            alike = likeness(parts[one], parts[other])
            gains[one] += counts[other] * alike
            gains[other] += counts[one] * alike
    return firsts[max(distinct, key=lambda answer: gains[answer])]


def across(rounds: Sequence[Sequence[Draft]], fields: Sequence[str], schedule: Schedule) -> Draft:
    """The answer of a run: the draft that `schedule.final` selects from the latest round.

    A draft there that reaches `schedule.stop_at` precedes the others. With `schedule.keep` the best-checked draft of
    all rounds is the answer if its check is higher.

    Args:
        rounds: the drafts with a readable answer, by round; at least one of all.
        fields: the task's output fields.
        schedule: `final`, `keep` and `stop_at`.
    """
    latest = next(drafts for drafts in reversed(rounds) if drafts)
    passed = [draft for draft in latest if draft.passes(schedule.stop_at)]
    if passed:
        return best(passed, fields)
    answer = BY_NAME.get(schedule.final, plurality)(latest, fields)
    if schedule.keep:
        highest = best([draft for drafts in reversed(rounds) for draft in drafts], fields)
        if (highest.score or 0.0) > (answer.score or 0.0):
            return highest
    return answer


BY_NAME = {"vote": plurality, "medoid": medoid, "weighted": weighted, "best": best}
"""The selections named by `Schedule.final`, besides "refine"."""
