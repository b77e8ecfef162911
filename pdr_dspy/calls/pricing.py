"""Prices of models' tokens, and models by name, as used in `draft_model="small"` of a schedule.

A price is in any unit that all models of a program share: dollars, or floating-point operations. Unknown is None and
never 0: a ledger with a call of unknown price has no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import dspy

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.settings import is_number


class Price(NamedTuple):
    """Prices per token, in the user's unit."""

    input: float
    """Price of a prompt token."""
    output: float
    """Price of a generated token."""


@explained
@dataclass(frozen=True)
class Priced:
    """A model with its prices per token.

    >>> models = {"small": Priced(small, input=0.1e-6, output=0.4e-6), "large": Priced(large, input=2e-6, output=8e-6)}

    Raises ConfigError for a price that is not a number of at least 0; a model without cost has the price 0, and one of
    unknown price is given without `Priced`.
    """

    lm: dspy.LM
    input: float
    """Price of a prompt token."""
    output: float
    """Price of a generated token."""

    def __post_init__(self) -> None:
        if not isinstance(self.lm, dspy.BaseLM):
            raise ConfigError(f"`Priced(lm={self.lm!r})` must be a dspy.LM")
        for name in Price._fields:
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value) or value < 0:
                raise ConfigError(
                    f"`Priced({name}={value!r})` must be the price of one token, at least 0; leave `Priced` out for a "
                    "model of unknown price"
                )

    @classmethod
    def by_size(cls, lm: dspy.LM, parameters: float) -> Self:
        """Priced in floating-point operations: 2 for each parameter and token, read or written (Kaplan et al. 2020,
        arXiv 2001.08361, table 1), without attention over long prompts.

        Args:
            lm: the model.
            parameters: the number of parameters that are active for a token.
        """
        return cls(lm, input=2.0 * parameters, output=2.0 * parameters)

    @property
    def price(self) -> Price:
        """Its prices."""
        return Price(self.input, self.output)


class Models(Mapping[str, dspy.LM]):
    """Models by name, for schedules. Copies of a program share them.

    Raises ConfigError unless it is a mapping of names to models, each a `dspy.LM` or `Priced`, and no LM object has two
    prices.
    """

    def __init__(self, given: Mapping[str, dspy.LM | Priced] | None = None, *, called: str = "models") -> None:
        """
        Args:
            given: models, or models with their prices, by name.
            called: the name of the argument, for error messages.
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
        """The prices of a model's tokens; None if they are unknown."""
        return self._prices[name]

    @property
    def prices(self) -> dict[int | str, Price]:
        """The known prices, by the `id` of the LM object, and by `lm.model` if all models of that name have the same:
        the LMs of a copied program may be copies too."""
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
