"""`--data`, `--metric`, `--verifier` and `--field`: the examples of a command, and what grades them."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy import datasets
from pdr_dspy.cli.program_files import Target, named_in, operator_of, program_file
from pdr_dspy.cli.verifier_option import grader_of
from pdr_dspy.datasets.files import FILE_KINDS
from pdr_dspy.datasets.hub import HUB
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.prompts.roles import RESERVED, signature_of
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.verifiers import VERIFIERS, Verifier, as_verifier, load_verifier
from pdr_dspy.verifiers.registry import settings_of

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM

METRIC = "metric"
"""The function that `--metric FILE.py` takes if it names none."""
DEV = 0.4
"""The share of a file's rows that `pdr optimize` keeps for the confirmation."""


@dataclass(frozen=True)
class DataOptions:
    """The options of a command that name its data and its grading; none of them leaves both to the program file."""

    data: str | None = None
    metric: str | None = None
    verifier: str | None = None
    fields: Sequence[str] = ()
    judge_base: str | None = None
    judge_model: str | None = None
    dev: str | None = None
    """Other data for the confirmation of a search."""

    def __post_init__(self) -> None:
        if self.metric is not None and self.verifier is not None:
            raise ConfigError("`--metric` and `--verifier` exclude each other: both grade the answers")
        if self.verifier is not None and self.data is None:
            raise ConfigError("`--verifier` goes with `--data`; a program file brings its own")
        for given, option in ((self.fields, "--field"), (self.dev, "--dev")):
            if given and self.data is None:
                raise ConfigError(f"`{option}` goes with `--data`, whose columns and rows it names")

    @property
    def columns(self) -> dict[str, str]:
        """Fields of the program to columns. Raises ConfigError for a text that is not NAME=COLUMN."""
        found: dict[str, str] = {}
        for text in self.fields:
            name, equals, column = (part.strip() for part in text.partition("="))
            if not equals or not name or not column or name in found:
                raise ConfigError(f"`--field {text}` is not NAME=COLUMN, each name of the program's once")
            found[name] = column
        return found

    def __str__(self) -> str:
        """The options as they are written on a command line, for the commands that are suggested next."""
        named = {"--data": self.data, "--metric": self.metric, "--verifier": self.verifier}
        given = [f"{option} {shlex.quote(value)}" for option, value in named.items() if value is not None]
        given += [f"--field {shlex.quote(text)}" for text in self.fields]
        return "".join(f" {text}" for text in given)


@dataclass(frozen=True)
class Graded:
    """Examples and their verifier."""

    examples: list[dspy.Example]
    verifier: Verifier
    lm: EndpointLM | None = None
    """The model that the verifier calls, to be closed after use."""
    own: bool = False
    """Whether the command line names the verifier."""


def read(target: Target, options: DataOptions, *, split: str | None = None, limit: int | None = None) -> Graded:
    """The examples that a target is evaluated on. Sends nothing.

    Raises ConfigError and DataError, as `datasets.load` and `load_verifier` do, and for data without a verifier.
    """
    if options.data is None:
        task = _task_of(target)
        own = metric_of(options.metric)
        with program_file(f"`data()` or `verifier()` of {task.name}"):
            examples = task.data(split or "test", limit=limit)
            return Graded(examples, own or task.verifier(), own=own is not None)
    return _graded(target, options, _load(target, options, options.data, split=split, limit=limit))


def read_both(
    target: Target, options: DataOptions, *, limit: int | None = None, confirm: int | None = None
) -> tuple[Graded, list[dspy.Example]]:
    """The questions that a target is tuned on, and others for the confirmation. Sends nothing.

    A file's rows are divided by a fixed seed, three for the search to two for the confirmation; of a named set with a
    training part only that part is used, so that its test part stays unseen.
    """
    if options.data is None:
        task = _task_of(target)
        own = metric_of(options.metric)
        with program_file(f"`data()` of {task.name}"):
            train, dev = task.data("train", limit=limit), task.data("dev", limit=confirm)
        with program_file(f"`verifier()` of {task.name}"):
            return Graded(train, own or task.verifier(), own=own is not None), dev
    if options.dev is not None:
        train = _load(target, options, options.data, split=_train_of(options.data), limit=limit)
        return _graded(target, options, train), _load(target, options, options.dev, limit=confirm)
    every = _load(target, options, options.data, split=_train_of(options.data))
    if len(every) < 2:
        raise DataError(f"`--data {options.data}` has one row; a search needs some to try schedules on, and others")
    held = max(1, round(DEV * len(every)))
    train, dev = datasets.split(every, len(every) - held, held)
    return _graded(target, options, train[:limit]), dev[:confirm]


def metric_of(text: str | None) -> Verifier | None:
    """The metric that `--metric FILE.py:NAME` names, as a verifier; None for None.

    Raises ConfigError for a file that cannot be imported, and for what is no metric.
    """
    if text is None:
        return None
    file, _, name = text.rpartition(":") if text.rpartition(":")[0].endswith(".py") else (text, "", METRIC)
    if not file.endswith(".py"):
        raise ConfigError(f"`--metric {text}` must be FILE.py:NAME, such as mine.py:score")
    return as_verifier(named_in(file, name, option=f"--metric {text}"), argument="--metric ...")


