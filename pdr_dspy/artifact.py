"""A compiled program as one JSON file: its signature, prompts, demonstrations and schedule, and where they came from.

Nothing in the file is ever executed. A module is imported only if the user declares the file trusted, and only to find
a distiller that is not registered here. Types are described, not pickled: builtins, `Literal`, and lists, dicts, tuples
and unions of them are rebuilt from the file alone; a signature with other types (pydantic models, enums) is loaded into
a program that has them: `load(path, program=student)`. Language models and their keys are not stored.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import dspy
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.arguments import explained
from pdr_dspy.calls.adapter import NAMED, Adapter
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.calls.pricing import Models, Priced
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.evaluation.records import Report
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.nested import operators_in, operators_of, replaced, served_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import DISTILLER_FROM, DISTILLER_PACKAGE, Schedule
from pdr_dspy.prompts.content import exact_data
from pdr_dspy.prompts.roles import Role, check_task, signature_of
from pdr_dspy.prompts.types import describe_options, describe_type, rebuild_options, rebuild_type
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.verifiers import VERIFIERS
from pdr_dspy.verifiers.base import Metric, Verifier
from pdr_dspy.verifiers.checks import (
    CHECKS,
    DESCRIBED,
    AsyncCheck,
    CalibratedCheck,
    Calibration,
    load_check,
)
from pdr_dspy.verifiers.function import as_verifier

logger = logging.getLogger("pdr_dspy")

FORMAT = "pdr-dspy"
VERSION = 1
MAX_BYTES = 32 * 2**20
"""The largest file that is read or written, in bytes."""

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
        ConfigError: `program` contains no operator.
        ArtifactError: a demonstration or a note holds a value that JSON cannot hold, or the file would be too large.
        StoreError: the file cannot be written.
    """
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
    try:
        content = json.loads(json.dumps(content, ensure_ascii=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"`save(path={str(path)!r})`: the program holds a value that JSON cannot hold: {error}"
        ) from error
    content["sha256"] = _digest(content)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    encoded = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(encoded) > MAX_BYTES:
        raise ArtifactError(
            f"`save(path={str(path)!r})` would write {len(encoded)} bytes, the limit is {MAX_BYTES}; "
            "drop demonstrations or points"
        )
    store_whole(target, encoded, called=f"`save(path={str(target)!r})`")
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


@explained
def load(
    path: str | Path,
    program: dspy.Module | None = None,
    *,
    models: Mapping[str, dspy.LM | Priced] | None = None,
    trusted: bool = False,
    point: str | None = None,
) -> dspy.Module:
    """Read a program that `save` wrote.

    Args:
        path: the file.
        program: a program of the same shape; needed for signatures with custom types and for modules that contain
            operators. It is not changed: a copy with the file's schedule, prompts and demonstrations is returned.
        models: LMs for the names that the schedule chooses by (`draft_model` and the others), beside those of
            `program`; the file has the names, and what each stood for, and no LM. An `Adapter` needs none: it is one of
            the model that the program will use.
        trusted: whether to import the module that the file names for a distiller that is neither built in, nor
            registered, nor an entry point of an installed package. The import runs the module's code.
        point: the name of another setting that was saved with the program.

    Returns:
        The program. Its `artifact` attribute holds the facts that were saved with it: name, models, verifier, data,
        figures, notes, versions, and the figure of each of `points`.

    Raises:
        ArtifactError: the file is missing, truncated, of another kind, newer than this library, or changed since it
            was written; it needs a `program=` with the same signature; its distiller is not registered here; it names
            a model that was not given; or it has no such point.
    """
    content = read(path)
    points = content.get("points") or {}
    if point is not None and point not in points:
        raise ArtifactError(f"{path} has no point {point!r}; it has {', '.join(points) or 'none'}")
    setting = content if point is None else points[point]
    states: dict[str, Any] = setting["operators"]
    given = Models(models, called="load(models=...)")
    try:
        for state in states.values():
            _find_distiller(path, state["schedule"], trusted)
        if program is None:
            loaded = _from_file_alone(path, states, given)
        else:
            loaded = _into(path, program, states, setting["predictors"], given)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
    facts = ("name", "models", "verifier", "data", "figures", "notes", "versions")
    facts_of = {key: content.get(key) for key in facts}
    facts_of["points"] = {name: setting.get("figure") for name, setting in points.items()}
    loaded.artifact = facts_of  # type: ignore[attr-defined]
    return loaded


def read(path: str | Path) -> dict[str, Any]:
    """The checked content of a file that `save` wrote, as plain data. Raises ArtifactError, as `load` does."""
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ArtifactError(f"{path} has {size} bytes; a saved program has at most {MAX_BYTES}")
        raw = local_path(path, "load(path").read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        kind = "is empty" if not raw.strip() else "is truncated or not JSON"
        raise ArtifactError(f"{path} {kind}; a saved program is one JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = (
            " (DSPy's own state: use `program.load(path)`)"
            if isinstance(content, dict) and "metadata" in content
            else ""
        )
        raise ArtifactError(f'{path} is no saved program of this library: it has no "format": "{FORMAT}"{hint}')
    found = content.get("version")
    if not isinstance(found, int) or found < 1:
        raise ArtifactError(f"{path} has the version {found!r}, which is not a positive whole number")
    if found > VERSION:
        raise ArtifactError(
            f"{path} was written by a newer pdr-dspy (format {found}, this one reads {VERSION}); "
            "upgrade: pip install -U pdr-dspy"
        )
    written = content.pop("sha256", None)
    if written != _digest(content):
        raise ArtifactError(
            f"{path} was changed after it was written: its sha256 does not match; save the program again"
        )
    points = content.get("points") or {}
    whole = isinstance(points, dict) and all(isinstance(setting, dict) for setting in points.values())
    for setting in (content, *(points.values() if whole else [{}])):
        for key in ("operators", "predictors"):
            if not isinstance(setting.get(key), dict):
                raise ArtifactError(f"{path} has no {key!r}; save the program again")
    if not content["operators"]:
        raise ArtifactError(f"{path} holds no operator; save the program again")
    return content


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


# --- writing ---------------------------------------------------------------------------------------------------------


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _operator_state(operator: Operator, calibrations: Mapping[str, Calibration] | None = None) -> dict[str, Any]:
    task = operator.task
    states = {name: _check_state(check) for name, check in operator.checks.items()}
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
            "inputs": [_field_state(name, field) for name, field in task.input_fields.items()],
            "outputs": [_field_state(name, field) for name, field in task.output_fields.items()],
        },
        "schedule": operator.schedule.model_dump(mode="json"),
        "predictors": {
            role.value: _predictor_state(predictor)
            for role in Role
            if isinstance(predictor := operator.__dict__.get(role.value), dspy.Predict)
        },
    }


