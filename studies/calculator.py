"""What to expect of one pass, a vote and best-of-n, from a few figures: `python -m studies.calculator --help`.

    one pass          how often one draft is right
    any of k          how often one of k drafts is (pass@k), for one k or two: how much questions differ
    agreement         how often two drafts of a question have the same answer
    unread            how many of the wrong drafts have no answer that can be read
    false positives   how often the check passes a wrong draft that can be read
    false negatives   how often it fails a right one

The chance of a right draft is 0 for a share of the questions and Beta-distributed over the others, so that the number
of right ones among n is a zero-inflated beta-binomial; all else is a sum over that number (`expectation.py`).
`--validate` holds it against the rows of the studies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from pdr_dspy.cli.ending import guarded
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.statistics import pass_at_k, score_interval
from pdr_dspy.verifiers import RIGHT
from studies import verification
from studies.expectation import Drafts, beta_binomial, binomial, by_check, by_vote, chosen, over_samples, vote_wins
from studies.study import ROWS


@dataclass(frozen=True)
class Expected:
    """What is known of a model's drafts on a task, and what follows of it."""

    one: float
    """How often one draft is right, a fraction."""
    spread: float = 0.5
    """How alike two drafts of a question are in being right, among the questions that can be solved: the correlation,
    from 0 (such questions are alike) to 1 (always or never right)."""
    never: float = 0.0
    """Share of the questions that no draft solves."""
    agreement: float | None = None
    """How often two drafts of a question have the same answer; None where votes are not asked for."""
    unread: float = 0.0
    """Share of the wrong drafts that have no answer that can be read: they neither vote nor are picked."""
    false_positive: float = 0.0
    """How often the check passes a wrong draft that can be read, a fraction."""
    false_negative: float = 0.0
    """How often it fails a right one."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"`Expected({field.name}={value})` must be a fraction in [0, 1]")
        if self.never > 1 - self.one + 1e-9:
            raise ConfigError(f"`Expected(never={self.never})` leaves too few questions for `one={self.one}`")
        if self.agreement is not None and not self.both - 1e-9 <= self.agreement:
            raise ConfigError(
                f"`Expected(agreement={self.agreement})` is below {self.both:.3f}, how often two drafts are both "
                "right and so agree; measure it on the drafts that gave the other figures"
            )

    @classmethod
    def of(cls, one: float, any_of: Mapping[int, float], **others: float | None) -> Expected:
        """With what makes one of k drafts right this often: `any_of` is pass@k by k, for one k or two.

        One k gives the spread, two the share of questions that no draft solves besides. Where two cannot be met both,
        the larger k is, and the other as closely as can be. Raises ConfigError where no spread gives pass@k, which lies
        between `one` and 1 - (1 - one)^k.
        """
        if not 1 <= len(any_of) <= 2 or min(any_of) < 2:
            raise ConfigError(f"`any_of={dict(any_of)}` must be pass@k for one k or two, each of at least 2")
        k, share = max(any_of.items())
        most = 1 - (1 - one) ** k
        if not one - 1e-9 <= share <= most + 1e-9:
            raise ConfigError(
                f"`any_of={dict(any_of)}` is not possible with `one={one}`: pass@{k} lies between {one:.3f} and "
                f"{most:.3f}"
            )
        never = 0.0
        if len(any_of) == 2:
            first = min(any_of)

            def off(never: float) -> float:
                return cls._spread(one, never, k, share).any(first) - any_of[first]

            most = max(0.0, 1 - share)  # fewer questions cannot be solved than one of k drafts solves
            never = most if off(most) < 0 else _root(off, 0.0, most)
        found = cls._spread(one, never, k, share)
        return cls(one, found.spread, never, **others)  # type: ignore[arg-type]

    @classmethod
    def _spread(cls, one: float, never: float, k: int, share: float) -> Expected:
        return cls(one, _root(lambda spread: share - cls(one, spread, never).any(k), 0.0, 1.0), never)

    @property
    def both(self) -> float:
        """How often two drafts of a question are both right."""
        some = 1 - self.never
        mean = self.one / some if some else 0.0
        return some * (self.spread * mean + (1 - self.spread) * mean**2)

    @property
    def wrong_answers(self) -> float:
        """Over how many answers those wrong drafts that can be read spread evenly, so that drafts agree as often as was
        seen; from 1 up."""
        if self.agreement is None:
            raise ConfigError("`Expected(agreement=None)`: a vote depends on how often two drafts agree; give it")
        both_wrong = (1 - 2 * self.one + self.both) * (1 - self.unread) ** 2
        together = self.agreement - self.both
        return math.inf if together < 1e-9 else max(1.0, both_wrong / together)

    def any(self, n: int) -> float:
        """pass@n: one of n drafts is right."""
        return 1 - self._right(n)[0]

    def vote(self, n: int) -> float:
        """The most common answer of n is right; all right answers are the same one."""
        wrong = self.wrong_answers
        return self._over(n, lambda right, others: vote_wins(right, others, wrong))

    def best(self, n: int) -> float:
        """The pick of the check among n is right."""
        return self._over(n, lambda right, wrong: chosen(right, wrong, self.false_positive, self.false_negative))

    def _over(self, n: int, score: Callable[[int, int], float]) -> float:
        """Mean of a score over how many of n drafts are right, and wrong but read."""
        return sum(
            p * q * score(right, wrong)
            for right, p in enumerate(self._right(n))
            for wrong, q in enumerate(binomial(n - right, 1 - self.unread))
        )

    def _right(self, n: int) -> list[float]:
        """How probable each number of right drafts is."""
        some = 1 - self.never
        if not some:
            return [1.0, *[0.0] * n]
        first, *others = beta_binomial(n, min(1.0, self.one / some), self.spread)
        return [self.never + some * first, *(some * p for p in others)]


def _root(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises crosses 0, held to the ends."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return (low + high) / 2


def table(expected: Expected, sizes: Sequence[int]) -> str:
    """What to expect, as a Markdown table."""
    text = "| n | one of n is right (pass@n) | best of n by the check | vote of n |\n|--:|--:|--:|--:|\n"
    for n in sizes:
        vote = "" if expected.agreement is None else f"{expected.vote(n):.3f}"
        text += f"| {n} | {expected.any(n):.3f} | {expected.best(n):.3f} | {vote} |\n"
    return text


def fitted(questions: Sequence[Drafts], threshold: float) -> Expected:
    """The figures of these questions, each without bias for the number of their drafts.

    Args:
        questions: the drafts of each.
        threshold: from which score on the check passes a draft.
    """
    width = min(len(drafts.scores) for drafts in questions)
    one = fmean(fmean(drafts.scores) for drafts in questions)
    ks = sorted({2, width} - {1})
    any_of = {k: fmean(pass_at_k(len(d.scores), d.counts[0], k) for d in questions) for k in ks}
    any_of = {k: min(share, 1 - (1 - one) ** k) for k, share in any_of.items()}  # few questions can be luckier
    false_positive, false_negative = verification.rates(questions, threshold)
    wrong = sum(d.counts[1] + d.counts[2] for d in questions)
    unread = sum(d.counts[2] for d in questions) / wrong if wrong else 0.0
    bare = Expected.of(one, any_of, unread=unread, false_positive=false_positive, false_negative=false_negative)
    agree = fmean(fmean(_agree(d, i, j) for i in range(len(d.scores)) for j in range(i)) for d in questions)
    return replace(bare, agreement=max(agree, bare.both))


def _agree(drafts: Drafts, i: int, j: int) -> bool:
    both = drafts.scores[i] >= RIGHT and drafts.scores[j] >= RIGHT
    return both or (drafts.answers[i] is not None and drafts.answers[i] == drafts.answers[j])


FOLDS = 6


def validation(study: verification.Study) -> str:
    """Expected against seen, as a Markdown table: figures of five sixths of the questions foretell the others."""
    questions = list(study.questions.values())
    parts = [questions[number::FOLDS] for number in range(FOLDS)]
    kinds = (
        ("pass@n", lambda e, n: e.any(n), lambda d, n: pass_at_k(len(d.scores), sum(s >= RIGHT for s in d.scores), n)),
        ("best of n", lambda e, n: e.best(n), lambda d, n: over_samples(d, n, by_check)),
        ("vote", lambda e, n: e.vote(n), lambda d, n: over_samples(d, n, by_vote)),
    )
    sizes = [n for n in verification.sizes(study) if n > 1]
    models = []
    for held in parts:
        others = [drafts for drafts in questions if drafts not in held]
        models.append(fitted(others, verification.threshold_of(study)))
    text = f"| {study.name} | {' | '.join(f'n = {n}: seen' + ' | expected' for n in sizes)} |\n"
    text += f"|---|{'--:|' * (2 * len(sizes))}\n"
    for name, expect, see in kinds:
        cells = []
        for n in sizes:
            seen = [see(drafts, n) for drafts in questions]
            low, high = score_interval(seen)
            foretold = fmean(expect(model, n) for model, held in zip(models, parts, strict=True) for _ in held)
            cells += [f"{fmean(seen):.3f} [{low:.2f}, {high:.2f}]", f"{foretold:.3f}"]
        text += f"| {name} | {' | '.join(cells)} |\n"
    return text


HEAD = """# The calculator against the studies

