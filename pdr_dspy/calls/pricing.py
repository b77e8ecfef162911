"""What a model's tokens cost, and models by name: what a schedule means by `draft_model="small"`.

A price is in any unit that all models of a program share: dollars, or floating-point operations. Unknown is None and
never 0: a ledger with a call whose price is not known has no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import dspy

from pdr_dspy.errors import ConfigError


class Price(NamedTuple):
    """Of one token, in a unit of the user's."""

    input: float
    """Of a token of a prompt."""
    output: float
    """Of a generated token."""


@dataclass(frozen=True)
class Priced:
    """A model and what its tokens cost.

    >>> models = {"small": Priced(small, input=0.1e-6, output=0.4e-6), "large": Priced(large, input=2e-6, output=8e-6)}

    Raises ConfigError for a price that is no number of at least 0; a model that costs nothing has the price 0, and one
    whose price is not known is given without `Priced`.
    """

    lm: dspy.LM
    input: float
    """Of a token of a prompt."""
    output: float
    """Of a generated token."""

    def __post_init__(self) -> None:
        if not isinstance(self.lm, dspy.BaseLM):
            raise ConfigError(f"`Priced(lm={self.lm!r})` must be a dspy.LM")
        for name in Price._fields:
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ConfigError(
                    f"`Priced({name}={value!r})` must be the price of one token, at least 0; leave `Priced` out for a "
                    "model whose price is not known"
                )

    @classmethod
    def by_size(cls, lm: dspy.LM, parameters: float) -> Self:
        """Priced in floating-point operations: 2 for each parameter and token, read or written (Kaplan et al. 2020,
        arXiv 2001.08361, table 1), which leaves out attention over long prompts.

        Args:
            lm: the model.
            parameters: how many it has, those that are active for a token.
        """
        return cls(lm, input=2.0 * parameters, output=2.0 * parameters)

    @property
    def price(self) -> Price:
        """Of its tokens."""
        return Price(self.input, self.output)


class Models(Mapping[str, dspy.LM]):
    """Models by name, which a schedule chooses by. Copies of a program share them.

    Raises ConfigError for what is no mapping of names to models, each a `dspy.LM` or `Priced`, and for one LM object
    that is given at two prices.
    """

    def __init__(self, given: Mapping[str, dspy.LM | Priced] | None = None, *, called: str = "models") -> None:
        """
        Args:
            given: models, or models with their prices, by name.
            called: the argument that they were given in.
        """
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f'`{called}={given!r}` must map names to models: {{"small": lm, "large": lm}}')
        self._lms: dict[str, dspy.LM] = {}
        self._prices: dict[str, Price | None] = {}
        for name, value in (given or {}).items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"`{called}={{{name!r}: ...}}`: the name of a model must be a text")
            lm: Any = value.lm if isinstance(value, Priced) else value
            if not isinstance(lm, dspy.BaseLM):
                raise ConfigError(f"`{called}={{{name!r}: {value!r}}}` must be a dspy.LM, or `Priced(lm, ...)`")
            self._lms[name] = lm  # type: ignore[assignment]
            price = value.price if isinstance(value, Priced) else None
            self._prices[name] = given.price(name) if isinstance(given, Models) else price
        self._check_prices(called)

    def __getitem__(self, name: str) -> dspy.LM:
        return self._lms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lms)

    def __len__(self) -> int:
        return len(self._lms)

    def __deepcopy__(self, memo: Any) -> Models:
        return self

    def __or__(self, other: Mapping[str, dspy.LM | Priced]) -> Models:
        more, both = Models(other), Models(self)
        both._lms.update(more._lms)
        both._prices.update(more._prices)
        both._check_prices("models")
        return both

    def _check_prices(self, called: str) -> None:
        """A call is priced by the LM that made it, which so has one price."""
        first: dict[int, str] = {}
        for name, lm in self._lms.items():
            price = self._prices[name]
            if price is None:
                continue
            other = first.setdefault(id(lm), name)
            if self._prices[other] != price:
                raise ConfigError(
                    f"`{called}={{{other!r}: ..., {name!r}: ...}}` are one LM at two prices, {self._prices[other]} and "
                    f"{price}; give it one, or a copy of it (`lm.copy()`) where they are two deployments"
                )

    def price(self, name: str) -> Price | None:
        """Of the tokens of a model; None where it is not known."""
        return self._prices[name]

    @property
    def prices(self) -> dict[int | str, Price]:
        """Those that are known, by the identity of the LM object, and by `lm.model` where all of that name have the
        same: of a program that was copied, the LMs may have been."""
        prices: dict[int | str, Price] = {}
        by_name: dict[str, set[Price | None]] = {}
        for name, lm in self._lms.items():
            price = self._prices[name]
            by_name.setdefault(str(lm.model), set()).add(price)
            if price is not None:
                prices[id(lm)] = price
        return prices | {
            name: price for name, found in by_name.items() if len(found) == 1 and (price := next(iter(found)))
        }

    @property
    def unpriced(self) -> list[str]:
        """Names of models without a known price."""
        return [name for name, price in self._prices.items() if price is None]
