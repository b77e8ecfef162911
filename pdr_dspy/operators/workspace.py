"""The state between rounds: drafts go in, a workspace of at most kappa tokens comes out.

Only solutions are passed on: thinking never enters a workspace, and a workspace is built anew each round, never
appended to (arXiv 2510.01123, section 3). `fit` is the only place that enforces |C| <= kappa.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.statements import How

Count = Callable[[Sequence[str]], Awaitable[list[int]]]
"""Tokens of each text, as the serving model counts them."""

RESULT = "Check result:"
"""Begins the line of a solution's check in a workspace; a solution that contains it is quoted."""
CUT = "[...] "
"""Marks the omitted beginning of a solution."""


class Checked(BaseModel):
    """The result of a check for a draft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None = None
    """In [0, 1]; None if the check itself failed."""
    detail: str = ""
    """A short reason, for people."""
    feedback: str = ""
    """The text shown to the next draft."""
    failure: str | None = None
    """Why there is no value, in one sentence."""

    def reaches(self, threshold: float) -> bool:
        """Whether the value is at least this; False without a value."""
        return self.value is not None and self.value >= threshold


class Draft(BaseModel):
    """One draft of a round with its outcome."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    index: int
    solution: str = ""
    """The whole text after any thought; what later rounds may read."""
    outputs: dict[str, Any] = {}
    """The task's output fields that could be read, each of its declared type; unreadable ones are absent."""
    how: dict[str, How] = {}
    """How each of them was found; see `pdr_dspy.text.statements.How`."""
    unclear: dict[str, str] = {}
    """For fields that were stated but unreadable: the beginning of the statement."""
    broken: dict[str, str] = {}
    """Output fields that were read but break a limit, such as `le=10`, with that limit. They are not in `outputs`."""
    truncated: bool = False
    """Whether the cap truncated it. Its text is usable as a hint, its last number is not an answer."""
    failure: str | None = None
    """Why there is no text; such a draft is counted, and enters no workspace."""
    check: Checked | None = None
    """The result of the program's check; None without a check, or without an answer to check."""

    @property
    def score(self) -> float | None:
        """The value of its check in [0, 1]; None if it was not checked, or the check failed."""
        return None if self.check is None else self.check.value

    @property
    def result(self) -> str:
        """The check's result as shown to later rounds; empty if there is nothing to show."""
        if self.check is None or self.check.value is None:
            return ""
        feedback = f": {self.check.feedback}" if self.check.feedback else ""
        return f"{RESULT} {self.check.value:.2f} of 1{feedback}"

    @property
    def ok(self) -> bool:
        """Whether it has text."""
        return self.failure is None

    def complete(self, fields: Iterable[str]) -> bool:
        """Whether all of these output fields could be read."""
        return all(name in self.outputs for name in fields)

    def passes(self, threshold: float | None) -> bool:
        """Whether its check reaches a threshold; False without a check or a threshold."""
        return self.check is not None and threshold is not None and self.check.reaches(threshold)


class Workspace(BaseModel):
    """The text that the next round reads besides the task, and its origin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    tokens: int = 0
    """Tokens of `text`, as the serving model counts them (or an estimate, see `Ledger.exact`)."""
    sources: tuple[int, ...] = ()
    """Indices of the drafts that it was made from, in the order in which they were shown."""
    cut: bool = False
    """Whether text had to be left out because of kappa."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read: the next draft then starts without a workspace."""
        return not self.text


class Carried(NamedTuple):
    """All that a round passes on to the next: C(r) of the paper."""

    workspaces: tuple[Workspace, ...] = ()
    """The workspace of each draft of the next round; none before the first round."""
    flaws: str = ""
    """The flaws that a critique found in the workspace (`Schedule.critique`); empty if none."""


