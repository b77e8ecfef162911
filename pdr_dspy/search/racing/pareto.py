"""Pareto fronts: pure functions over scores and costs of programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar


class Costed(Protocol):
    """An object with a score and its mean costs in tokens."""

    @property
    def score(self) -> float: ...
    @property
    def sequential(self) -> float: ...
    @property
    def total(self) -> float: ...


class Limits(NamedTuple):
    """Limits on the mean cost of a run, in tokens and in the unit of the models' prices; None is no limit."""

    sequential: int | None = None
    """Input and output tokens along the accepted path (B_seq)."""
    total: int | None = None
    """Input and output tokens of every call."""
    cost: float | None = None
    """The cost of every call, in the unit of the models' prices."""

    def excess(self, sequential: float, total: float, cost: float | None = None) -> dict[str, float]:
        """For each limit that is set, the excess of the cost as a fraction of the limit; at most 0 within it. An
        unknown cost has an infinite excess."""
        costs = {"sequential": sequential, "total": total, "cost": math.inf if cost is None else cost}
        return {
            name: costs[name] / limit - 1 for name, limit in zip(self._fields, self, strict=True) if limit is not None
        }

    def allow(self, item: Costed) -> bool:
        """Whether a program is within all limits. A cost in the unit of the prices is read from `cost`."""
        cost = getattr(item, "cost", None)
        return all(value <= 0 for value in self.excess(item.sequential, item.total, cost).values())


T = TypeVar("T", bound=Costed)

COSTS = ("sequential", "total")


def dominates(first: Costed, second: Costed, costs: Sequence[str] = COSTS) -> bool:
    """Whether the first is at least as good as the second in the score and all costs, and better in one of them."""
    if first.score < second.score or any(getattr(first, cost) > getattr(second, cost) for cost in costs):
        return False
    return first.score > second.score or any(getattr(first, cost) < getattr(second, cost) for cost in costs)


def front(items: Iterable[T], costs: Sequence[str] = COSTS) -> list[T]:
    """The items that no other dominates, the cheapest first; of equal items the first."""
    pool = list(items)
    kept: list[T] = []
    seen: set[tuple[float, ...]] = set()
    for item in pool:
        place = (item.score, *(getattr(item, cost) for cost in costs))
        if place not in seen and not any(dominates(other, item, costs) for other in pool):
            seen.add(place)
            kept.append(item)
    return sorted(kept, key=lambda item: (*(getattr(item, cost) for cost in reversed(costs)), -item.score))


def best(items: Iterable[T], limits: Limits = Limits()) -> T | None:  # noqa: B008  (a frozen value)
    """The highest score within the limits; of equal ones the cheaper, then the first. None when none is within."""
    allowed = [item for item in items if limits.allow(item)]
    return min(allowed, key=lambda item: (-item.score, item.total, item.sequential)) if allowed else None
