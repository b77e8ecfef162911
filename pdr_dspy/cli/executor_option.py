"""`--ray auto|local|HOST:PORT`: the machines of a Ray cluster, which run what this process would run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pdr_dspy.cli.model_option import Model
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.executors import Executor, RayExecutor


def check_reachable(model: Model, ray: str | None) -> None:
    """Raise ConfigError for a model that is there for this process alone."""
    if ray is not None and not model.servers:
        raise ConfigError(
            f"`--ray {ray}` needs a server that all machines of the cluster reach: add `--api-base`. A model that is "
            "started here serves this machine alone"
        )


@contextmanager
def executor_of(ray: str | None) -> Iterator[Executor | None]:
    """Where rows are run inside; None is this process.

    Raises MissingExtra or ExecutorError, each in one sentence, where there is no cluster.
    """
    if ray is None:
        yield None
        return
    with RayExecutor(ray) as executor:
        yield executor
