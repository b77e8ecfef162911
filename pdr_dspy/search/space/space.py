"""The schedules, instructions and demonstrations that a search may choose from, as one frozen value.

Every axis is a tuple of candidates. Conditional parameters exist only where they mean something: kappa and the later
caps need a second round, a distiller a round that is wider than 1, k a distiller that uses it, critique a chain of
single drafts, a role's instructions and demonstrations a schedule that calls it. LongCoT (one round) and SR (all widths
1) are points of the same space as PDR.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.prompt_axes import PROMPTS, DemoSet, fewer, key_of, listed, more, only, shown
from pdr_dspy.settings import Settings

OWN = 0
"""The choice of a prompt parameter that stands for the student's own instructions or demonstrations."""

_WHOLE = ("monotone", *PROMPTS, "fixed")
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
    demos: dict[str, DemoSet] = {}  # noqa: RUF012  (nobody writes to it)
    """Role to demonstrations; a role that is not there keeps the student's own."""

    @property
    def key(self) -> str:
        """Equal for two candidates that make the same calls."""
        parts = [canonical(self.schedule).model_dump(mode="json"), self.instructions, self.demos]
        return json.dumps(parts, sort_keys=True)

    def __str__(self) -> str:
        changed = [f" + {', '.join(values)} {kind}" for kind in PROMPTS if (values := getattr(self, kind))]
        return f"{self.schedule}{''.join(changed)}"