def interface_of(program: dspy.Module) -> type[dspy.Signature]:
    """The inputs and outputs of a program. Those of a module are the arguments of its `forward`, and the outputs of the
    predictors in it.

    Raises ConfigError for a module whose `forward` takes only `**kwargs`.
    """
    if isinstance(program, Operator):
        return program.task
    if isinstance(program, dspy.Predict):
        return signature_of(program)
    known: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    operators = operators_in(program).values()
    inner = {id(one) for operator in operators for one in operator.predictors()}
    signatures = [signature_of(one) for one in program.predictors() if id(one) not in inner]
    for signature in [*signatures, *(operator.task for operator in operators)]:
        known |= signature.input_fields
        outputs |= {name: field for name, field in signature.output_fields.items() if name not in RESERVED}
    own = type(program)
    forward = getattr(own, "forward", None) or getattr(own, "aforward", None)
    arguments = [] if forward is None else list(inspect.signature(forward).parameters.values())[1:]
    named = [one for one in arguments if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    if not named:
        raise ConfigError(
            f"`{own.__name__}.forward` names no arguments, so its inputs are unknown: write them out, as in "
            "`def forward(self, question)`, or give a program file with `data()`"
        )
    fields: dict[str, Any] = {}
    for one in named:
        kind = known[one.name].annotation if one.name in known else str
        needed = one.default is one.empty
        fields[one.name] = (kind if needed else kind | None, dspy.InputField())
    for name, field in outputs.items():
        if name not in fields:
            fields[name] = (field.annotation, dspy.OutputField())
    if len(fields) == len(named):
        fields["answer"] = (str, dspy.OutputField())
    return dspy.Signature(fields, "")  # type: ignore[return-value,call-arg]


def inputs_of(program: dspy.Module) -> list[str]:
    """The names of a program's inputs; those of its first operator if its `forward` names none."""
    try:
        return list(interface_of(program).input_fields)
    except ConfigError:
        return list(operator_of(program).task.input_fields)


def is_file(data: str) -> bool:
    """Whether `--data` names a local file."""
    return Path(data).suffix.lower() in FILE_KINDS and not data.startswith(HUB)


def _task_of(target: Target) -> Any:
    if target.task is None:
        raise ConfigError(
            f"{target.name} is a saved program without data: add `--task` with its program file, or `--data` with "
            "`--metric FILE.py:NAME` or `--verifier`"
        )
    return target.task


def _load(
    target: Target, options: DataOptions, data: str, *, split: str | None = None, limit: int | None = None
) -> list[dspy.Example]:
    program = target.program
    task = interface_of(program)
    anything: Any = Any
    if options.metric is None:  # a verifier reads texts of its own kind, such as 1/3 for a number
        for name in task.output_fields:
            task = task.with_updated_fields(name, type_=anything)
    place = str(local_path(data)) if is_file(data) else data
    return datasets.load(place, split=split, limit=limit, signature=task, fields=options.columns or None)


def _train_of(data: str) -> str | None:
    """The training part of a named set; None where there is none."""
    return "train" if not is_file(data) and "train" in datasets.info(data).splits else None


def _graded(target: Target, options: DataOptions, examples: list[dspy.Example]) -> Graded:
    data = options.data or ""
    metric = metric_of(options.metric)
    if metric is not None:
        return Graded(examples, metric, own=True)
    outputs = list(interface_of(target.program).output_fields)
    if options.verifier is None:
        known = None if is_file(data) else datasets.info(data).verifier
        if not known:
            raise ConfigError(
                f"`--data {data}` does not say how it is graded: add `--metric FILE.py:NAME`, "
                f"or `--verifier {'|'.join(VERIFIERS.names())}`"
            )
        return Graded(examples, load_verifier({"kind": known, **_fields_of(known, outputs, examples, {})}))
    kind = options.verifier.partition(":")[0]
    defaults = _fields_of(kind, outputs, examples, options.verifier) if kind in VERIFIERS else {}
    found = grader_of(
        options.verifier, judge_base=options.judge_base, judge_model=options.judge_model, defaults=defaults
    )
    return Graded(examples, found.verifier, found.lm, own=True)


def _fields_of(
    kind: str, outputs: Sequence[str], examples: Sequence[dspy.Example], given: Mapping[str, Any] | str
) -> dict[str, str]:
    """The fields that a verifier compares if the command line does not name them: those of the program's only output.

    Raises ConfigError for several outputs none of which is `answer`.
    """
    settings = settings_of(kind)
    if "field" not in settings or "field=" in str(given) or "answer" in outputs:
        return {}
    if len(outputs) > 1:
        raise ConfigError(
            f"`--verifier {kind}` compares one field, and the program has {', '.join(outputs)}: write `--verifier "
            f"{kind}:field={outputs[0]},gold={outputs[0]}`, or grade them together with `--metric FILE.py:NAME`"
        )
    fields = {"field": outputs[0]}
    if "gold" in settings and "gold=" not in str(given) and outputs[0] in examples[0]:
        fields["gold"] = outputs[0]
    return fields
