"""The schedules and instructions that a search may choose from, as one frozen value.

Every axis is a tuple of candidates. Conditional parameters exist only where they mean something: kappa and the later
caps need a second round, a distiller a round that is wider than 1, k a distiller that uses it, critique a chain of
single drafts. LongCoT (one round) and SR (all widths 1) are points of the same space as PDR.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pdr_dspy.errors import ConfigError, config_error
from pdr_dspy.schedule import CALLS_MODEL, MIN_CANDIDATE_TOKENS, ORACLES, USES_K, DistillerName, Schedule
from pdr_dspy.signatures import Role

OWN = 0
"""The choice of an instruction axis that stands for the student's own instructions."""


_WHOLE = ("monotone", "instructions")
"""Fields that are one value rather than an axis of candidates."""


class Suggests(Protocol):
    """What a trial must be able to do; `optuna.trial.BaseTrial` can."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of `choices`."""
        ...


class Candidate(NamedTuple):
    """One point of a space."""

    schedule: Schedule
    instructions: dict[str, str]
    """Role to text; a role that is not there keeps the student's own."""

    @property
    def key(self) -> str:
        """Equal for two candidates that make the same calls."""
        return json.dumps([canonical(self.schedule).model_dump(mode="json"), self.instructions], sort_keys=True)

    def __str__(self) -> str:
        changed = f" + {', '.join(self.instructions)} instructions" if self.instructions else ""
        return f"{self.schedule}{changed}"


