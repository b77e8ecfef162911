"""Loading: a program from a file alone, or a copy of a program with the file's schedule, prompts and demonstrations.

A module is imported only if the user declares the file trusted, and only to find a distiller that is not registered
here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.arguments import explained, shown
from pdr_dspy.artifact.checks import checks_of
from pdr_dspy.artifact.file import read
from pdr_dspy.artifact.predictors import restore_predictor
from pdr_dspy.calls.adapter import NAMED, Adapter
from pdr_dspy.calls.pricing import Models, Priced
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.nested import operators_in, replaced
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import DISTILLER_FROM, DISTILLER_PACKAGE, Schedule
from pdr_dspy.prompts.roles import Role, check_task
from pdr_dspy.prompts.types import describe_type, rebuild_options, rebuild_type


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
        ConfigError: `trusted` is neither True nor False.
    """
    if not isinstance(trusted, bool):
        raise ConfigError(f"`load(trusted={shown(trusted)})` must be True or False: it decides whether code is run")
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
    checks = checks_of(path, schedule, {}, state.get("checks") or {})
    models = _adapters(state) | models
    _check_models(path, state, models)
    return _restored(Operator(check_task(task), schedule, checks or None, models), state)


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
        own.checks = checks_of(path, schedule, operator.checks, saved)
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
        restore_predictor(named[name], state)
    return loaded


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


def _type_name(description: Any) -> str:
    if isinstance(description, dict) and isinstance(description.get("custom"), str):
        return f"`{description['custom']}`"
    return json.dumps(description)


def _shown_path(operator: str) -> str:
    return repr(operator) if operator else "the top"


def _restored(operator: Operator, state: Mapping[str, Any]) -> Operator:
    for role, saved in state["predictors"].items():
        predictor = operator.__dict__.get(Role(role).value)
        if predictor is not None:
            restore_predictor(predictor, saved)
    return operator
