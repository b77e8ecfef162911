"""A joint budget of several programs: an operator inside a larger module does not receive a budget with its call."""

from __future__ import annotations

import threading
from typing import Any

from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Ledger


class Account:
    """The account of all runs inside a `session(account=...)`. Each stage is reserved before it is sent, also those of
    concurrent runs. Sequential tokens are summed over all runs: an upper bound of the path."""

    def __init__(self, budget: Budget | None = None) -> None:
        """`budget`: for all runs together."""
        self.budget = budget or Budget()
        self.runs: list[Share] = []
        """All runs, in the order in which they began."""
        self.lock = threading.Lock()

    def open(self) -> Share:
        """Add a run that begins."""
        share = Share(self)
        with self.lock:
            self.runs.append(share)
        return share

    @property
    def ledger(self) -> Ledger:
        """The calls of all runs that have ended."""
        return Ledger(calls=tuple(call for run in self.runs for call in run.ledger.calls))

    @property
    def sequential(self) -> int:
        """B_seq as if all runs were made one after the other."""
        return sum(run.ledger.sequential for run in self.runs)


class Share:
    """One run's part of an account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.ledger = Ledger()
        self.result: Any = None
        """The result of the run; None while it runs, and if it failed."""
        self.reserved = (0, 0)
        """Maximum sequential and total tokens, including the current stage."""

    def allows(self, spent: Ledger, *, sequential: int, total: int) -> bool:
        """Reserve a stage of at most this size on top of the tokens that this run has `spent`, if the account allows
        it."""
        account = self.account
        with account.lock:
            others = [run.reserved for run in account.runs if run is not self]
            fits = account.budget.allows(
                spent,
                sequential=sequential + sum(each for each, _ in others),
                total=total + sum(each for _, each in others),
            )
            if fits:
                self.reserved = (spent.sequential + sequential, spent.total + total)
            return fits

    def close(self, ledger: Ledger, result: Any = None) -> None:
        """End the run: the tokens actually spent stay on the account."""
        with self.account.lock:
            self.ledger, self.result = ledger, result
            self.reserved = (ledger.sequential, ledger.total)
