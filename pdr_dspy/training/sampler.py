"""The order of questions: every generation batch holds exactly the configured share of operator prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from pdr_dspy.errors import ConfigError
from pdr_dspy.training.trl_config import operators_of


class ModeSampler(Sampler[int]):
    """Indices of data set rows, batch by batch.

    Each generation batch holds `groups` different rows, a share of them operator prompts, spread evenly over the batch
    so that each process gets its part as nearly as whole numbers allow. Every index is repeated `rows` times in a row
    (a group), and every batch `repeats` times. An epoch ends when the rows of a mode no longer fill its part of a
    batch; the remaining rows appear in other epochs, which are shuffled again.

    Args:
        modes: the mode of each row of the data set, "trace" or "operator".
        groups: prompts of a generation batch, over all processes.
        rows: completions of a group.
        share: operator prompts over all prompts, from 0 to 1.
        repeats: how often a batch is yielded: once for every micro-step that reads it.
        shuffle: whether to shuffle each epoch.
        seed: determines the order together with the epoch, equally in every process.

    Raises:
        ConfigError: the share is not a whole number of groups, or a mode has fewer rows than one batch needs.
    """

    def __init__(
        self,
        modes: Sequence[str],
        *,
        groups: int,
        rows: int,
        share: float,
        repeats: int = 1,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self._of = {mode: [i for i, given in enumerate(modes) if given == mode] for mode in ("trace", "operator")}
        operators = operators_of(groups, share)
        self._places = ["operator" if operator else "trace" for operator in dealt(groups, operators)]
        wanted = {"trace": groups - operators, "operator": operators}
        for mode, count in wanted.items():
            if count > len(self._of[mode]):
                raise ConfigError(
                    f"a generation batch needs {count} different {mode} prompts, the data set has "
                    f"{len(self._of[mode])}: give more questions, or a smaller batch"
                )
        self._batches = min(len(self._of[mode]) // count for mode, count in wanted.items() if count)
        self._rows, self._repeats, self._shuffle, self._seed, self._epoch = rows, repeats, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Select the next epoch; accelerate calls it, also when a run resumes."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        left = {mode: iter(self._order(mode)) for mode in self._of}
        for _ in range(self._batches):
            batch = [next(left[mode]) for mode in self._places]
            for _ in range(self._repeats):
                for index in batch:
                    yield from [index] * self._rows

    def __len__(self) -> int:
        return self._batches * self._repeats * len(self._places) * self._rows

    def _order(self, mode: str) -> list[int]:
        order = list(self._of[mode])
        if self._shuffle:
            random.Random(f"{self._seed}|{self._epoch}|{mode}").shuffle(order)
        return order


def dealt(places: int, chosen: int) -> list[bool]:
    """`chosen` of `places`, spread as evenly as whole numbers allow: any n places in a row hold n * chosen / places of
    them, rounded up or down."""
    return [(place + 1) * chosen // places > place * chosen // places for place in range(places)]
