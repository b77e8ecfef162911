"""Schedule: everything that decides what a program does and costs, as one frozen value.

A schedule is written by a person to start, written by the search when it ends, and read by `pdr run`: one format, JSON
both ways. The paper's notation g = [16, 8, 4] lists the widths before the final single call; here the final 1 is
written out, widths = (16, 8, 4, 1) (arXiv 2510.01123, section 3 and figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import (
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.consensus import fewest, needed
from pdr_dspy.operators.distillers import DISTILLERS, Distiller
from pdr_dspy.prompts.roles import Role
from pdr_dspy.settings import Settings

MAX_WIDTH = 256
"""Drafts of one round: the seeds of stages are this far apart."""
MIN_CANDIDATE_TOKENS = 24
"""A candidate's heading and the line of its answer; with less room than this a workspace says nothing."""


DISTILLER_FROM = "distiller_from"
"""In the data of a schedule: where a distiller that is not built in is defined, "module:attribute"."""
DISTILLER_PACKAGE = "distiller_package"
"""In the data of a schedule: the installed package that such a distiller came with."""


class Nominal(NamedTuple):
    """Tokens counted as the paper's figures count them: calls times the cap of a call (section 2.4 of the figures)."""

    sequential: int
    total: int


_LATER = (
    *("quorum", "agree", "json_fallback", "final", "check", "keep", "stop_at", "first_wave"),
    *("draft_model", "refine_model", "distill_model"),
)
"""Fields that came later: left out of the data where they are off, which keeps the data of older schedules."""