Each sixth of the questions is foretold from the figures of the other five: how often a draft is right, pass@2 and
pass@8, how often two drafts agree, how many cannot be read, and the check's two rates. Seen: over all choices of n of
the stored drafts, with 95 % intervals over questions. [What the calculator does](../guides/calculator.md).
Repeat: `python -m studies.calculator --validate`; no model is asked.
"""


def page(studies: Sequence[verification.Study]) -> str:
    """The page that holds the calculator against every study with a check."""
    return HEAD + "".join(f"\n{validation(study)}" for study in studies)


def write(rows: Path, out: Path) -> Path | None:
    """Write the page; None where no study has a check."""
    studies = verification.studies_of(rows)
    if not studies:
        return None
    path = out / "calculator.md"
    path.write_text(page(studies), encoding="utf-8")
    return path


@guarded
def main(
    one: Annotated[float | None, typer.Option(min=0, max=1, help="How often one draft is right, a fraction.")] = None,
    any_of: Annotated[
        list[str] | None, typer.Option("--any", help="pass@k as K:SHARE, such as 8:0.56; give one k or two.")
    ] = None,
    agreement: Annotated[float | None, typer.Option(help="How often two drafts of a question agree.")] = None,
    unread: Annotated[float, typer.Option(help="Share of wrong drafts whose answer cannot be read.")] = 0.0,
    false_positive: Annotated[float, typer.Option(help="How often the check passes a wrong draft.")] = 0.0,
    false_negative: Annotated[float, typer.Option(help="How often the check fails a right draft.")] = 0.0,
    n: Annotated[list[int] | None, typer.Option(min=1, help="Drafts; can be repeated.")] = None,
    validate: Annotated[bool, typer.Option("--validate", help="Hold it against the studies' rows instead.")] = False,
) -> None:
    """What one pass, a vote and best-of-n are expected to score."""
    if validate:
        print(write(ROWS, verification.OUT))
        return
    if one is None or not any_of:
        raise ConfigError("give `--one` and `--any`, how often one draft and one of k drafts is right")
    shares = dict(map(_share, any_of))
    if len(shares) < len(any_of):
        raise ConfigError(f"`--any {' --any '.join(any_of)}` gives one k twice")
    expected = Expected.of(
        one,
        shares,
        agreement=agreement,
        unread=unread,
        false_positive=false_positive,
        false_negative=false_negative,
    )
    print(f"{expected.never:.0%} of the questions are never solved; two drafts of another go together by ", end="")
    print(f"{expected.spread:.2f}\n\n{table(expected, n or [1, 2, 4, 8, 16])}", end="")


def _share(text: str) -> tuple[int, float]:
    k, _, share = text.partition(":")
    try:
        return int(k), float(share)
    except ValueError:
        raise ConfigError(f"`--any {text}` must be K:SHARE, such as 8:0.56") from None


if __name__ == "__main__":
    typer.run(main)
