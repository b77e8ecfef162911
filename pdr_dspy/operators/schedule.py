"""Schedule: everything that determines a program's calls and cost, as one frozen value.

A schedule is written by a person at first and by the search at its end, and read by `pdr run`: one format, JSON both
ways. The paper's notation g = [16, 8, 4] lists the widths before the final single call; here the final 1 is written
out, widths = (16, 8, 4, 1) (arXiv 2510.01123, section 3 and figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import (
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pdr_dspy.arguments import explained_with
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.consensus import fewest, needed
from pdr_dspy.operators.distillers import DISTILLERS, Distiller
from pdr_dspy.prompts.roles import Role
from pdr_dspy.settings import Settings

MAX_WIDTH = 256
"""Maximum drafts of one round: the distance between the seeds of stages."""
MIN_CANDIDATE_TOKENS = 24
"""Tokens of a candidate's heading and its answer; a smaller workspace is useless."""


DISTILLER_FROM = "distiller_from"
"""In the data of a schedule: where a distiller that is not built in is defined, "module:attribute"."""
DISTILLER_PACKAGE = "distiller_package"
"""In the data of a schedule: the installed package that provides such a distiller."""


class Nominal(NamedTuple):
    """Tokens as the paper's figures count them: calls times the cap of a call (section 2.4 of the figures)."""

    sequential: int
    total: int


_LATER = (
    *("quorum", "agree", "json_fallback", "final", "check", "keep", "stop_at", "first_wave", "next_wave"),
    *("draft_model", "refine_model", "distill_model"),
)
"""Fields added later: omitted from the data at their defaults, which keeps the data of older schedules."""


