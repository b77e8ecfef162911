"""What all tests share: their profile of hypothesis, a scripted model, a real PostgreSQL, and what is not collected."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pdr_dspy.testing import ScriptedLM
from tests.support.postgres_server import PostgresServer, programs
from tests.support.solver import engine

settings.register_profile("tests", deadline=None, derandomize=True)  # the same examples in every run
settings.load_profile("tests")

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network for prices

SLOW_FILE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a file that is slow as a whole before it is imported: torch and TRL alone take 15 s to import."""
    if "not slow" not in str(config.getoption("markexpr")) or collection_path.suffix != ".py":
        return None
    return True if SLOW_FILE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_finish() -> None:
    """Leave modules and tests out of garbage collections: they live as long as the process."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def lm() -> ScriptedLM:
    return engine()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server. Mark its tests `xdist_group("postgres")`, so that they share one."""
    with _postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A real server to stop and start."""
    with _postgres() as server:
        yield server


def _postgres() -> PostgresServer:
    if programs() is None:
        missing = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return PostgresServer()
