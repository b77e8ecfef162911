"""The settings of a search as values: its identity, which a stored search keeps, and the options of one run of it.

`SearchSettings` is the identity of a search. It is stored in the journal, and only a search with equal settings resumes
there. `RunOptions` may differ each time a search is resumed: its storage, its extent and its concurrency.
`PDROptimizer` takes both, or their fields as flat keywords; only `from_keywords` maps keywords to fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, get_args

import dspy
from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.texts import MAX_TEXT_BYTES
from pdr_dspy.runtime import postgres
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.registry import origin_of
from pdr_dspy.search.prior import Prior, read_prior
from pdr_dspy.search.racing.pareto import COSTS, Limits
from pdr_dspy.search.space.spaces import AnySpace, Space, read_space
from pdr_dspy.settings import Settings, is_number, whole_number

SamplerName = Literal["tpe", "nsga2", "random"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
Objective = Literal["score", "front"]
Accept = Literal["confident", "better"]
Stop = Literal["trials", "worth"]


class _Section(Settings):
    """Settings whose counts are whole numbers."""

    LEAST: ClassVar[Mapping[str, int | None]] = {}
    """The minimum of each count; None for no minimum."""

    @field_validator("*", mode="before")
    @classmethod
    def _counts(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if name not in cls.LEAST or (value is None and cls.model_fields[name].default is None):
            return value
        return whole_number(f"{cls.__name__}(", name, value, least=cls.LEAST[name])


class Race(_Section):
    """The race of candidates: on growing blocks of the same (question, seed) pairs."""

    LEAST: ClassVar[Mapping[str, int | None]] = {"repeats": 1, "cohort": 1, "first": 1}

    repeats: int = 1
    """Maximum runs of each question: a candidate that is confidently worse is dropped earlier."""
    cohort: int = 8
    """Candidates that race each other. It is fixed, so that concurrency has no effect."""
    free: int = Field(default=8, ge=0)
    """Maximum candidates that race with a cohort at no tokens: other finals and early ends of the drafts of measured
    candidates, which are in the store. They are no trials."""
    first: int = 8
    """(question, seed) pairs before the first test."""
    eta: float = Field(default=2.0, gt=1.0)
    """Growth of the blocks, and the reciprocal of the fraction of a cohort that each test exempts."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Probability, over all tests of a race together, that an equally good candidate is dropped as worse."""


class Final(_Section):
    """The second runs of the best candidates, on fresh seeds."""

    LEAST: ClassVar[Mapping[str, int | None]] = {"programs": 1, "repeats": 0}

    programs: int = 4
    """Candidates that run again, besides the student."""
    repeats: int = 4
    """Maximum runs of each question. 0 confirms the best of the race at once: with few questions, fresh seeds on them
    are worth less than more questions in race and confirmation."""


class Confirm(_Section):
    """The comparison of the winner and the untouched student on the confirmation's questions."""

    LEAST: ClassVar[Mapping[str, int | None]] = {"repeats": 1}

    repeats: int = 4
    """Runs of each question."""