class Schedule(Settings):
    """Widths per round, the bound of the workspace, the distiller, and the caps of each call.

    Raises ConfigError, naming the field, its value and the remedy, for an invalid schedule.
    """

    widths: tuple[int, ...] = (4, 1)
    """Drafts per round, M_1 .. M_R. (1,) is Long CoT. In the paper the last is 1: its single draft is the answer. With
    another `final` it may be wider."""
    kappa: int = 2048
    """Maximum tokens of a workspace, as the serving model counts them: |C| <= kappa."""
    distiller: str = "summary"
    """Turns the solutions of a round into the workspaces of the next: the name of a `Distiller`, built in (`summary`,
    `topk`, `topk_per_sample`, `random_k`, `checked`, `last`, and for analyses `oracle_correct`, `oracle_incorrect`,
    `oracle_random`), registered with `@pdr_dspy.distiller`, or from an installed package."""
    k: int = 2
    """Number of solutions in a workspace, for distillers that select some (`Distiller.uses_k`)."""
    tally: bool = False
    """Begin a workspace with a line that states how often each answer came up among all drafts of its round. Not in the
    paper: a small model that cannot tell right from wrong can still see on which answer its drafts agree.
    `distiller="last"`, which passes on one solution, has nothing to count."""
    critique: bool = False
    """Only with `distiller="last"`: a call that lists the flaws of the solution before it is refined."""
    draft_tokens: int = 1024
    """Cap on the solution of a first-round draft, in output tokens."""
    refine_tokens: int | None = None
    """Cap on the solution of a later draft; None means `draft_tokens`."""
    distill_tokens: int | None = None
    """Cap on a distill, select or critique call; None means the smaller of `kappa` and `draft_tokens`."""
    thinking_tokens: int = 0
    """Additional tokens for a thinking model's thought, on top of each cap above. 0 for a model without separate
    thinking."""
    temperature: float = 1.0
    """Sampling temperature of drafts and refinements; the paper uses 1.0."""
    distill_temperature: float | None = None
    """Temperature of distill, select and critique calls; None means `temperature`."""
    top_p: float = 1.0
    quorum: float = 1.0
    """Continue when this fraction of a round's drafts has finished, rounded up to whole drafts; the others are
    cancelled. In (0, 1]; 1.0 waits for all. Failed drafts do not count, unless no draft still runs. Not in the paper:
    it trades the slowest drafts for latency. Drafts that can be cancelled are sent as single requests, never as one
    request for n, which llama.cpp serves with less work: on one small machine waiting for all may be faster."""
    agree: float | None = None
    """End a round when its drafts agree: over the first drafts by index that have finished without a gap, the
    probability that the leading answer stays ahead is at least this (`agreement.stays`; 0.95 needs four equal answers
    in a row). The others are cancelled. The next round gets as many additional drafts as were not waited for, except
    the last round, which stays 1, and except under a limit on total tokens. In (0.5, 1); None never ends a round early.
    The drafts that a round continues with do not depend on the order in which they finish, so a slow first draft is
    waited for. The additional drafts are new calls: if most cancelled drafts were nearly done, a run costs more tokens
    than without this setting. Not in the paper."""
    json_fallback: bool = True
    """If a Literal, Enum, bool, list or model with fields cannot be read from a complete draft, request it in a short
    second request: the same messages, the draft, and a question for those fields, whose answer the server constrains to
    the schema of their JSON. Only if the server can do that; the draft's reasoning is never constrained. The request is
    on the ledger, on the sequential path, and in the tokens that budgets reserve. (`dspy.ChatAdapter` has its
    `use_json_adapter_fallback`, which requests the whole reply again.) With False such a draft has no answer. Not in
    the paper."""

    final: Literal["refine", "vote", "medoid", "weighted", "best"] = "refine"
    """Selects the answer among the drafts of the last round: its only draft ("refine", the paper's), the first draft of
    the most common answer ("vote"; self-consistency, arXiv 2203.11171), the draft whose answer is most like the others'
    ("medoid"; for code and prose, where equal answers are rare; minimum Bayes risk, arXiv 2310.01387), a vote weighted
    by the check ("weighted"), or the draft with the highest check ("best"; best-of-N). A last round of one draft leaves
    nothing to select: there it decides only where the answer comes from an earlier round (see `Stop`)."""
    check: str | None = None
    """The name of the program's check that scores each draft, without the gold answer; None uses none. Its result is
    shown to the next round with the solution. Not in the paper, like `keep` and `stop_at`."""
    keep: bool = False
    """Answer with the best-checked draft of all rounds if that is better than the last round's selection."""
    stop_at: float | None = None
    """End the program with the first draft, by index, whose check is at least this fraction; drafts of its round that
    still run are cancelled at the server. Only questions on which no draft passes pay for more rounds. Drafts that can
    be cancelled are sent as single requests, as with `quorum`."""
    first_wave: int | None = None
    """Make this many drafts of a round first, and the others only if those neither reach `stop_at` nor `agree`: an easy
    question costs only the first wave, a hard one the tokens of all drafts and the time of two waves. None makes all at
    once. Not in the paper: adapting the number of samples to a question is Adaptive-Consistency's idea (arXiv
    2305.11860), here with a check too."""
    next_wave: int | None = None
    """With `first_wave`: so many drafts follow at a time, each time only if those before decide nothing yet; with 1
    each draft waits for the one before, which costs the fewest tokens and the most time. None makes all others in a
    second wave."""

    draft_model: str | None = None
    """The name of the program's model (`models={"small": lm, "large": lm}`) that writes first-round drafts; None is the
    program's default LM."""
    refine_model: str | None = None
    """The name of the model that writes later drafts; None is the one that drafts."""
    distill_model: str | None = None
    """The name of the model that distills, selects or criticises; None is the one that drafts. With several models,
    `kappa` counts tokens of the one that refines."""

    @model_validator(mode="before")
    @classmethod
    def _known_distiller(cls, data: Any) -> Any:
        """Check a distiller that is not built in: the data contain its origin; see `_as_data`."""
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
                f"`Schedule(widths={self.widths})` has a width above {MAX_WIDTH}, the maximum for the spacing of seeds"
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
        if self.next_wave is not None and (self.first_wave is None or self.next_wave < 1):
            raise ValueError(
                f"`Schedule(next_wave={self.next_wave})` must be at least 1 and follows a `first_wave`; set that too, "
                "or None for all other drafts at once"
            )
        if self.check == "":
            raise ValueError('`Schedule(check="")` names no check; None uses none')
        self._check_distiller()
        return self

    def _check_first_wave(self, first: int) -> None:
        given = f"`Schedule(first_wave={first})`"
        if not 1 <= first < max(self.widths):
            raise ValueError(
                f"{given} must be at least 1 and below the widest of `widths={self.widths}`: the other drafts follow it"
            )
        if self.stop_at is None and self.agree is None:
            raise ValueError(f"{given} ends a round only with `stop_at` (and a check) or `agree`; set one, or None")
        if self.quorum < 1.0:
            raise ValueError(
                f"{given} and `quorum={self.quorum:g}` exclude each other: a quorum counts all drafts of a round"
            )

    def _check_distiller(self) -> None:
        if self.rounds == 1:  # nothing is distilled, so nothing has to be imported
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
        """Omit later fields at their defaults: the data of older schedules stays unchanged. For a distiller that is not
        built in, add where it is defined, for readers without it."""
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
        """The distiller itself. Raises ConfigError if it can no longer be imported."""
        return DISTILLERS.find(self.distiller)

    @property
    def needs_check(self) -> str | None:
        """The setting that needs a check, as code; None if none does."""
        if self.final in ("weighted", "best"):
            return f"final={self.final!r}"
        if self.keep:
            return "keep=True"
        if self.rounds > 1 and self.distill_by.needs_check:
            return f"distiller={self.distiller!r}"
        return None if self.stop_at is None else f"stop_at={self.stop_at}"

    @property
    def strategy(self) -> str:
        """The named constructor whose settings this schedule has."""
        if self.rounds == 1:
            if self.widths == (1,):
                return "LongCoT"
            return "BestOfN" if self.final == "best" else "SelfConsistency"
        return "SR" if self.distill_by.chain else "PDR"

    @property
    def may_end_early(self) -> bool:
        """Whether a round may continue before all its drafts have finished."""
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
        """The role that is called between two rounds, including a critique; None if no model is called."""
        if self.rounds == 1:
            return None
        return Role.CRITIQUE if self.critique else self.distill_by.role

    def model_of(self, role: Role) -> str | None:
        """The name of a role's model; None if it is the program's default."""
        own = {Role.DRAFT: self.draft_model, Role.REFINE: self.refine_model}.get(role, self.distill_model)
        return own or self.draft_model

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that a run uses, without duplicates; the program's default has none."""
        return tuple(dict.fromkeys(name for role in self.roles if (name := self.model_of(role)) is not None))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that a run calls, which are the predictors of its operator."""
        if self.rounds == 1:
            return (Role.DRAFT,)
        between = self.distill_role
        return (Role.DRAFT, Role.REFINE) if between is None else (Role.DRAFT, Role.REFINE, between)

    def distill_calls(self, round_index: int, *, next_width: int | None = None) -> int:
        """Model calls made between round `round_index` (from 0) and the next one.

        Args:
            round_index: the distilled round.
            next_width: drafts of the next round, if other than in `widths`.
        """
        if round_index >= self.rounds - 1:
            return 0
        if self.critique:
            return 1
        return self.distill_by.calls(self.widths[round_index + 1] if next_width is None else next_width)

    @property
    def calls(self) -> int:
        """Model calls of a run without failures, early ends by a budget, cancelled drafts and fallback requests
        (`json_fallback`)."""
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

    def waves(self, width: int) -> int:
        """The maximum number of waves in which a round of `width` drafts is made; see `first_wave` and `next_wave`."""
        return self.wave_of(width - 1) + 1

    def wave_of(self, place: int) -> int:
        """The wave, from 0, in which the draft with this place in its round, from 0, is made."""
        if self.first_wave is None or place < self.first_wave:
            return 0
        return 1 if self.next_wave is None else 1 + (place - self.first_wave) // self.next_wave

    def output_bound(self) -> Nominal:
        """The maximum output tokens that a run can generate: every call at its cap. Requests of `json_fallback`, which
        depend on the task and the server, are not included.

        With `agree` the total may exceed that of the widths: drafts that are cancelled just before their end cost
        nearly a cap each, and are made again in the next round.
        """
        widths = self._widest()
        distill_stages = [self.distill_calls(r, next_width=widths[r + 1]) for r in range(self.rounds - 1)]
        distill_cap = self.distill_cap + self.thinking_tokens
        first, later = self.draft_tokens + self.thinking_tokens, self.refine_cap + self.thinking_tokens
        waves = [self.waves(width) for width in widths]
        sequential = first * waves[0] + sum(waves[1:]) * later + sum(1 for n in distill_stages if n) * distill_cap
        total = widths[0] * first + sum(widths[1:]) * later + sum(distill_stages) * distill_cap
        return Nominal(sequential, total)

    def _widest(self) -> list[int]:
        """The maximum drafts of each round: its width, and the additional drafts from earlier rounds."""
        widths, left = list(self.widths), 0
        if self.agree is not None:
            for number in range(self.rounds - 1):
                widths[number] = min(widths[number] + left, MAX_WIDTH)
                left = max(widths[number] - fewest(self.agree), 0)
        return widths

    def replace(self, **changes: Any) -> Schedule:
        """A copy with some fields changed, validated again."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Schedule(**{**values, **changes})

    def __str__(self) -> str:
        return f"{self._shape()}{self._checks()}{self._models()}"

    def _models(self) -> str:
        """The models in use: one name if all roles have the same, otherwise one for each role with another model."""
        if not self.models:
            return ""
        by_role = {role: self.model_of(role) for role in self.roles}
        if len(set(by_role.values())) == 1:
            return f" on {self.draft_model}"
        return " on " + ", ".join(f"{name or 'its own'} ({role})" for role, name in by_role.items())

    def _checks(self) -> str:
        """Checks and finals in text form, each only if it differs from the paper's."""
        chosen = self.final != "refine" and self.rounds > 1 and self.widths[-1] > 1
        final = f" final={self.final}" if chosen else ""
        stop_at = "" if self.stop_at is None else f" stop_at={self.stop_at:g}"
        stop_at += "" if self.first_wave is None else f" first_wave={self.first_wave}"
        stop_at += "" if self.next_wave is None else f" next_wave={self.next_wave}"
        return f"{final}{f' check={self.check}' if self.check else ''}{' +keep' if self.keep else ''}{stop_at}"

    def _shape(self) -> str:
        if self.rounds == 1:
            if self.widths == (1,):
                return "LongCoT"
            return f"{'weighted vote' if self.final == 'weighted' else self.final} of {self.widths[0]}"
        if self.distiller == "last":
            return f"SR x{self.rounds}{' +critique' if self.critique else ''}"
        k = f" k={self.k}" if self.distill_by.uses_k else ""
        tally = " +tally" if self.tally else ""
        quorum = f" quorum={self.quorum:g}" if self.quorum < 1.0 else ""
        agree = f" agree={self.agree:g}" if self.agree is not None else ""
        return f"PDR {'-'.join(map(str, self.widths))} {self.distiller}{k}{tally}{quorum}{agree} κ={self.kappa}"