def candidates(drafts: Sequence[Draft], headings: Sequence[str] = ()) -> list[str]:
    """The blocks in which drafts are shown to a distiller or a refiner, numbered from 1: each has a solution, and the
    result of its check. See `sheltered` for `headings`."""
    return [
        f"Candidate {number}{' (unfinished)' if draft.truncated else ''}:\n{shown(draft, headings, among=True)}"
        for number, draft in enumerate(drafts, start=1)
    ]


def shown(draft: Draft, headings: Sequence[str] = (), *, among: bool = False) -> str:
    """A draft as later rounds read it: its solution, and below it the result of its check."""
    solution = sheltered(draft.solution.strip() if among else draft.solution, headings, among=among)
    return f"{solution}\n{sheltered_result(draft, headings)}" if draft.result else solution


def sheltered_result(draft: Draft, headings: Sequence[str]) -> str:
    """The result of a draft's check on separate lines, the feedback quoted: it may contain a program's output."""
    first, *more = draft.result.splitlines()
    return "\n".join([first, *(f"  {line}" for line in sheltered("\n".join(more), headings, among=True).splitlines())])


async def fit(
    blocks: Sequence[str], kappa: int, count: Count, *, keep: Literal["start", "end"]
) -> tuple[str, int, bool]:
    """Join `blocks` into one text of at most `kappa` tokens.

    Short blocks stay complete; the remaining tokens are shared evenly among the long ones, which are cut at a line or a
    sentence: `keep="end"` keeps the end of a solution, where its answer is; `keep="start"` the beginning of a summary.
    If a block would be cut to nothing, the last blocks are left out completely.

    Returns the text, its tokens, and whether anything was left out.
    """
    kept = [block for block in blocks if block.strip()]
    text = "\n\n".join(kept)
    if not text:
        return "", 0, bool(blocks)
    (tokens,) = await count([text])
    if tokens <= kappa:
        return text, tokens, len(kept) < len(blocks)
    level = float(_level(await count(kept), kappa))
    while kept:
        sizes = await count(kept)
        shorter = [
            block if size <= level else _cut(block, len(block) * level / size, keep)
            for block, size in zip(kept, sizes, strict=True)
        ]
        text = "\n\n".join(block for block in shorter if block)
        (tokens,) = await count([text])
        if text and tokens <= kappa:
            return text, tokens, True
        level *= min(0.9, kappa / max(tokens, 1))
        if level < 4:
            kept.pop()
            level = _level(await count(kept), kappa) if kept else 0
    return "", 0, True


def _level(sizes: Sequence[int], kappa: int) -> int:
    """The size above which blocks must be cut so that all fit: water filling, smallest first."""
    left = kappa - 2 * len(sizes)  # the blank lines between blocks
    for position, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - position)
        if size > share:
            return max(share, 1)
        left -= size
    return max(left, 1)


_HEADING = re.compile(r"Candidate \d+(?: \(unfinished\))?:\n")


def _cut(block: str, characters: float, keep: Literal["start", "end"]) -> str:
    room = int(characters)
    # Only a candidate's own heading stays; the first line of a bare solution may be cut.
    heading, newline, body = block.partition("\n") if keep == "end" and _HEADING.match(block) else ("", "", block)
    room -= len(heading) + len(newline) + len(CUT)
    if room < 8:
        return ""
    if keep == "start":
        return _until_boundary(body[:room])
    return f"{heading}{newline}{CUT}{_from_boundary(body[-room:])}"


def _from_boundary(text: str) -> str:
    """Drop the broken line or sentence at the start, unless that would drop most of it."""
    match = re.search(r"\n|(?<=[.!?;]) ", text[: len(text) // 2])
    return text[match.end() :].lstrip() if match else text.lstrip()


def _until_boundary(text: str) -> str:
    half = len(text) // 2
    ends = [match.end() for match in re.finditer(r"\n|(?<=[.!?;])(?= )", text[half:])]
    return text[: half + ends[-1]].rstrip() if ends else text.rstrip()