class Schedule(Settings):
    """Widths per round, the workspace's bound, the distiller, and the caps of each call.

    Raises ConfigError, naming the field, its value and the remedy, for a schedule that cannot be run.
    """

    widths: tuple[int, ...] = (4, 1)
    """Drafts per round, M_1 .. M_R. (1,) is Long CoT. In the paper the last is 1: its single draft is the answer. With
    another `final` it may be wider."""
    kappa: int = 2048
    """The most tokens, of the serving model, that a workspace may hold: |C| <= kappa."""
    distiller: str = "summary"
    """How the solutions of a round become the workspaces of the next: the name of a `Distiller`, built in (`summary`,
    `topk`, `topk_per_sample`, `random_k`, `checked`, `last`, and for analyses `oracle_correct`, `oracle_incorrect`,
    `oracle_random`), registered with `@pdr_dspy.distiller`, or of an installed package."""
    k: int = 2
    """Solutions that a workspace admits, for distillers that pick some (`Distiller.uses_k`)."""
    tally: bool = False
    """Begin a workspace with a line that says how often each answer came up among all drafts of its round. Not in the
    paper: a small model that cannot tell right from wrong can still see what its drafts agree on. `distiller="last"`,
    which hands on one solution, has nothing to count."""
    critique: bool = False
    """Only with `distiller="last"`: a call that lists the flaws of the solution before it is refined."""
    draft_tokens: int = 1024
    """Cap on the solution of a first-round draft, in output tokens."""
    refine_tokens: int | None = None
    """Cap on the solution of a later draft; None means `draft_tokens`."""
    distill_tokens: int | None = None
    """Cap on a distill, select or critique call; None means the smaller of `kappa` and `draft_tokens`."""
    thinking_tokens: int = 0
    """Room for a thinking model's thought, on top of each cap above. 0 for a model that does not think apart."""
    temperature: float = 1.0
    """Sampling temperature of drafts and refinements; the paper uses 1.0."""
    distill_temperature: float | None = None
    """Temperature of distill, select and critique calls; None means `temperature`."""
    top_p: float = 1.0
    quorum: float = 1.0
    """Go on when this fraction of a round's drafts is done, rounded up to whole drafts; the others are cancelled. In
    (0, 1]; 1.0 waits for all. Failed drafts do not count, unless nothing runs any more. Not in the paper: it trades the
    slowest drafts for latency. Drafts that can be cancelled go out as single requests, never as one request for n,
    which llama.cpp serves for less work: on one small machine waiting for all may be faster."""
    agree: float | None = None
    """End a round when its drafts agree: over the first drafts by index, as far as they are done without a gap, the
    probability that the leading answer stays ahead is at least this (`agreement.stays`; 0.95 asks for four equal
    answers in a row). The others are cancelled. As many drafts as were not waited for go to the next round on top of
    its width, except to the last round, which stays 1, and except under a limit on total tokens. In (0.5, 1); None
    never ends a round early. Which drafts a round goes on with does not depend on the order in which they finish, so a
    slow first draft is waited for. Drafts that are handed on are written again: where most were nearly done, a run
    costs more tokens than without. Not in the paper."""
    json_fallback: bool = True
    """Where a Literal, Enum, bool, list or model with fields cannot be read out of a draft that came to its end, ask
    for it in a short second request: the same messages, the draft, and a question for those fields, the answer to which
    is held to the schema of their JSON. Only where the server can hold a model to one; what a draft reasons is always
    free. The request is on the ledger, on the sequential path, and in what budgets reserve. (`dspy.ChatAdapter` has its
    `use_json_adapter_fallback`, which asks for all of the reply anew.) False takes such a draft for one without an
    answer. Not in the paper."""

    final: Literal["refine", "vote", "weighted", "best"] = "refine"
    """Which draft of the last round is the answer: its only one ("refine", the paper's), the first of the most common
    answer ("vote"; self-consistency, arXiv 2203.11171), the same with votes weighted by the check ("weighted"), or the
    one with the highest check ("best"; best-of-N)."""
    check: str | None = None
    """Which of the program's checks scores each draft, without the gold answer; None uses none. What it finds is shown
    to the next round with the solution. Not in the paper, as are `keep` and `stop_at`."""
    keep: bool = False
    """Answer with the best-checked draft of all rounds where that is better than the last round's pick."""
    stop_at: float | None = None
    """End the program with the first draft, by index, whose check is at least this, a fraction; drafts of its round
    that still run are cancelled at the server. Only questions on which no draft passes pay for more rounds. Drafts that
    can be cancelled go out as single requests, as with `quorum`."""
    first_wave: int | None = None
    """Ask for this many drafts of a round first, and for the others only when those neither reach `stop_at` nor
    `agree`: an easy question costs the first wave alone, a hard one the tokens of all and the time of two waves. None
    asks for all at once. Not in the paper: how many samples a question gets by how it goes is Adaptive-Consistency's
    question (arXiv 2305.11860), here with a check too."""

    draft_model: str | None = None
    """Which of the program's models (`models={"small": lm, "large": lm}`) writes first-round drafts; None is the LM
    that the program uses anyway."""
    refine_model: str | None = None
    """Which of them writes later drafts; None is the one that drafts."""
    distill_model: str | None = None
    """Which of them distills, selects or criticises; None is the one that drafts. Where several models are used,
    `kappa` counts tokens of the one that refines."""

    @model_validator(mode="before")
    @classmethod
    def _known_distiller(cls, data: Any) -> Any:
        """Data of a schedule with a distiller of somebody's own say where that was defined; see `_as_data`."""
        if not isinstance(data, Mapping) or not {DISTILLER_FROM, DISTILLER_PACKAGE} & set(data):
            return data
        name, origin, package = (data.get(key) for key in ("distiller", DISTILLER_FROM, DISTILLER_PACKAGE))
        if isinstance(origin, str) and name not in DISTILLERS:
            raise ValueError(f"`Schedule(distiller={name!r})`: {DISTILLERS.unknown(name, origin, package)}")
        return {key: value for key, value in data.items() if key not in (DISTILLER_FROM, DISTILLER_PACKAGE)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.widths:
            raise ValueError(
                "`Schedule(widths=...)` is empty; (1,) is a single pass, (4, 1) four drafts and a refinement"
            )
        if any(width < 1 for width in self.widths):
            raise ValueError(f"`Schedule(widths={self.widths})` has a width below 1; every round needs a draft")
        if self.widths[-1] != 1 and self.final == "refine":
            raise ValueError(
                f"`Schedule(widths={self.widths})` must end in 1: the last round's single draft is the answer; "
                f'did you mean {(*self.widths, 1)}, or `final="vote"`?'
            )
        if any(width > MAX_WIDTH for width in self.widths):
            raise ValueError(
                f"`Schedule(widths={self.widths})` has a width above {MAX_WIDTH}, the most that seeds are spaced for"
            )
        for name in ("kappa", "k", "draft_tokens", "refine_tokens", "distill_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`Schedule({name}={value})` must be at least 1")
        if self.thinking_tokens < 0:
            raise ValueError(f"`Schedule(thinking_tokens={self.thinking_tokens})` must be 0 or more")
        for name in ("temperature", "distill_temperature"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 2.0:
                raise ValueError(f"`Schedule({name}={value})` must be in [0, 2]")
        for name in ("top_p", "quorum"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"`Schedule({name}={getattr(self, name)})` must be in (0, 1]")
        if self.agree is not None and not 0.5 < self.agree < 1.0:
            raise ValueError(f"`Schedule(agree={self.agree})` must be above 0.5 and below 1, or None; 0.95 is common")
        if self.stop_at is not None and not 0.0 < self.stop_at <= 1.0:
            raise ValueError(f"`Schedule(stop_at={self.stop_at})` must be above 0 and at most 1, or None")
        for name in ("draft_model", "refine_model", "distill_model"):
            if getattr(self, name) == "":
                raise ValueError(f'`Schedule({name}="")` names no model; None uses no other')
        if self.first_wave is not None:
            self._check_first_wave(self.first_wave)
        if self.check == "":
            raise ValueError('`Schedule(check="")` names no check; None uses none')
        self._check_distiller()
        return self

    def _check_first_wave(self, first: int) -> None:
        given = f"`Schedule(first_wave={first})`"
        if not 1 <= first < max(self.widths):
            raise ValueError(
                f"{given} must be at least 1 and below the widest of `widths={self.widths}`: the others follow it"
            )
        if self.stop_at is None and self.agree is None:
            raise ValueError(f"{given} ends a round only with `stop_at` (and a check) or `agree`; set one, or None")
        if self.quorum < 1.0:
            raise ValueError(
                f"{given} and `quorum={self.quorum:g}` exclude each other: a quorum is of all drafts of a round"
            )

    def _check_distiller(self) -> None:
        if self.rounds == 1:  # nothing is distilled, so that nothing need be imported either
            if self.distiller not in DISTILLERS:
                raise ValueError(f"`Schedule(distiller={self.distiller!r})`: {DISTILLERS.unknown(self.distiller)}")
            return
        try:
            part = self.distill_by
        except ConfigError as error:
            raise ValueError(f"`Schedule(distiller={self.distiller!r})`: {error}") from error
        distilled = self.widths[:-1]
        if part.uses_k and self.k > min(distilled):
            raise ValueError(
                f"`Schedule(k={self.k})` is above a width of `widths={self.widths}`; a round of {min(distilled)} "
                f"drafts cannot give {self.k}: lower k or widen the round"
            )
        if part.chain and max(distilled) > 1:
            raise ValueError(
                f'`Schedule(distiller="{self.distiller}")` keeps one solution, so `widths={self.widths}` must be all '
                '1; choose "random_k", "topk" or "summary" for wider rounds'
            )
        if self.critique and not (part.chain and part.role is None):
            raise ValueError(f'`Schedule(critique=True)` needs `distiller="last"`, got {self.distiller!r}')
        least = MIN_CANDIDATE_TOKENS * (self.k if part.uses_k else 1)
        if self.kappa < least:
            raise ValueError(
                f"`Schedule(kappa={self.kappa})` is too small for `distiller={self.distiller!r}`"
                f"{f' with k={self.k}' if part.uses_k else ''}: it needs at least {least} tokens"
            )

    @model_serializer(mode="wrap")
    def _as_data(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that came later are left out where they are off: the data of older schedules stays as it was. With a
        distiller that is not built in goes where it is defined, for whoever reads the data without it."""
        data = handler(self)
        for name in _LATER:
            if name in data and data[name] == type(self).model_fields[name].default:
                del data[name]
        origin = DISTILLERS.origin(self.distiller)
        if "distiller" in data and origin is not None:
            data[DISTILLER_FROM] = origin
            if (package := DISTILLERS.package(self.distiller)) is not None:
                data[DISTILLER_PACKAGE] = package
        return data

    @property
    def distill_by(self) -> Distiller:
        """The distiller itself. Raises ConfigError for one that cannot be imported any more."""
        return DISTILLERS.find(self.distiller)

    @property
    def needs_check(self) -> str | None:
        """What of the schedule cannot work without a check, in code form; None when nothing needs one."""
        if self.final in ("weighted", "best"):
            return f"final={self.final!r}"
        if self.keep:
            return "keep=True"
        if self.rounds > 1 and self.distill_by.needs_check:
            return f"distiller={self.distiller!r}"
        return None if self.stop_at is None else f"stop_at={self.stop_at}"

    @property
    def strategy(self) -> str:
        """The named constructor that a schedule is a setting of."""
        if self.rounds == 1:
            if self.widths == (1,):
                return "LongCoT"
            return "BestOfN" if self.final == "best" else "SelfConsistency"
        return "SR" if self.distill_by.chain else "PDR"

    @property
    def may_end_early(self) -> bool:
        """Whether a round may go on before all its drafts are there."""
        if self.stop_at is not None:
            return True
        if self.agree is not None and max(self.widths) > fewest(self.agree):
            return True
        return any(needed(width, self.quorum) < width for width in self.widths)

    @property
    def rounds(self) -> int:
        """R, the number of rounds."""
        return len(self.widths)

    @property
    def refine_cap(self) -> int:
        """The cap of a later draft, in tokens."""
        return self.refine_tokens or self.draft_tokens

    @property
    def distill_cap(self) -> int:
        """The cap of a distill, select or critique call, in tokens."""
        return self.distill_tokens or min(self.kappa, self.draft_tokens)

    @property
    def distill_role(self) -> Role | None:
        """The role that is called between two rounds, a critique included; None where no model is."""
        if self.rounds == 1:
            return None
        return Role.CRITIQUE if self.critique else self.distill_by.role

    def model_of(self, role: Role) -> str | None:
        """The name of the model that a role's calls go to; None where it is the program's own."""
        own = {Role.DRAFT: self.draft_model, Role.REFINE: self.refine_model}.get(role, self.distill_model)
        return own or self.draft_model

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that a run uses, each once; the program's own has none."""
        return tuple(dict.fromkeys(name for role in self.roles if (name := self.model_of(role)) is not None))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that a run calls, which are the predictors that its operator holds."""
        if self.rounds == 1:
            return (Role.DRAFT,)
        between = self.distill_role
        return (Role.DRAFT, Role.REFINE) if between is None else (Role.DRAFT, Role.REFINE, between)

    def distill_calls(self, round_index: int, *, next_width: int | None = None) -> int:
        """Model calls made between round `round_index` (from 0) and the next one.

        Args:
            round_index: the round that is distilled.
            next_width: drafts of the next round, where they are not those of `widths`.
        """
        if round_index >= self.rounds - 1:
            return 0
        if self.critique:
            return 1
        return self.distill_by.calls(self.widths[round_index + 1] if next_width is None else next_width)

    @property
    def calls(self) -> int:
        """Model calls that a run makes when nothing fails, no budget ends it early, no draft is cancelled and none has
        to be asked again (`json_fallback`)."""
        return sum(self.widths) + sum(self.distill_calls(r) for r in range(self.rounds))

    @property
    def sequential_calls(self) -> int:
        """Model calls on the accepted path."""
        return self.rounds + sum(1 for r in range(self.rounds) if self.distill_calls(r))

    def nominal(self, per_call: int) -> Nominal:
        """Tokens as the paper's figures count them, `per_call` thinking tokens for each call.

        The figures charge a distilling model M_r calls a round, whatever the distiller, and count neither inputs nor
        the answer's own tokens: widths (16, 8, 4, 1) at 24,576 give 172,032 sequential and 1,400,832 total tokens.
        """
        charged = sum(self.widths[r] for r in range(self.rounds) if self.distill_calls(r))
        return Nominal(self.sequential_calls * per_call, (sum(self.widths) + charged) * per_call)

    def output_bound(self) -> Nominal:
        """The most output tokens that a run can generate: every call at its cap. Requests of `json_fallback`, which
        depend on the task and the server, come on top.

        With `agree` that is more in total than the widths say: drafts that are cancelled just before their end cost
        nearly a cap each, and are drafted again in the next round.
        """
        widths = self._widest()
        distill_stages = [self.distill_calls(r, next_width=widths[r + 1]) for r in range(self.rounds - 1)]
        distill_cap = self.distill_cap + self.thinking_tokens
        first, later = self.draft_tokens + self.thinking_tokens, self.refine_cap + self.thinking_tokens
        waves = [1 if self.first_wave is None or self.first_wave >= width else 2 for width in widths]
        sequential = first * waves[0] + sum(waves[1:]) * later + sum(1 for n in distill_stages if n) * distill_cap
        total = widths[0] * first + sum(widths[1:]) * later + sum(distill_stages) * distill_cap
        return Nominal(sequential, total)

    def _widest(self) -> list[int]:
        """The most drafts of each round: its width, and what earlier rounds may leave it."""
        widths, left = list(self.widths), 0
        if self.agree is not None:
            for number in range(self.rounds - 1):
                widths[number] = min(widths[number] + left, MAX_WIDTH)
                left = max(widths[number] - fewest(self.agree), 0)
        return widths

    def replace(self, **changes: Any) -> Schedule:
        """A copy with some fields changed, checked again."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Schedule(**{**values, **changes})

    def __str__(self) -> str:
        return f"{self._shape()}{self._checks()}{self._models()}"

    def _models(self) -> str:
        """Which models are used: one name where all roles have the same, else one for each role that has another."""
        if not self.models:
            return ""
        by_role = {role: self.model_of(role) for role in self.roles}
        if len(set(by_role.values())) == 1:
            return f" on {self.draft_model}"
        return " on " + ", ".join(f"{name or 'its own'} ({role})" for role, name in by_role.items())

    def _checks(self) -> str:
        """How checks and finals are told, each only where it is not the paper's."""
        final = f" final={self.final}" if self.final != "refine" and self.rounds > 1 else ""
        stop_at = "" if self.stop_at is None else f" stop_at={self.stop_at:g}"
        stop_at += "" if self.first_wave is None else f" first_wave={self.first_wave}"
        return f"{final}{f' check={self.check}' if self.check else ''}{' +keep' if self.keep else ''}{stop_at}"

    def _shape(self) -> str:
        if self.rounds == 1:
            if self.widths == (1,):
                return "LongCoT"
            return {"vote": "vote", "weighted": "weighted vote"}.get(self.final, "best") + f" of {self.widths[0]}"
        if self.distiller == "last":
            return f"SR x{self.rounds}{' +critique' if self.critique else ''}"
        k = f" k={self.k}" if self.distill_by.uses_k else ""
        tally = " +tally" if self.tally else ""
        quorum = f" quorum={self.quorum:g}" if self.quorum < 1.0 else ""
        agree = f" agree={self.agree:g}" if self.agree is not None else ""
        return f"PDR {'-'.join(map(str, self.widths))} {self.distiller}{k}{tally}{quorum}{agree} κ={self.kappa}"


PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"widths": (4, 1), "distiller": "random_k"},
    "balanced": {"widths": (8, 8, 1), "distiller": "random_k"},
    "quality": {"widths": (8, 4, 1), "distiller": "topk_per_sample"},
    "paper": {"widths": (16, 8, 4, 1), "distiller": "topk_per_sample"},
}
"""Shapes taken from the paper's frontier (figure 4): the cheapest good one, two wide rounds, and its best cells."""


def preset(name: str, **changes: Any) -> Schedule:
    """A schedule of `PRESETS` by name, with any field changed. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"`preset(name={name!r})` is unknown; choose one of {', '.join(PRESETS)}")
    return Schedule(**{**PRESETS[name], **changes})