def until_checked(tokens: int, *, kappa: int) -> Schedule:
    """Eight drafts, ended early when the check passes one; else one more draft, which reads the two best and their
    results.

    Args:
        tokens: cap on each draft and refinement.
        kappa: bound on the workspace, in tokens.
    """
    return Schedule(
        widths=(8, 1),
        distiller="checked",
        k=2,
        keep=True,
        stop_at=1.0,
        kappa=kappa,
        draft_tokens=tokens,
        refine_tokens=tokens,
        temperature=0.8,
    )


AT_ONCE: dict[str, Any] = {"first_wave": None, "next_wave": None}
"""Changes to a schedule after which each round makes all drafts at once: waves need `stop_at` or `agree`, and width."""
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"widths": (4, 1), "distiller": "random_k"},
    "balanced": {"widths": (8, 8, 1), "distiller": "random_k"},
    "quality": {"widths": (8, 4, 1), "distiller": "topk_per_sample"},
    "paper": {"widths": (16, 8, 4, 1), "distiller": "topk_per_sample"},
}
"""Shapes from the paper's frontier (figure 4): the cheapest good one, two wide rounds, and its best cells."""


@explained_with(lambda: Schedule.model_fields)
def preset(name: str, **changes: Any) -> Schedule:
    """A schedule of `PRESETS` by name, with any field changed. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"`preset(name={name!r})` is unknown; choose one of {', '.join(PRESETS)}")
    return Schedule(**{**PRESETS[name], **changes})
