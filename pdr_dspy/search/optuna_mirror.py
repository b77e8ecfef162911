"""The trials of a search as an Optuna study, for people and tools such as `optuna-dashboard` and its plots.

The study is a copy: the search's state is in its journal, and its calls are in the rollout store. A lost or damaged
study is written again.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import StoreError
from pdr_dspy.runtime import postgres
from pdr_dspy.search.dashboard import describe, keep_record
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.records import TrialRecord
from pdr_dspy.search.space.spaces import AnySpace

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger("pdr_dspy.search")
JOURNAL = "study.journal"
SEARCH = "search"
"""The study's attribute that identifies its search."""
BEGINNING = b'{"op_code"'
"""Beginning of a journal's first line; it distinguishes a torn journal from another file."""


def mirror(
    storage: str | Path,
    name: str,
    records: Sequence[TrialRecord],
    *,
    search: str,
    space: AnySpace,
    limits: Limits,
    costs: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> None:
    """Add the missing trials to the study.

    Args:
        storage: a folder, for the journal `study.journal`, or a database URL.
        name: of the study.
        records: all finished trials of the search.
        search: identifies the search; the study of another one is refused.
        space: the search's space; trials outside of it keep their schedule as attributes only.
        limits: on mean tokens; written as constraints.
        costs: "sequential" and "total", if they are objectives besides the score.
        files: of the whole search, which the study keeps as artifacts if `storage` is a folder.

    Raises StoreError if the storage cannot be used or its study belongs to another search.
    """
    with opened(storage, name, search=search, costs=costs) as study:
        there = {
            trial.user_attrs.get("number") for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
        }
        new = [record for record in records if record.number not in there]
        folder = None if postgres.is_url(storage) else Path(storage)
        added = {record.number: _add(study, record, space, limits, costs, folder) for record in new}
        describe(study, records, added, folder=folder, files=files)


@contextmanager
def opened(storage: str | Path, name: str, *, search: str, costs: Sequence[str] = ()) -> Iterator[optuna.Study]:
    """The study of a search, created if there is none. Arguments and errors as for `mirror`."""
    import optuna

    with _quiet(), ExitStack() as stack:
        try:
            backend = _journal(Path(storage)) if not postgres.is_url(storage) else _database(str(storage), stack)
            study = optuna.create_study(
                study_name=name,
                storage=backend,
                directions=["maximize", *(["minimize"] * len(costs))],  # type: ignore[arg-type]
                load_if_exists=True,
            )
            shown = f"the study {name!r} in {postgres.shown(str(storage))}"
            if len(study.directions) != 1 + len(costs):
                raise StoreError(
                    f"{shown} has {len(study.directions)} objectives, this search has {1 + len(costs)}; use another "
                    "`study`"
                )
            if study.user_attrs.get(SEARCH, search) != search:
                raise StoreError(f"{shown} is of another search; use another `study`")
            if SEARCH not in study.user_attrs:
                study.set_user_attr(SEARCH, search)
            yield study
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AssertionError, optuna.exceptions.OptunaError) as error:
            raise StoreError(f"the study in {postgres.shown(str(storage))} cannot be written: {error}") from error


def _add(
    study: optuna.Study,
    record: TrialRecord,
    space: AnySpace,
    limits: Limits,
    costs: Sequence[str],
    folder: Path | None,
) -> optuna.Trial:
    import optuna

    params = space.params_of(record.candidate)
    study.enqueue_trial(params or {})
    trial = study.ask()
    if params is not None:
        space.suggest(trial)
    shown = {"number": record.number, "program": str(record.candidate), "origin": record.origin, "runs": record.runs}
    for key, value in {**shown, "dropped": record.dropped, "paid": record.paid, "saved": record.saved}.items():
        trial.set_user_attr(key, value)
    for limit, excess in limits.excess(record.sequential, record.total, record.cost).items():
        trial.set_constraint(limit, excess)
    if folder is not None:
        keep_record(trial, record, folder)
    else:  # a line that is wider than any screen, where there is no folder for files
        trial.set_user_attr("record", json.loads(record.model_dump_json()))  # nan becomes null
    if record.state == "dropped":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, [record.pooled, *(getattr(record, cost) for cost in costs)])
    return trial


def _journal(folder: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOURNAL
    _repair(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str, stack: ExitStack) -> optuna.storages.BaseStorage:
    """The storage of a database; its connections are closed with the stack."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        storage = RDBStorage(postgres.sqlalchemy_url(url))
    except SQLAlchemyError as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreError(f"the study in {postgres.shown(url)} cannot be written: {why}") from error
    stack.callback(storage.engine.dispose)
    stack.callback(storage.remove_session)
    return storage


def _repair(path: Path) -> None:
    """Drop a torn last line and the lock of a killed process; move a damaged study aside, to be written again."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    ours = [_is_entry(line) for line in data[:whole].splitlines()]
    if not all(ours):
        if not any(ours):
            raise _foreign(path, 1 + ours.index(False))
        aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        logger.warning(
            "%s, line %d, is damaged; the study is written again, the old one is %s",
            *(path, 1 + ours.index(False), aside.name),
        )
    elif not whole and not data.startswith(BEGINNING[: len(data)]):
        raise _foreign(path, 1)
    elif whole < len(data):
        os.truncate(path, whole)


def _is_entry(line: bytes) -> bool:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _foreign(path: Path, number: int) -> StoreError:
    return StoreError(f"{path}, line {number}, does not belong to a study; use another `run_dir`, or remove the file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Optuna's own log line for each trial; its warnings stay."""
    library = logging.getLogger("optuna")
    level = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(level)