class Space(BaseModel):
    """Candidates for each part of a schedule. Make one around a schedule with `Space.default_for(schedule)`.

    >>> space = Space.default_for(program.schedule).fix(kappa=512).narrow(rounds=(1, 2))

    Raises ConfigError for an empty axis or a value that no schedule can have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: tuple[int, ...] = (1, 2, 3)
    """Rounds, the last single draft included. 1 is Long CoT."""
    widths: tuple[int, ...] = (1, 2, 4, 8)
    """Drafts of each round before the last. All 1 is Sequential Refinement."""
    monotone: bool = True
    """No round is wider than the one before it."""
    kappa: tuple[int, ...] = (2048,)
    """Bounds on the workspace, in tokens."""
    distiller: tuple[DistillerName, ...] = ("summary", "topk", "topk_per_sample", "random_k")
    """For rounds that are wider than 1; chains of single drafts always hand on the last solution."""
    k: tuple[int, ...] = (2,)
    """Solutions that are admitted; at most the narrowest distilled round."""
    draft_tokens: tuple[int, ...] = (1024,)
    """Caps of first-round drafts, in tokens."""
    refine_tokens: tuple[int | None, ...] = (None,)
    """Caps of later drafts; None is `draft_tokens`."""
    distill_tokens: tuple[int | None, ...] = (None,)
    """Caps of distill, select and critique calls; None is the smaller of `kappa` and `draft_tokens`."""
    thinking_tokens: tuple[int, ...] = (0,)
    temperature: tuple[float, ...] = (1.0,)
    distill_temperature: tuple[float | None, ...] = (None,)
    top_p: tuple[float, ...] = (1.0,)
    critique: tuple[bool, ...] = (False,)
    """For chains of single drafts."""
    instructions: dict[str, tuple[str, ...]] = {}
    """Texts for a role (`draft`, `refine`, `distill`, `select`, `critique`), besides the student's own."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config_error("Space", error) from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        axes = [name for name in type(self).model_fields if name not in _WHOLE]
        for name in axes:
            values = getattr(self, name)
            if not values:
                raise ValueError(f"`Space({name}=())` is empty; give at least one candidate")
            if len(set(values)) != len(values):
                raise ValueError(f"`Space({name}={values})` has a candidate twice")
        if min(self.rounds) < 1 or max(self.rounds) > 16:
            raise ValueError(f"`Space(rounds={self.rounds})` must be from 1 to 16")
        looks = [name for name in self.distiller if name in ORACLES]
        if looks:
            raise ValueError(f"`Space(distiller=...)` has {looks[0]!r}, which looks at the gold answers; take it out")
        if "last" in self.distiller and len(self.distiller) > 1:
            raise ValueError(
                '`Space(distiller=...)` has "last" beside others; leave it out: all widths 1 always hand on the last'
            )
        if self.distiller == ("last",) and max(self.widths) > 1:
            raise ValueError('`Space(distiller=("last",))` needs `widths=(1,)`')
        unknown = [name for name in self.instructions if name not in set(Role)]
        if unknown:
            raise ValueError(
                f"`Space(instructions=...)` names the role {unknown[0]!r}; the roles are {', '.join(Role)}"
            )
        k = max(self.k) if USES_K & set(self.distiller) else 1
        least = MIN_CANDIDATE_TOKENS * min(k, max(self.widths))
        if max(self.rounds) > 1 and min(self.kappa) < least:
            raise ValueError(f"`Space(kappa={self.kappa})` goes below the {least} tokens that `k={self.k}` needs")
        for field, values in ((name, getattr(self, name)) for name in axes if name not in ("rounds", "distiller")):
            for value in values:  # each value alone in a schedule that can have it
                shape = {"widths": (value, 1)} if field == "widths" else {field: value}
                context = {"distiller": "last"} if field == "critique" else {"distiller": "random_k", "k": 1}
                wide = {"widths": (1, 1)} if field == "critique" else {"widths": (256, 1)}
                try:
                    Schedule(**{**wide, **context, **shape})
                except ConfigError as error:
                    raise ValueError(f"`Space({field}={values})`: {error}") from None
        return self

    # --- making one ---

    @classmethod
    def default_for(cls, schedule: Schedule) -> Space:
        """A space around a schedule: its caps and temperature, shapes up to three rounds, all distillers."""
        single = ("draft_tokens", "refine_tokens", "distill_tokens", "thinking_tokens", "temperature")
        kept: dict[str, Any] = {name: (getattr(schedule, name),) for name in (*single, "distill_temperature", "top_p")}
        widths = sorted({1, 2, 4, 8} | set(schedule.widths[:-1]))
        ks = sorted({1, 2, 4} | {schedule.k}) if schedule.distiller in USES_K else [1, 2, 4]
        smaller = max(schedule.kappa // 2, MIN_CANDIDATE_TOKENS * max(ks))
        return cls(
            rounds=tuple(sorted({1, 2, 3, schedule.rounds})),
            widths=tuple(widths),
            monotone=_falls(schedule.widths),
            kappa=tuple(sorted({smaller, max(schedule.kappa, smaller)})),
            k=tuple(ks),
            critique=(False, True),
            **kept,
        )

    def fix(self, **values: Any) -> Space:
        """A copy in which each of the named axes has the one given value; `monotone` and `instructions` as they are.

        >>> space.fix(kappa=512, temperature=0.7)
        """
        self._known(values)
        return self._replace({name: value if name in _WHOLE else (value,) for name, value in values.items()})

    def narrow(self, **values: Sequence[Any]) -> Space:
        """A copy with fewer candidates on the named axes. Raises ConfigError for one that was not there."""
        self._known(values)
        for name, kept in values.items():
            new = [value for value in kept if value not in getattr(self, name)]
            if new and name not in _WHOLE:
                raise ConfigError(
                    f"`Space.narrow({name}=...)` has {new[0]!r}, which is not in {getattr(self, name)}; use `extend`"
                )
        return self._replace({name: tuple(kept) if name not in _WHOLE else kept for name, kept in values.items()})

    def extend(self, **values: Any) -> Space:
        """A copy with more candidates on the named axes; for `instructions`, more texts of each named role."""
        self._known(values)
        changed: dict[str, Any] = {}
        for name, more in values.items():
            if name == "instructions":
                roles = {*self.instructions, *more}
                merged = {role: (*self.instructions.get(role, ()), *more.get(role, ())) for role in roles}
                changed[name] = {role: tuple(dict.fromkeys(texts)) for role, texts in sorted(merged.items())}
            elif name == "monotone":
                changed[name] = more
            else:
                changed[name] = tuple(dict.fromkeys((*getattr(self, name), *more)))
        return self._replace(changed)

    def _known(self, values: Mapping[str, Any]) -> None:
        unknown = [name for name in values if name not in type(self).model_fields]
        if unknown:
            raise ConfigError(f"`Space` has no axis {unknown[0]!r}; it has {', '.join(type(self).model_fields)}")

    def _replace(self, changes: Mapping[str, Any]) -> Space:
        return Space(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    # --- choosing from it ---

    def suggest(self, trial: Suggests) -> Candidate:
        """One candidate, asked of an Optuna trial parameter by parameter. Axes with one value are not asked for."""

        def pick(name: str, values: Sequence[Any]) -> Any:
            return values[0] if len(values) == 1 else trial.suggest_categorical(name, values)

        rounds = pick("rounds", self.rounds)
        widths: list[int] = []
        for number in range(1, rounds):
            width = pick(f"width_{number}", self.widths)
            widths.append(min(width, widths[-1]) if self.monotone and widths else width)
        shape = (*widths, 1)
        distillers = self._distillers(shape)
        distiller = distillers[0] if len(distillers) == 1 else pick("distiller", distillers)
        values: dict[str, Any] = {"widths": shape, "distiller": distiller}
        for name in self._axes(shape, distiller):
            values[name] = pick(name, getattr(self, name))
        if self.critique != (False,) and _chain(shape):
            values["critique"] = pick("critique", self.critique)
        if values.get("critique") or (rounds > 1 and distiller in CALLS_MODEL):
            for name in ("distill_tokens", "distill_temperature"):
                values[name] = pick(name, getattr(self, name))
        if "k" in values:
            values["k"] = min(values["k"], *shape[:-1])
        schedule = Schedule(**values)
        texts: dict[str, str] = {}
        for role in self._roles(schedule):
            chosen = trial.suggest_categorical(f"{role}_instructions", tuple(range(len(self.instructions[role]) + 1)))
            if chosen != OWN:
                texts[role] = self.instructions[role][chosen - 1]
        return Candidate(schedule, texts)

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The parameters for which `suggest` gives `candidate`, or None when it is not in this space."""
        params = _Recorded(self, canonical(candidate.schedule), candidate.instructions)
        try:
            found = self.suggest(params)
        except (ConfigError, LookupError):
            return None
        return params.given if found.key == candidate.key else None

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Schedule):
            item = Candidate(item, {})
        return isinstance(item, Candidate) and self.params_of(item) is not None

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate once, small shapes first."""
        seen: set[str] = set()
        for schedule in self.schedules():
            roles = self._roles(schedule)
            for texts in itertools.product(*([None, *self.instructions[role]] for role in roles)):
                chosen = {role: text for role, text in zip(roles, texts, strict=True) if text is not None}
                candidate = Candidate(schedule, chosen)
                if candidate.key not in seen:
                    seen.add(candidate.key)
                    yield candidate

    def schedules(self) -> Iterator[Schedule]:
        """Every schedule once, small shapes first."""
        for rounds in sorted(self.rounds):
            for widths in self._widths(rounds - 1):
                shape = (*widths, 1)
                for distiller in self._distillers(shape):
                    yield from self._points(shape, distiller)

    def _widths(self, count: int) -> Iterable[tuple[int, ...]]:
        if not self.monotone:
            return itertools.product(sorted(self.widths), repeat=count)
        return sorted(itertools.combinations_with_replacement(sorted(self.widths, reverse=True), count))

    @property
    def size(self) -> int:
        """How many different candidates there are."""
        total = 0
        for schedule in self.schedules():
            count = 1
            for role in self._roles(schedule):
                count *= len(self.instructions[role]) + 1
            total += count
        return total

    def _points(self, shape: tuple[int, ...], distiller: str) -> Iterator[Schedule]:
        axes = {name: list(getattr(self, name)) for name in self._axes(shape, distiller)}
        if "k" in axes:
            axes["k"] = list(dict.fromkeys(min(k, *shape[:-1]) for k in axes["k"]))
        if _chain(shape):
            axes["critique"] = list(self.critique)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            later = ("distill_tokens", "distill_temperature")
            model = point.get("critique") or (len(shape) > 1 and distiller in CALLS_MODEL)
            for more in itertools.product(*(getattr(self, name) for name in later)) if model else [()]:
                extra = dict(zip(later, more, strict=False))
                yield Schedule(widths=shape, distiller=distiller, **point, **extra)

    def _distillers(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        if len(shape) == 1:
            return (Schedule.model_fields["distiller"].default,)
        return ("last",) if _chain(shape) else self.distiller

    def _axes(self, shape: tuple[int, ...], distiller: str) -> list[str]:
        """The axes that mean something for a shape and distiller, those of distill calls left out."""
        names = ["draft_tokens", "thinking_tokens", "temperature", "top_p"]
        if len(shape) > 1:
            names += ["kappa", "refine_tokens"]
            if distiller in USES_K:
                names.append("k")
        return names

    def _roles(self, schedule: Schedule) -> list[str]:
        """The roles that a schedule calls and for which there are texts."""
        called = {"draft"}
        if schedule.rounds > 1:
            called |= {"refine"}
            called |= {"distill"} if schedule.distiller == "summary" else set()
            called |= {"select"} if schedule.distiller in ("topk", "topk_per_sample") else set()
            called |= {"critique"} if schedule.critique else set()
        return [role.value for role in Role if role.value in called and self.instructions.get(role.value)]


def canonical(schedule: Schedule) -> Schedule:
    """The schedule with every field that plays no part at its default: equal for schedules that make the same calls."""
    return _canonical(schedule)  # type: ignore[arg-type]  (frozen models are hashable, which pyright does not see)


@functools.lru_cache(maxsize=16_384)
def _canonical(schedule: Schedule) -> Schedule:
    played = {"widths", "draft_tokens", "thinking_tokens", "temperature", "top_p"}
    if schedule.rounds > 1:
        played |= {"kappa", "refine_tokens", "distiller"}
        if schedule.distiller in USES_K:
            played.add("k")
        if schedule.distiller == "last":
            played.add("critique")
        if schedule.critique or schedule.distiller in CALLS_MODEL:
            played |= {"distill_tokens", "distill_temperature"}
    values = {name: getattr(schedule, name) for name in played}
    if values.get("refine_tokens") == schedule.draft_tokens:
        values["refine_tokens"] = None
    k = {} if "k" in played else {"k": 1}
    return Schedule(**{**k, **values})


def _chain(shape: Sequence[int]) -> bool:
    """Several rounds of one draft each."""
    return len(shape) > 1 and max(shape) == 1


def _falls(widths: Sequence[int]) -> bool:
    return all(a >= b for a, b in itertools.pairwise(widths))


class _Recorded:
    """A trial that answers with the parts of a given candidate, and keeps what it answered."""

    def __init__(self, space: Space, schedule: Schedule, instructions: Mapping[str, str]) -> None:
        self.space = space
        self.schedule = schedule
        self.instructions = instructions
        self.given: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._value(name)
        if name == "k" and value not in choices:  # k is cut to the narrowest round: any larger one gives the same
            value = next((choice for choice in choices if choice >= value), value)
        if value not in choices:
            raise LookupError(name)
        self.given[name] = value
        return value

    def _value(self, name: str) -> Any:
        if name == "rounds":
            return self.schedule.rounds
        if name.startswith("width_"):
            return self.schedule.widths[int(name.removeprefix("width_")) - 1]
        if name.endswith("_instructions"):
            role = name.removesuffix("_instructions")
            text = self.instructions.get(role)
            return OWN if text is None else 1 + self.space.instructions[role].index(text)
        return getattr(self.schedule, name)
