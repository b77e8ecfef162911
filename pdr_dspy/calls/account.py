"""What several programs may spend together: an operator inside a larger module is not told of a budget by its call."""

from __future__ import annotations

import threading
from typing import Any

from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.ledger import Ledger


class Account:
    """Of all runs inside a `session(account=...)`. Each stage is reserved before it is sent, those of runs side by side
    too. Sequential tokens are those of all runs, one after the other: the most that the path can have."""

    def __init__(self, budget: Budget | None = None) -> None:
        """`budget`: of all runs together."""
        self.budget = budget or Budget()
        self.runs: list[Share] = []
        """In the order in which they began."""
        self.lock = threading.Lock()

    def open(self) -> Share:
        """A place for a run that begins."""
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
        """B_seq, were all runs made one after the other."""
        return sum(run.ledger.sequential for run in self.runs)


class Share:
    """One run's part of an account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.ledger = Ledger()
        self.result: Any = None
        """What the run came to; None while it runs, and where it failed."""
        self.reserved = (0, 0)
        """Sequential and total tokens of what has been spent and of the stage under way, at most."""

    def allows(self, spent: Ledger, *, sequential: int, total: int) -> bool:
        """Reserve a stage of at most so many tokens on top of what this run has `spent`, where the account reaches."""
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
        """The run has ended: what it really spent stays on the account."""
        with self.account.lock:
            self.ledger, self.result = ledger, result
            self.reserved = (ledger.sequential, ledger.total)