def _check_state(check: AsyncCheck) -> dict[str, Any]:
    """The check's own description; the class name of a check without `describe()`."""
    describe: Any = getattr(check, "describe", None)
    return {"kind": type(check).__name__} if describe is None else describe()


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
            _checks_of(path, Schedule(**state["schedule"]), {}, state.get("checks") or {})
        except ArtifactError as error:
            missing[str(error)] = None
    for message in missing:
        logger.warning("it is saved, but `load` will refuse it in a new process: %s", message)


def _verifier_state(verifier: Verifier) -> dict[str, Any]:
    """The verifier's own description, with the origin of a verifier that is not built in."""
    described = verifier.describe()
    origin = VERIFIERS.origin(str(described.get("kind")))
    return described if origin is None else {**described, "from": origin}


def _field_state(name: str, field: Any) -> dict[str, Any]:
    extra = _extra(field)
    return {
        "name": name,
        "type": describe_type(field.annotation),
        "desc": extra.get("desc"),
        **describe_options(field),
    }


def _extra(field: Any) -> dict[str, Any]:
    """DSPy's metadata of a field, such as its description."""
    return field.json_schema_extra or {}


def _predictor_state(predictor: dspy.Predict) -> dict[str, Any]:
    signature = signature_of(predictor)
    return {
        "instructions": signature.instructions,
        "fields": {name: {"desc": _extra(field).get("desc")} for name, field in signature.fields.items()},
        "demos": [{str(key): exact_data(value) for key, value in dict(demo).items()} for demo in predictor.demos],
    }