class Instructions(_Section):
    """Instructions that a language model writes between cohorts, as further candidates: it reflects on the failures of
    the leading candidates, and writes for their schedules."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    LEAST: ClassVar[Mapping[str, int | None]] = {"count": 0, "rounds": 1}

    count: int = 0
    """Maximum instructions for each role in a round; 0 writes none."""
    rounds: int = 1
    """Rounds of writing, one before each of the first cohorts after the baselines. From the second on, the writer sees
    the earlier texts with their scores, and failures of what leads then."""
    model: Any = Field(default=None, exclude=True)
    """The LM that writes them; None is the student's own. A stored search keeps its name only."""

    @model_validator(mode="before")
    @classmethod
    def _named_as_here(cls, data: Any) -> Any:
        for name in ("prompt_model", "reflection_lm"):
            if isinstance(data, Mapping) and name in data:
                raise ValueError(f"`Instructions({name}=...)` is `Instructions(model=...)`, or `prompt_model=` flat")
        return data

    @model_serializer(mode="wrap")
    def _as_data(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the rounds, a later field, at their default."""
        return {name: value for name, value in handler(self).items() if name != "rounds" or value != 1}

    @field_validator("model")
    @classmethod
    def _is_an_lm(cls, model: Any) -> Any:
        if model is not None and not isinstance(model, dspy.BaseLM):
            raise ValueError(f"`Instructions(model={model!r})` must be a dspy.LM")
        return model


class SearchSettings(_Section):
    """The identity of a search. A resumed search has equal settings.

    Raises ConfigError, naming the field and its value, for invalid settings.
    """

    LEAST: ClassVar[Mapping[str, int | None]] = {"seed": None}

    space: AnySpace | None = None
    """The search space: one space for all operators, or a mapping from the paths of several to separate spaces
    (`{"solve": Space(...), "extract": Space(...)}`, see `Spaces`). None is `Space.default_for` the student's schedule
    and checks."""
    limits: Limits = Limits()
    """Limits on the mean cost of a run."""
    objective: Objective = "score"
    """"score" for the best program within the limits, "front" for all that no other beats in score and both costs."""
    seed: int = 0
    """Seed of the search, its samples, and the split of `trainset` if there is no `valset`."""
    race: Race = Race()
    final: Final = Final()
    confirm: Confirm = Confirm()
    sampler: SamplerName | Callable[[int], Any] = "tpe"
    """The Optuna sampler that proposes candidates: its name, or a function from a seed to a
    `optuna.samplers.BaseSampler`. A stored search keeps the location of the function's definition, and never imports
    it."""
    instructions: Instructions = Instructions()
    prior: Prior | None = None
    """What earlier searches learnt: the run folder of a finished one or a list of several, which are read at once, or
    a `Prior`. It chooses at most four of the first trials, and is the mean of the estimates, with a weight that the new
    scores choose. A stored search keeps what was learnt, not the folders."""

    @field_validator("prior", mode="before")
    @classmethod
    def _learnt(cls, prior: Any) -> Any:
        return prior if prior is None or isinstance(prior, (Prior, Mapping)) else read_prior(prior)

    @field_validator("limits", mode="before")
    @classmethod
    def _whole_limits(cls, limits: Any) -> Any:
        try:
            given = Limits(**limits) if isinstance(limits, Mapping) else Limits(*limits)
        except TypeError:
            raise ValueError(
                f"`SearchSettings(limits={limits!r})` must be `Limits(sequential=..., total=...)`, in tokens, and "
                "`cost=...` in the unit of the models' prices"
            ) from None
        tokens = {name: getattr(given, name) for name in COSTS}
        whole = {n: None if value is None else whole_number("Limits(", n, value) for n, value in tokens.items()}
        cost = given.cost
        if cost is not None and not (is_number(cost) and 0 < cost < math.inf):
            raise ValueError(f"`Limits(cost={cost!r})` must be above 0, in the unit of the models' prices, or None")
        return Limits(**whole, cost=cost)

    @field_validator("space", mode="before")
    @classmethod
    def _is_a_space(cls, space: Any) -> Any:
        return None if space is None else read_space(space)

    @field_validator("sampler", mode="before")
    @classmethod
    def _known_sampler(cls, sampler: Any) -> Any:
        if not callable(sampler) and sampler not in SAMPLERS:
            raise ValueError(
                f"`SearchSettings(sampler={sampler!r})` must be {', '.join(map(repr, SAMPLERS))} or a function from a "
                "seed to an Optuna sampler"
            )
        return sampler

    @field_serializer("limits")
    def _limits_as_data(self, limits: Limits) -> dict[str, Any]:
        """Omit the limit on cost, a later field, if it is not set."""
        return {name: value for name, value in limits._asdict().items() if name != "cost" or value is not None}

    @field_serializer("sampler")
    def _sampler_as_data(self, sampler: Any) -> str:
        return sampler if isinstance(sampler, str) else origin_of(sampler) or f"a {type(sampler).__name__}"

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs that are objectives besides the score: both for the front, otherwise none."""
        return COSTS if self.objective == "front" else ()


class RunOptions(_Section):
    """The options of one run of a search; they may differ whenever the search is resumed.

    Raises ConfigError, naming the field and its value, for invalid options.
    """

    LEAST: ClassVar[Mapping[str, int | None]] = {
        "trials": 1, "max_tokens": 1, "max_in_flight": 1, "max_text_bytes": 0,
    }  # fmt: skip

    trials: int = 30
    """Candidates to measure, the student and the baselines included, which are measured in any case."""
    max_tokens: int | None = None
    """No new cohort is started after this many paid tokens of the search; None for no limit. The finalists' fresh runs
    and the confirmation follow all the same, and are paid on top."""
    time_limit: float | None = None
    """No new cohort is started after this many seconds of this call; None for no limit."""
    stop: Stop = "trials"
    """"trials" ends the search after `trials`, "worth" also when going on is worth less than it costs: before a cohort
    or a further run of the finalists, if the expected gain of the choice, by the pooled estimates, is below `price`."""
    price: float = 0.01
    """Only with `stop="worth"`: the gain in score, a fraction, for which the whole budget of the search would be spent:
    `trials`, or `max_tokens` if it is less. Each step must gain its share: 8 of 40 trials at 0.01 a fifth of a point.
    0 never ends a search."""
    margin: float = 0.0
    """A difference in score, a fraction, that does not count: of finalists whose estimates are at most this much below
    the best, the cheapest wins. The confirmation allows a cheaper winner at least 0.01."""
    accept: Accept = "confident"
    """"confident" returns the winner only if it is confidently better on the confirmation, or as good for fewer tokens;
    "better" whenever it did better there."""
    storage: str | Path | None = None
    """Keeps calls and the trials as an Optuna study for several searches and machines: a folder that all of them see,
    or a `postgresql://` URL. None is `run_dir`, or memory without one."""
    study: str = "pdr"
    """The name of the Optuna study in `storage`; each search needs its own."""
    run_dir: Path | None = None
    """Keeps the journal, rows and results; a search with the same settings resumes from there. One process at a time
    drives the search of a folder."""
    max_in_flight: int = 64
    """Maximum requests in flight, of each process that runs rows."""
    max_text_bytes: int = MAX_TEXT_BYTES
    """Maximum bytes of questions, drafts, feedback and workspaces kept in `run_dir` for people to read; those of
    further runs are left out, and 0 keeps none."""

    @field_validator("time_limit", mode="before")
    @classmethod
    def _some_time(cls, seconds: Any) -> Any:
        if seconds is not None and not (is_number(seconds) and seconds > 0):
            raise ValueError(f"`RunOptions(time_limit={seconds!r})` must be above 0 seconds")
        return seconds

    @field_validator("stop", "accept", mode="before")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        one, other = get_args({"stop": Stop, "accept": Accept}[str(info.field_name)])
        if value not in (one, other):
            raise ValueError(f'`RunOptions({info.field_name}={value!r})` must be "{one}" or "{other}"')
        return value

    @field_validator("price", "margin", mode="before")
    @classmethod
    def _fraction(cls, value: Any, info: ValidationInfo) -> Any:
        if not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"`RunOptions({info.field_name}={value!r})` must be a difference of scores in [0, 1]")
        return value

    @field_validator("storage", mode="before")
    @classmethod
    def _known_storage(cls, storage: Any) -> Any:
        text = isinstance(storage, (str, Path)) and str(storage)
        if storage is not None and (not text or ("://" in text and not postgres.is_url(storage))):
            shown = postgres.shown(storage) if isinstance(storage, str) else storage
            raise ValueError(f'`RunOptions(storage={shown!r})` must be a folder or "postgresql://user@host/database"')
        return storage

    @field_validator("study", mode="before")
    @classmethod
    def _is_a_name(cls, study: Any) -> Any:
        if not isinstance(study, str):
            raise ValueError(f"`RunOptions(study={study!r})` must be a name")
        return study

    @model_validator(mode="before")
    @classmethod
    def _home_folders(cls, data: Any) -> Any:
        paths = {name: data[name] for name in ("storage", "run_dir") if isinstance(data.get(name), (str, Path))}
        return {**data, **{name: path if "://" in str(path) else local_path(path) for name, path in paths.items()}}

    @property
    def where(self) -> str:
        """The place of the journal, for messages."""
        return "memory" if self.run_dir is None else f"`{self.run_dir}`"

    @property
    def rollouts(self) -> str | Path | None:
        """The storage of the search's calls, for `Rollouts`."""
        place = self.run_dir if self.storage is None else self.storage
        if place is None or "://" in str(place):
            return place
        return Path(place) / "rollouts"


