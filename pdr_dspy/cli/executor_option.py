"""`--ray auto|local|HOST:PORT`: runs rows on the machines of a Ray cluster instead of in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pdr_dspy.cli.model_option import Model
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.executors import Executor, RayExecutor


def check_reachable(model: Model, ray: str | None) -> None:
    """Raise ConfigError for a model that only this process can reach."""
    if ray is not None and not model.servers:
        raise ConfigError(
            f"`--ray {ray}` needs a server that all machines of the cluster can reach: add `--api-base`. A model "
            "started here serves this machine alone"
        )


@contextmanager
def executor_of(ray: str | None) -> Iterator[Executor | None]:
    """Inside, the executor of rows; None is this process.

    Raises MissingExtra or ExecutorError, each in one sentence, if there is no cluster.
    """
    if ray is None:
        yield None
        return
    with RayExecutor(ray) as executor:
        yield executor
