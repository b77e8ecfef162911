"""What failed in an evaluation or a search, for people: one warning while it runs, and the counts when it has ended."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.outcome import Stop

logger = logging.getLogger("pdr_dspy")

CUT = 0.05
"""Share of drafts cut before an answer, or of rows without one in their last round, above which it is said: a few never
end, whatever their cap."""
FELL_BACK = str(Stop.FELL_BACK)


class FirstFailures:
    """Logs the first failed row and the first failure of the verifier on a draft and of each check, once each, however
    many follow."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def see(self, row: Row) -> None:
        """Log what failed in a row, if it is the first of its kind."""
        if row.error is not None and self._is_first("row"):
            logger.warning(
                "question %s failed and scores 0: %s. Further failed rows are not logged: they are counted in the "
                "report, and `row.error` is the reason of each",
                *(row.id, row.error),
            )
        if row.error is None and row.failed_rounds and self._is_first("round"):
            logger.warning(
                "question %s is answered without a round that failed: %s. The answer comes from the rounds before it, "
                "and the row is run again on resume. Further ones are not logged, but counted in the report",
                *(row.id, row.failed_rounds[0]),
            )
        for number, round_ in enumerate(row.rounds, 1):
            if round_.drafts and all(draft.cut for draft in round_.drafts) and self._is_first("cut"):
                logger.warning(
                    "all drafts of round %d of question %s ended at their cap before an answer could be read: raise "
                    "%s. Further ones are not logged, but counted in the report",
                    *(number, row.id, "`draft_tokens`" if number == 1 else "`refine_tokens`"),
                )
        ungraded = [draft.ungraded for draft in row.drafts if draft.ungraded is not None]
        if ungraded and self._is_first("grade"):
            logger.warning(
                "the verifier failed on %d of %d drafts of question %s, whose answer it graded: %s. Such drafts have "
                "no score in analyses of rounds. Further ones are not logged, but counted in the report; return 0 "
                "for what cannot be read",
                *(len(ungraded), _drafts(row, len(ungraded)), row.id, ungraded[0]),
            )
        for one in row.failed_checks:
            if self._is_first(f"check {one.check}"):
                logger.warning(
                    "the check %r failed on %d of %d drafts of question %s: %s. Such drafts count as unchecked: the "
                    "check neither scores, picks nor stops there. Further ones are not logged, but counted in the "
                    "report; call `program.checks[%r].acheck(inputs, outputs)` on that question to see where it fails",
                    *(one.check, one.drafts, _drafts(row, one.drafts), row.id, one.reason, one.check),
                )

    def _is_first(self, kind: str) -> bool:
        first = kind not in self._logged
        self._logged.add(kind)
        return first


def failures_in_words(rows: Sequence[Row]) -> list[str]:
    """One sentence for failed rows, one for answers without a round that failed, one for each check that failed, and
    one for drafts that the verifier failed on, with counts and the most common reason.

    If they are more than a twentieth, also one for answers of an earlier round because the last had none, and one for
    drafts that ended at their cap before an answer. Empty if nothing failed.
    """
    said = []
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        said.append(f"{len(errors):,} of {len(rows):,} rows failed{_most_often(Counter(errors))}")
    without = [row.failed_rounds[0] for row in rows if row.error is None and row.failed_rounds]
    if without:
        said.append(
            f"{len(without):,} of {len(rows):,} rows are answered without a round that failed, from the rounds before "
            f"it{_most_often(Counter(without))}"
        )
    back = sum(row.stop == FELL_BACK for row in rows)
    if back > CUT * len(rows):
        said.append(
            f"{back:,} of {len(rows):,} rows are answered from an earlier round, since no answer could be read from "
            "the last one"
        )
    by_check: dict[str, Counter[str]] = {}
    for row in rows:
        for one in row.failed_checks:
            by_check.setdefault(one.check, Counter())[one.reason] += one.drafts
    for name, reasons in by_check.items():
        count = reasons.total()
        said.append(
            f"{count:,} draft{'s' * (count != 1)} unchecked, since the check {name!r} failed{_most_often(reasons)}"
        )
    drafts = [draft for row in rows for draft in row.drafts]
    ungraded = [draft.ungraded for draft in drafts if draft.ungraded is not None]
    if ungraded:
        many = "s" * (len(ungraded) != 1)
        said.append(
            f"{len(ungraded):,} draft{many} without a score, since the verifier failed{_most_often(Counter(ungraded))}"
        )
    cut = sum(draft.cut for draft in drafts)
    if cut > CUT * len(drafts):
        said.append(
            f"{cut:,} of {len(drafts):,} drafts ended at their cap before an answer could be read; raise "
            "`draft_tokens` (`refine_tokens` in later rounds)"
        )
    return said


def _most_often(reasons: Counter[str]) -> str:
    (why, count), *others = reasons.most_common()
    return f", {f'{count:,} of them ' if others else ''}with {' '.join(why.split())[:300]}"


def _drafts(row: Row, least: int) -> int:
    """Drafts of a row with an answer, which are those given to a check."""
    return max(least, sum(draft.answer is not None for draft in row.drafts))