class Space(Settings):
    """Candidates for each part of a program. Make one around a schedule with `Space.default_for(schedule)`.

    >>> space = Space.default_for(program.schedule).fix(kappa=512).narrow(rounds=(1, 2))
    >>> space = space.extend(instructions={"draft": ("Solve it backwards.",)})

    `print(space)` is a table of its axes. Raises ConfigError for an empty axis or a value that no schedule can have.
    """

    rounds: tuple[int, ...] = (1, 2, 3)
    """Rounds, the last single draft included. 1 is Long CoT."""
    widths: tuple[int, ...] = (1, 2, 4, 8)
    """Drafts of each round before the last. All 1 is Sequential Refinement."""
    monotone: bool = True
    """No round is wider than the one before it."""
    kappa: tuple[int, ...] = (2048,)
    """Bounds on the workspace, in tokens."""
    distiller: tuple[str, ...] = ("summary", "topk", "topk_per_sample", "random_k")
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
    tally: tuple[bool, ...] = (False,)
    """For rounds that are wider than 1."""
    quorum: tuple[float, ...] = (1.0,)
    """For rounds that are wider than 1: the share of a round's drafts that is waited for."""
    agree: tuple[float | None, ...] = (None,)
    """For rounds that are wider than 1: how sure it must be that the drafts agree before their round ends early."""
    critique: tuple[bool, ...] = (False,)
    """For chains of single drafts."""
    instructions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Texts for a role (`draft`, `refine`, `distill`, `select`, `critique`), besides the student's own."""
    demos: dict[str, tuple[DemoSet, ...]] = Field(default_factory=dict)
    """Sets of demonstrations for a role, besides the student's own: mappings (or `dspy.Example`s) of plain JSON data,
    from the names of the role's fields to values. Take them from other questions than the trials'; see `demos_of`."""
    fixed: tuple[str, ...] = ()
    """Prompt parameters, such as `draft_instructions`, that leave the student's own out. `fix` writes it."""

    def __init__(self, **values: Any) -> None:  # candidates may be lists and ranges too
        super().__init__(**values)

    @model_serializer(mode="wrap")
    def _as_data(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Axes that came later are left out where they are off: older searches go on with the same settings."""
        data = handler(self)
        for name, off in (("quorum", 1.0), ("agree", None)):
            if list(data.get(name, ())) == [off]:
                del data[name]
        return data

    @field_validator("demos", mode="before")
    @classmethod
    def _plain(cls, demos: Any) -> Any:
        return more("demos", {}, demos, method="Space") if isinstance(demos, Mapping) else demos

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
        try:
            parts = [DISTILLERS.find(name) for name in self.distiller]
        except ConfigError as error:
            raise ValueError(f"`Space(distiller={self.distiller})`: {error}") from error
        looks = [part.name for part in parts if part.needs_gold]
        if looks:
            raise ValueError(f"`Space(distiller=...)` has {looks[0]!r}, which looks at the gold answers; take it out")
        chains = [part.name for part in parts if part.chain]
        if chains and len(self.distiller) > 1:
            raise ValueError(
                f'`Space(distiller=...)` has "{chains[0]}" beside others; leave it out: all widths 1 always '
                "hand on the last"
            )
        if chains and max(self.widths) > 1:
            raise ValueError(f'`Space(distiller=("{chains[0]}",))` needs `widths=(1,)`')
        self._check_prompts()
        k = max(self.k) if any(part.uses_k for part in parts) else 1
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

    def _check_prompts(self) -> None:
        for kind in PROMPTS:
            for role, values in getattr(self, kind).items():
                if role not in set(Role):
                    raise ValueError(f"`Space({kind}=...)` names the role {role!r}; the roles are {', '.join(Role)}")
                keys = [key_of(value) for value in values]
                if len(set(keys)) != len(keys):
                    raise ValueError(f"`Space({kind}={{{role!r}: ...}})` has a candidate twice")
        blank = [role for role, texts in self.instructions.items() if not all(text.strip() for text in texts)]
        if blank:
            raise ValueError(f"`Space(instructions={{{blank[0]!r}: ...}})` has an empty text; take it out")
        for name in self.fixed:
            role, _, kind = name.partition("_")
            if kind not in PROMPTS or not getattr(self, kind).get(role):
                raise ValueError(f"`Space(fixed=...)` names {name!r}, for which there is no candidate")

    # --- making one ---

    @classmethod
    def default_for(cls, schedule: Schedule) -> Space:
        """A space around a schedule: its caps and temperature, shapes up to three rounds, all distillers."""
        single = ("draft_tokens", "refine_tokens", "distill_tokens", "thinking_tokens", "temperature")
        alone = (*single, "distill_temperature", "top_p", "tally", "quorum", "agree")
        kept: dict[str, Any] = {name: (getattr(schedule, name),) for name in alone}
        widths = sorted({1, 2, 4, 8} | set(schedule.widths[:-1]))
        own = schedule.distill_by
        ks = sorted({1, 2, 4} | {schedule.k}) if own.uses_k else [1, 2, 4]
        distillers = cls.model_fields["distiller"].default
        if not (own.chain or own.needs_gold or own.name in distillers):
            distillers = (*distillers, own.name)
        smaller = max(schedule.kappa // 2, MIN_CANDIDATE_TOKENS * max(ks))
        return cls(
            rounds=tuple(sorted({1, 2, 3, schedule.rounds})),
            widths=tuple(widths),
            monotone=_falls(schedule.widths),
            kappa=tuple(sorted({smaller, max(schedule.kappa, smaller)})),
            k=tuple(ks),
            distiller=distillers,
            critique=(False, True),
            **kept,
        )

    def fix(self, **values: Any) -> Space:
        """A copy in which each of the named axes has the one given value.

        Of `instructions` and `demos` each named role has the one given text or set, and None is the student's own; for
        all roles at once it is `instructions=None`.

        >>> space.fix(kappa=512, temperature=0.7, instructions={"draft": "Solve it backwards.", "refine": None})

        Raises ConfigError for several values where one is wanted, and as `Space` does.
        """
        self._known(values)
        changed: dict[str, Any] = {}
        fixed = set(self.fixed)
        for name, value in values.items():
            if name in PROMPTS:
                chosen = only(name, getattr(self, name), value)
                changed[name] = {**getattr(self, name), **chosen}
                for role, left in chosen.items():
                    (fixed.add if left else fixed.discard)(f"{role}_{name}")
            elif name not in _WHOLE and isinstance(value, (list, tuple, set, range)):
                raise ConfigError(
                    f"`Space.fix({name}={value!r})` is not one value; use `narrow` or `extend` for several"
                )
            else:
                changed[name] = value if name in _WHOLE else (value,)
        return self._replace({"fixed": tuple(sorted(fixed)), **changed})

    def narrow(self, **values: Any) -> Space:
        """A copy with fewer candidates on the named axes; of `instructions` and `demos`, for the named roles.

        >>> space.narrow(widths=(1, 2), instructions={"draft": ()})

        The student's own instructions and demonstrations stay. Raises ConfigError for a candidate that was not there.
        """
        self._known(values)
        changed: dict[str, Any] = {}
        for name, kept in values.items():
            if name == "monotone" and self.monotone and not kept:
                raise ConfigError("`Space.narrow(monotone=False)` allows more; use `extend`")
            if name in PROMPTS:
                changed[name] = fewer(name, getattr(self, name), kept)
            elif name in _WHOLE:
                changed[name] = kept
            else:
                changed[name] = listed(f"Space.narrow({name}={kept!r})", kept)
                new = [value for value in changed[name] if value not in getattr(self, name)]
                if new:
                    raise ConfigError(
                        f"`Space.narrow({name}=...)` has {new[0]!r}, which is not in {getattr(self, name)}; "
                        "use `extend`"
                    )
        gone = {f"{role}_{kind}" for kind in PROMPTS for role, left in changed.get(kind, {}).items() if not left}
        return self._replace({"fixed": tuple(name for name in self.fixed if name not in gone), **changed})

    def extend(self, **values: Any) -> Space:
        """A copy with more candidates on the named axes; of `instructions` and `demos`, for the named roles.

        >>> space.extend(kappa=(4096,), instructions=proposals.instructions)
        """
        self._known(values)
        changed: dict[str, Any] = {}
        for name, added in values.items():
            if name == "monotone" and not self.monotone and added:
                raise ConfigError("`Space.extend(monotone=True)` allows less; use `narrow`")
            if name in PROMPTS:
                changed[name] = more(name, getattr(self, name), added)
            elif name in _WHOLE:
                changed[name] = added
            else:
                added = listed(f"Space.extend({name}={added!r})", added)
                changed[name] = tuple(dict.fromkeys((*getattr(self, name), *added)))
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
        if values.get("critique") or (rounds > 1 and DISTILLERS.find(distiller).role):
            for name in ("distill_tokens", "distill_temperature"):
                values[name] = pick(name, getattr(self, name))
        if "k" in values:
            values["k"] = min(values["k"], *shape[:-1])
        schedule = Schedule(**values)
        chosen: dict[str, dict[str, Any]] = {kind: {} for kind in PROMPTS}
        for kind, role in self._prompts(schedule):
            choice = pick(f"{role}_{kind}", self._choices(kind, role))
            if choice != OWN:
                chosen[kind][role] = getattr(self, kind)[role][choice - 1]
        return Candidate(schedule, **chosen)

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The parameters for which `suggest` gives `candidate`, or None when it is not in this space."""
        params = _Recorded(self, candidate._replace(schedule=canonical(candidate.schedule)))
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
            prompts = self._prompts(schedule)
            for choices in itertools.product(*(self._choices(kind, role) for kind, role in prompts)):
                chosen: dict[str, dict[str, Any]] = {kind: {} for kind in PROMPTS}
                for (kind, role), choice in zip(prompts, choices, strict=True):
                    if choice != OWN:
                        chosen[kind][role] = getattr(self, kind)[role][choice - 1]
                candidate = Candidate(schedule, **chosen)
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
            total += math.prod(len(self._choices(kind, role)) for kind, role in self._prompts(schedule))
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
            model = point.get("critique") or (len(shape) > 1 and DISTILLERS.find(distiller).role)
            for rest in itertools.product(*(getattr(self, name) for name in later)) if model else [()]:
                extra = dict(zip(later, rest, strict=False))
                settings: dict[str, Any] = {**point, **extra}
                yield Schedule(widths=shape, distiller=distiller, **settings)

    def _distillers(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        if len(shape) == 1:
            return (Schedule.model_fields["distiller"].default,)
        if not _chain(shape):
            return self.distiller
        return tuple(name for name in self.distiller if DISTILLERS.find(name).chain) or ("last",)

    def _axes(self, shape: tuple[int, ...], distiller: str) -> list[str]:
        """The axes that mean something for a shape and distiller, those of distill calls left out."""
        names = ["draft_tokens", "thinking_tokens", "temperature", "top_p"]
        if len(shape) > 1:
            names += ["kappa", "refine_tokens"]
            if DISTILLERS.find(distiller).uses_k:
                names.append("k")
            if not DISTILLERS.find(distiller).chain:
                names += ["tally", "quorum", "agree"]
        return names

    def _prompts(self, schedule: Schedule) -> list[tuple[str, str]]:
        """(kind, role) of the prompt parameters that a schedule has."""
        called = [role for role in Role if role in schedule.roles]
        return [(kind, role.value) for kind in PROMPTS for role in called if getattr(self, kind).get(role)]

    def _choices(self, kind: str, role: str) -> tuple[int, ...]:
        first = 1 if f"{role}_{kind}" in self.fixed else OWN
        return tuple(range(first, len(getattr(self, kind)[role]) + 1))

    # --- reading it ---

    def describe(self) -> str:
        """A table for people: each axis, its candidates, and when it applies."""
        rows = [("axis", "candidates", "applies")]
        for name, applies in _APPLIES.items():
            own = _NONE.get(name, "none")
            values = ", ".join(own if value is None else str(value) for value in getattr(self, name))
            rows.append((name, values, applies))
            if name == "widths":
                rows[-1] = (name, values + (", never rising" if self.monotone else ", in any order"), applies)
        for kind in PROMPTS:
            for role, values in getattr(self, kind).items():
                own = [] if f"{role}_{kind}" in self.fixed or not values else ["the student's own"]
                texts = [shown(value) for value in values]
                if values:
                    rows.append((f"{role} {kind}", ", ".join(own + texts), _CALLED[Role(role)]))
        widths = [min(max(len(row[column]) for row in rows), 60) for column in (0, 1)]
        return "\n".join(
            f"{axis:<{widths[0]}}  {values:<{widths[1]}}  {applies}".rstrip() for axis, values, applies in rows
        )

    def __str__(self) -> str:
        return self.describe()


_APPLIES = {
    "rounds": "always",
    "widths": "each round before the last",
    "distiller": "where a round is wider than 1",
    "k": "distillers topk, topk_per_sample and random_k",
    "tally": "where a round is wider than 1",
    "quorum": "where a round is wider than 1",
    "agree": "where a round is wider than 1",
    "critique": "several rounds, all of width 1",
    "kappa": "from 2 rounds on",
    "draft_tokens": "always",
    "refine_tokens": "from 2 rounds on",
    "distill_tokens": "where a model distills or criticises",
    "thinking_tokens": "always, on top of each cap",
    "temperature": "always",
    "distill_temperature": "where a model distills or criticises",
    "top_p": "always",
}
_NONE = {
    "refine_tokens": "as draft_tokens",
    "distill_tokens": "the smaller of kappa and draft_tokens",
    "distill_temperature": "as temperature",
    "agree": "waits for all",
}
_CALLED = {
    Role.DRAFT: "always",
    Role.REFINE: "from 2 rounds on",
    Role.DISTILL: "distiller summary",
    Role.SELECT: "distillers topk and topk_per_sample",
    Role.CRITIQUE: "critique",
}


def canonical(schedule: Schedule) -> Schedule:
    """The schedule with every field that plays no part at its default: equal for schedules that make the same calls."""
    return _canonical(schedule)  # type: ignore[arg-type]  (frozen models are hashable, which pyright does not see)


@functools.lru_cache(maxsize=16_384)
def _canonical(schedule: Schedule) -> Schedule:
    played = {"widths", "draft_tokens", "thinking_tokens", "temperature", "top_p"}
    if schedule.rounds > 1:
        played |= {"kappa", "refine_tokens", "distiller"}
        if schedule.distill_by.uses_k:
            played.add("k")
        played.add("critique" if schedule.distill_by.chain else "tally")
        if max(schedule.widths) > 1:
            played |= {"quorum", "agree"}
        if schedule.distill_role is not None:
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

    def __init__(self, space: Space, candidate: Candidate) -> None:
        self.space = space
        self.candidate = candidate
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
        schedule = self.candidate.schedule
        if name == "rounds":
            return schedule.rounds
        if name.startswith("width_"):
            return schedule.widths[int(name.removeprefix("width_")) - 1]
        role, _, kind = name.partition("_")
        if kind in PROMPTS:
            value = getattr(self.candidate, kind).get(role)
            keys = [key_of(one) for one in getattr(self.space, kind)[role]]
            return OWN if value is None else 1 + keys.index(key_of(value)) if key_of(value) in keys else None
        return getattr(schedule, name)