class Keywords(TypedDict, total=False):
    """The fields of `SearchSettings` and `RunOptions` as flat keywords of `PDROptimizer`."""

    space: AnySpace | Mapping[str, Space | None] | None
    """As `SearchSettings.space`; so are `seed` and `sampler`."""
    max_sequential: int | None
    """`SearchSettings.limits.sequential`: limit on the mean B_seq of a run, in tokens."""
    max_total: int | None
    """`SearchSettings.limits.total`: limit on the mean B_total of a run, in tokens."""
    max_cost: float | None
    """`SearchSettings.limits.cost`: limit on the mean cost of a run, in the unit of the models' prices."""
    pareto: bool
    """Whether `SearchSettings.objective` is "front"."""
    seed: int
    repeats: int
    """`Race.repeats`: maximum runs of each question in the race."""
    cohort: int
    """`Race.cohort`: candidates that race each other."""
    finalists: int
    """`Final.programs`: programs, besides the student, that run again on fresh seeds."""
    finalist_repeats: int
    """`Final.repeats`: maximum runs of each question for them."""
    confirm_repeats: int
    """`Confirm.repeats`: runs of each question in the confirmation."""
    sampler: SamplerName | Callable[[int], Any]
    prompts: int
    """`Instructions.count`: maximum instructions that a model writes for each role in a round."""
    prompt_rounds: int
    """`Instructions.rounds`: rounds of writing."""
    prompt_model: Any
    """`Instructions.model`: the LM that writes them."""
    prior: Prior | str | Path | Sequence[str | Path] | None
    """As `SearchSettings.prior`: the run folders of earlier searches."""
    trials: int
    """As `RunOptions.trials`; so are all that follow."""
    max_tokens: int | None
    time_limit: float | None
    stop: Stop
    price: float
    margin: float
    accept: Accept
    storage: str | Path | None
    study: str
    run_dir: str | Path | None
    max_in_flight: int
    max_text_bytes: int


