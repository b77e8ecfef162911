"""The trials of a search as an Optuna study, for people and tools that look at one: `optuna-dashboard`, its plots.

The study follows the search, it does not lead it: what a search is and where it stands is on its board, and its calls
are in the rollout store. A study that is lost or torn is written again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdr_dspy import postgres
from pdr_dspy.errors import StoreError
from pdr_dspy.search.objective import TrialRecord
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.space import Space

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"


def mirror(
    storage: str | Path,
    name: str,
    records: Sequence[TrialRecord],
    *,
    space: Space,
    limits: Limits,
    costs: Sequence[str] = (),
) -> None:
    """Add to the study the trials that it does not have yet.

    Args:
        storage: a folder, in which it is the journal `study.journal`, or a database URL.
        name: the study's.
        records: all finished trials of the search.
        space: what they are points of; others keep their schedule as attributes only.
        limits: on mean tokens; written as constraints.
        costs: "sequential" and "total", if they are objectives beside the score.

    Raises StoreError when the storage cannot be used or its study is of another search.
    """
    import optuna

    with _quiet():
        try:
            backend = _journal(Path(storage)) if not postgres.is_url(storage) else _database(str(storage))
            study = optuna.create_study(
                study_name=name,
                storage=backend,
                directions=["maximize", *(["minimize"] * len(costs))],  # type: ignore[arg-type]
                load_if_exists=True,
            )
            there = {
                trial.user_attrs.get("number")
                for trial in study.get_trials(deepcopy=False)
                if trial.state.is_finished()
            }
            for record in records:
                if record.number not in there:
                    _add(study, record, space, limits, costs)
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AssertionError, optuna.exceptions.OptunaError) as error:
            raise StoreError(f"the study in {postgres.shown(str(storage))} cannot be written: {error}") from error


def _add(study: optuna.Study, record: TrialRecord, space: Space, limits: Limits, costs: Sequence[str]) -> None:
    import optuna

    params = space.params_of(record.candidate)
    study.enqueue_trial(params or {})
    trial = study.ask()
    if params is not None:
        space.suggest(trial)
    facts = json.loads(record.model_dump_json())  # nan becomes null
    shown = {"number": record.number, "program": str(record.candidate), "origin": record.origin, "runs": record.runs}
    for key, value in {**shown, "dropped": record.dropped, "paid": record.paid, "saved": record.saved}.items():
        trial.set_user_attr(key, value)
    trial.set_user_attr("record", facts)
    for limit, excess in limits.excess(record.sequential, record.total).items():
        trial.set_constraint(limit, excess)
    if record.state == "dropped":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, [record.pooled, *(getattr(record, cost) for cost in costs)])


def _journal(folder: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOURNAL
    _repair(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> optuna.storages.BaseStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(postgres.sqlalchemy_url(url))


def _repair(path: Path) -> None:
    """Drop a torn last line and the lock that a killed process left."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        path.write_bytes(data)
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry: Any = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise StoreError(f"{path}, line {number}, is not of a study; use another `run_dir`, or remove the file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own line for each trial says less than ours; its warnings stay."""
    library = logging.getLogger("optuna")
    level = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(level)