def _other_predictors(program: dspy.Module) -> dict[str, Any]:
    """A larger module's predictors that belong to no operator, by name."""
    inside = {id(value) for operator in operators_in(program).values() for value in operator.__dict__.values()}
    return {
        name: _predictor_state(predictor)
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


# --- reading ---------------------------------------------------------------------------------------------------------


def _check_models(path: str | Path, state: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    """Whether the models that a saved schedule names are there."""
    missing = [name for name in Schedule(**state["schedule"]).models if name not in models]
    if missing:
        saved = state.get("models") or {}
        named = ", ".join(f"{name!r} (it was {saved[name]})" if name in saved else repr(name) for name in missing)
        lms = ", ".join(f"{name!r}: lm" for name in missing)
        raise ArtifactError(
            f"{path} uses the model{'s' * (len(missing) > 1)} {named}, and no file holds an LM; give "
            f"{'them' if len(missing) > 1 else 'it'}: `load(path, models={{{lms}}})`, or load into a program that has "
            f"{'them' if len(missing) > 1 else 'it'}"
        )


def _adapters(state: Mapping[str, Any]) -> Models:
    """The adapters among a saved program's models: they name no server, and are found at the one that is used."""
    saved = {name: str(model) for name, model in (state.get("models") or {}).items()}
    return Models(
        {name: Adapter(model.removeprefix(NAMED)) for name, model in saved.items() if model.startswith(NAMED)}
    )


def _from_file_alone(path: str | Path, states: Mapping[str, Any], models: Models) -> Operator:
    if list(states) != [""]:
        raise ArtifactError(
            f"{path} was saved from a custom module with operators at {', '.join(states)}; give such a module: "
            "`load(path, program=YourModule())`"
        )
    state = states[""]
    signature = state["signature"]
    fields: dict[str, tuple[Any, Any]] = {}
    for side, make in (("inputs", dspy.InputField), ("outputs", dspy.OutputField)):
        for field in signature[side]:
            try:
                kind = rebuild_type(field["type"])
                options = rebuild_options(field, kind)
            except ArtifactError:
                what = f"a custom type, {_type_name(field['type'])}"
                if "own" in field:
                    what = f"a custom default or validator, `{field['own']}`"
                raise ArtifactError(
                    f"the field {field['name']!r} of {path} has {what}, which cannot be stored in a file; give a "
                    "program that has it: `load(path, program=PDR(YourSignature))`"
                ) from None
            if field.get("desc") is not None:
                options["desc"] = field["desc"]
            fields[field["name"]] = (kind, make(**options))
    task: Any = dspy.Signature(fields, signature["instructions"])  # type: ignore[call-overload]
    task.__name__ = task.__qualname__ = str(signature["name"])
    schedule = Schedule(**state["schedule"])
    checks = _checks_of(path, schedule, {}, state.get("checks") or {})
    models = _adapters(state) | models
    _check_models(path, state, models)
    return _restored(Operator(check_task(task), schedule, checks or None, models), state)


def _checks_of(
    path: str | Path, schedule: Schedule, own: Mapping[str, AsyncCheck], saved: Mapping[str, Any]
) -> dict[str, AsyncCheck]:
    """The checks of a saved program, with their saved calibration.

    Each is taken from `own` (the program that is loaded into), else from the registry, else rebuilt from its saved
    settings. Raises ArtifactError if the check that the schedule uses cannot be found.
    """
    found = dict(own)
    for name, state in saved.items():
        if name not in found and name in CHECKS:
            found[name] = CHECKS.find(name)
        if name not in found and isinstance(state, Mapping) and state.get("kind") in DESCRIBED:
            with suppress(ConfigError):  # a missing check is reported below if the schedule uses it
                found[name] = load_check(state)
        calibration = state.get("calibration") if isinstance(state, Mapping) else None
        if name in found and calibration is not None and not isinstance(found[name], CalibratedCheck):
            found[name] = CalibratedCheck(found[name], Calibration(**calibration))
    used = schedule.check
    if used is not None and used not in found and used not in CHECKS:
        kind = saved.get(used, {}).get("kind", "check")
        raise ArtifactError(
            f"{path} uses the check {used!r} ({kind}), which cannot be stored in a file: register one under this name "
            f"first (`pdr_dspy.verifiers.checks.register_check({used!r}, ...)`), or load into a program that has it: "
            "`load(path, program=...)`"
        )
    return found


def _find_distiller(path: str | Path, schedule: Mapping[str, Any], trusted: bool) -> None:
    """Check that a saved schedule's distiller is registered here; import it if not and the file is trusted.

    Raises ArtifactError for an unknown distiller that may not, or cannot, be imported.
    """
    name, origin = schedule.get("distiller", "summary"), schedule.get(DISTILLER_FROM)
    if name in DISTILLERS:
        return
    if not isinstance(name, str) or not isinstance(origin, str):
        raise ArtifactError(f"{path}: {DISTILLERS.unknown(name)}")
    if not trusted:
        missing = DISTILLERS.unknown(name, origin, schedule.get(DISTILLER_PACKAGE))
        raise ArtifactError(
            f"{path}: {missing}; or, if you trust the file, let `load(path, trusted=True)` import "
            f"`{origin.partition(':')[0]}`, which runs that module's code"
        )
    try:
        DISTILLERS.trust(name, origin)
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _type_name(description: Any) -> str:
    if isinstance(description, dict) and isinstance(description.get("custom"), str):
        return f"`{description['custom']}`"
    return json.dumps(description)


def _into(
    path: str | Path,
    program: dspy.Module,
    states: Mapping[str, Any],
    predictors: Mapping[str, Any],
    models: Models,
) -> dspy.Module:
    there = operators_in(program)
    if set(there) != set(states):
        raise ArtifactError(
            f"{path} has operators at {', '.join(map(_shown_path, states))}, `program` has "
            f"{', '.join(map(_shown_path, there)) or 'none'}; give a program of the same shape"
        )
    for place, operator in there.items():
        _check_same_task(path, operator.task, states[place]["signature"])

    def from_file(place: str, operator: Operator) -> Operator:
        schedule, saved = Schedule(**states[place]["schedule"]), states[place].get("checks") or {}
        own = copy.copy(operator)
        own.checks = _checks_of(path, schedule, operator.checks, saved)
        own.models = _adapters(states[place]) | operator.models | models
        _check_models(path, states[place], own.models)
        return _restored(own.with_schedule(schedule), states[place])

    loaded = replaced(program, from_file)
    named = dict(loaded.named_predictors())
    for name, state in predictors.items():
        if name not in named:
            raise ArtifactError(
                f"{path} has the predictor {name!r}, `program` does not; give a program of the same shape"
            )
        _restore_predictor(named[name], state)
    return loaded


def _shown_path(operator: str) -> str:
    return repr(operator) if operator else "the top"


def _check_same_task(path: str | Path, task: type[dspy.Signature], saved: Mapping[str, Any]) -> None:
    for side, fields in (("inputs", task.input_fields), ("outputs", task.output_fields)):
        here = [(name, describe_type(field.annotation)) for name, field in fields.items()]
        there = [(field["name"], field["type"]) for field in saved[side]]
        if json.dumps(here) != json.dumps(there):
            raise ArtifactError(
                f"{path} has a signature with the {side} {_fields(there)}, `program` has {_fields(here)}; "
                "load it into a program of the same signature"
            )


def _fields(fields: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}: {kind if isinstance(kind, str) else _type_name(kind)}" for name, kind in fields)


def _restored(operator: Operator, state: Mapping[str, Any]) -> Operator:
    for role, saved in state["predictors"].items():
        predictor = operator.__dict__.get(Role(role).value)
        if predictor is not None:
            _restore_predictor(predictor, saved)
    return operator


def _restore_predictor(predictor: dspy.Predict, state: Mapping[str, Any]) -> None:
    signature = signature_of(predictor).with_instructions(str(state["instructions"]))
    for name, saved in state["fields"].items():
        field = signature.fields.get(name)
        if field is None:
            continue
        if saved.get("desc") not in (None, _extra(field).get("desc")):
            signature = signature.with_updated_fields(name, desc=saved["desc"])
    predictor.signature = signature
    predictor.demos = [_demo(signature, demo) for demo in state["demos"]]


def _demo(signature: type[dspy.Signature], saved: Mapping[str, Any]) -> dspy.Example:
    """A demonstration with its values converted back to the types of their fields, so that it renders as before."""
    values = {}
    for name, value in saved.items():
        field = signature.fields.get(name)
        if field is not None and field.annotation is not str:
            with suppress(ValidationError):  # it was not a value of that type when it was saved either
                value = TypeAdapter(cast(Any, field.annotation)).validate_python(value)
        values[name] = value
    return dspy.Example(**values)