class _Field(NamedTuple):
    """The field of a flat keyword."""

    section: str
    """A field of `SearchSettings` that has fields of its own; "" for `SearchSettings`, "options" for `RunOptions`."""
    field: str


PLACES: dict[str, _Field] = {
    **{name: _Field("", name) for name in ("space", "seed", "sampler", "prior")},
    "max_sequential": _Field("limits", "sequential"),
    "max_total": _Field("limits", "total"),
    "max_cost": _Field("limits", "cost"),
    "pareto": _Field("", "objective"),
    "repeats": _Field("race", "repeats"),
    "cohort": _Field("race", "cohort"),
    "finalists": _Field("final", "programs"),
    "finalist_repeats": _Field("final", "repeats"),
    "confirm_repeats": _Field("confirm", "repeats"),
    "prompts": _Field("instructions", "count"),
    "prompt_rounds": _Field("instructions", "rounds"),
    "prompt_model": _Field("instructions", "model"),
    **{name: _Field("options", name) for name in RunOptions.model_fields},
}


ELSEWHERE = {
    "reflection_lm": "prompt_model",
    "num_candidates": "prompts",
    "num_trials": "trials",
    "num_threads": "max_in_flight",
}
"""Names of DSPy's optimizers (GEPA, MIPROv2) for some of these keywords."""


class Given(NamedTuple):
    """The settings and options given to `PDROptimizer`."""

    settings: SearchSettings
    options: RunOptions


def from_keywords(
    keywords: Mapping[str, Any], settings: SearchSettings | None = None, options: RunOptions | None = None
) -> Given:
    """Settings and options with flat keywords applied; a keyword takes precedence over the value's own field.

    Raises ConfigError, naming the keyword, if it is unknown or invalid.
    """
    for name, value, kind in (("settings", settings, SearchSettings), ("options", options, RunOptions)):
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"`PDROptimizer({name}={value!r})` must be `{kind.__name__}(...)`")
    given = Given(settings or SearchSettings(), options or RunOptions())
    for name, value in keywords.items():
        if name not in PLACES:
            meant = f"use `{ELSEWHERE[name]}`" if name in ELSEWHERE else f"the keywords are {', '.join(PLACES)}"
            raise ConfigError(f"`PDROptimizer({name}={value!r})`: there is no `{name}`; {meant}")
        given = _with(given, name, value)
    return given


def _with(given: Given, name: str, value: Any) -> Given:
    """Apply one keyword."""
    section, field = PLACES[name]
    if name == "pareto":
        if not isinstance(value, bool):
            raise ConfigError(f"`PDROptimizer(pareto={value!r})` must be True or False")
        value = "front" if value else "score"
    if section == "limits":
        section, field, value = "", "limits", given.settings.limits._replace(**{field: value})
    inner: Any = given.options if section == "options" else getattr(given.settings, section) if section else None
    try:
        if section == "options":
            return given._replace(options=_changed(inner, field, value))
        changed = (field, value) if inner is None else (section, _changed(inner, field, value))
        return given._replace(settings=_changed(given.settings, *changed))
    except ConfigError as error:
        owner = type(inner).__name__ if inner is not None else "Limits" if field == "limits" else "SearchSettings"
        own = PLACES[name].field
        raise ConfigError(str(error).replace(f"`{owner}({own}=", f"`PDROptimizer({name}=", 1)) from None


def _changed(section: Any, field: str, value: Any) -> Any:
    """A copy of a frozen value with one field changed, validated again."""
    return type(section)(**{**{name: getattr(section, name) for name in type(section).model_fields}, field: value})


def keyword_of(path: tuple[str, ...]) -> str:
    """The flat keyword for a field of `SearchSettings`, given by its path; the path itself if there is none."""
    place = _Field("", path[0]) if len(path) == 1 else _Field(*path)
    same = {known: name for name, known in PLACES.items() if name != "pareto"}  # its value has another type
    return same.get(place, ".".join(path))
