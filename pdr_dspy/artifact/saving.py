"""Saving: what a program is as plain data, with the models, data and figures that it came from.

Language models are named with their sampling settings; their addresses and keys are not stored.
"""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import dspy

from pdr_dspy.arguments import explained, shown
from pdr_dspy.artifact.checks import check_state, checks_of
from pdr_dspy.artifact.file import FORMAT, VERSION, write
from pdr_dspy.artifact.predictors import field_state, predictor_state
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.evaluation.records import Report
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.nested import operators_in, operators_of, served_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.content import exact_data
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.verifiers import VERIFIERS
from pdr_dspy.verifiers.base import Metric, Verifier
from pdr_dspy.verifiers.checks import (
    Calibration,
)
from pdr_dspy.verifiers.function import as_verifier

logger = logging.getLogger("pdr_dspy")
SAMPLING = ("top_k", "min_p", "stop", "reasoning_effort", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Sampling settings of a language model that are stored. The schedule holds the others; secrets are never stored."""
Figures: TypeAlias = "Sequence[Report | Mapping[str, Any]]"


class Point(NamedTuple):
    """Another setting of a saved program, such as a cheaper one of the front that it was tuned on."""

    program: dspy.Module
    figure: Mapping[str, Any] | None = None
    """Its result: "score", and the mean "sequential" and "total" tokens of a run."""


@explained
def save(
    program: dspy.Module,
    path: str | Path,
    *,
    name: str | None = None,
    verifier: Verifier | Metric | None = None,
    data: Mapping[str, Any] | str | None = None,
    figures: Figures = (),
    notes: str | None = None,
    points: Mapping[str, Point] | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Path:
    """Write a program to one JSON file, atomically.

    A check that the file cannot hold, such as a reward function that is not registered, is logged as a warning: `load`
    needs it registered, or a program that has it.

    Args:
        program: an operator, or a module that contains some.
        path: the file; its folder is created if needed.
        name: the program's name; by default the file's.
        verifier: the verifier that scored it; its `describe()` is stored, and `load_verifier` rebuilds it from that.
        data: the data that it was scored on: a name, or a mapping such as `{"name": ..., "fingerprint": ...}`.
        figures: its results: `Report`s, or mappings that hold at least "score" and "interval".
        notes: a free text for readers of the file.
        calibrations: calibrations of the program's checks by name, for those that have none of their own: their
            thresholds, and how sure those are. `load` gives the checks with it.
        points: other settings of the program by name, such as "fast"; `load(path, point="fast")` returns one.

    Returns:
        The path.

    Raises:
        ConfigError: `program` contains no operator, or the path is given first.
        ArtifactError: a demonstration or a note holds a value that JSON cannot hold, or the file would be too large.
        StoreError: the file cannot be written.
    """
    if isinstance(path, dspy.Module):
        raise ConfigError(f"`save({shown(program)}, ...)` takes the program first: `save(program, {shown(program)})`")
    target = local_path(path, "save(path")
    operators = operators_of(program, f"save(program={type(program).__name__}())", "use `program.save(...)` of DSPy")
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": name or target.stem,
        "operators": {place: _operator_state(operator, calibrations) for place, operator in operators.items()},
        "predictors": _other_predictors(program),
        "models": _models(program),
        "verifier": None if verifier is None else _verifier_state(as_verifier(verifier)),
        "data": {"name": data} if isinstance(data, str) else data,
        "figures": [figure(entry) for entry in figures],
        "notes": notes,
        "versions": _versions(program),
    }
    if points:
        content["points"] = {
            point: {
                "operators": {place: _operator_state(each) for place, each in operators_in(setting.program).items()},
                "predictors": _other_predictors(setting.program),
                "figure": None if setting.figure is None else figure(setting.figure),
            }
            for point, setting in points.items()
        }
    content = write(target, content, path)
    _warn_of_checks(path, content)
    return target


def check_can_be_saved(program: dspy.Module) -> None:
    """Raise ArtifactError for a program that `save` would refuse, before a search pays for it."""
    for place, operator in operators_in(program).items():
        try:
            json.dumps(_operator_state(operator), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            where = f" at `{place}`" if place else ""
            raise ArtifactError(
                f"the program{where} holds a value that JSON cannot hold, so no result could be saved: {error}"
            ) from error


def figure(entry: Report | Mapping[str, Any]) -> dict[str, Any]:
    """The stored part of an evaluation: score with its 95 % interval, mean tokens and calls of a run."""
    if not isinstance(entry, Report):
        return {key: _finite(value) for key, value in entry.items()}
    counts = {
        "questions": len(entry.by_question),
        "rows": len(entry.rows),
        "failed": entry.failed,
        "exact": all(Ledger(calls=row.calls).exact for row in entry.rows),
    }
    figures = {
        "name": entry.name,
        "score": entry.score,
        "interval": list(entry.interval),
        "sequential": entry.sequential,
        "total": entry.total,
        **({} if entry.cost is None else {"cost": entry.cost}),
        "calls": entry.calls,
    }
    return {key: _finite(value) for key, value in (figures | counts).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _operator_state(operator: Operator, calibrations: Mapping[str, Calibration] | None = None) -> dict[str, Any]:
    task = operator.task
    states = {name: check_state(check) for name, check in operator.checks.items()}
    for name in states.keys() & (calibrations or {}).keys():
        own = {"calibration": (calibrations or {})[name].model_dump(mode="json")}
        states[name] = {**own, **states[name]}  # one of its own stays
    checks = {"checks": states}
    models = {"models": {name: str(lm.model) for name, lm in operator.models.items()}}
    return {
        "strategy": operator.schedule.strategy,
        **(checks if operator.checks else {}),
        **(models if operator.models else {}),
        "signature": {
            "name": task.__name__,
            "instructions": task.instructions,
            "inputs": [field_state(name, field) for name, field in task.input_fields.items()],
            "outputs": [field_state(name, field) for name, field in task.output_fields.items()],
        },
        "schedule": operator.schedule.model_dump(mode="json"),
        "predictors": {
            role.value: predictor_state(predictor)
            for role in Role
            if isinstance(predictor := operator.__dict__.get(role.value), dspy.Predict)
        },
    }


def _warn_of_checks(path: str | Path, content: Mapping[str, Any]) -> None:
    """Log which checks `load` will not find. It takes those of a larger module, and the command line those of a named
    task, from a program that has them."""
    if (content["data"] or {}).get("task") is not None:
        return
    settings = [content, *(content.get("points") or {}).values()]
    states = [setting["operators"][""] for setting in settings if list(setting["operators"]) == [""]]
    missing: dict[str, None] = {}
    for state in states:
        try:
            checks_of(path, Schedule(**state["schedule"]), {}, state.get("checks") or {})
        except ArtifactError as error:
            missing[str(error)] = None
    for message in missing:
        logger.warning("it is saved, but `load` will refuse it in a new process: %s", message)


def _verifier_state(verifier: Verifier) -> dict[str, Any]:
    """The verifier's own description, with the origin of a verifier that is not built in."""
    described = verifier.describe()
    origin = VERIFIERS.origin(str(described.get("kind")))
    return described if origin is None else {**described, "from": origin}


def _other_predictors(program: dspy.Module) -> dict[str, Any]:
    """A larger module's predictors that belong to no operator, by name."""
    inside = {id(value) for operator in operators_in(program).values() for value in operator.__dict__.values()}
    return {
        name: predictor_state(predictor)
        for name, predictor in program.named_predictors()
        if id(predictor) not in inside
    }


def _models(program: dspy.Module) -> list[dict[str, Any]]:
    """Name and sampling settings of each model that the program would call now, without addresses and keys."""
    models: dict[str, dict[str, Any]] = {}
    served = served_in(program)
    for predictor in program.predictors():
        lm: Any = served.get(id(predictor)) or predictor.lm or dspy.settings.lm
        if lm is not None:
            kwargs = getattr(lm, "kwargs", {})
            chosen = {key: exact_data(kwargs[key]) for key in SAMPLING if kwargs.get(key) is not None}
            models[str(lm.model)] = {"model": str(lm.model), "sampling": chosen}
    return list(models.values())


def _versions(program: dspy.Module) -> dict[str, str]:
    found = {"python": platform.python_version()}
    others = {DISTILLERS.package(operator.schedule.distiller) for operator in operators_in(program).values()}
    for package in ("dspy", "pdr-dspy", *sorted(filter(None, others))):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
