"""Validation of requests: an unsupported parameter is refused by name, never silently dropped."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import Annotated, Any, Literal

import dspy
import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pdr_dspy.calls import Budget
from pdr_dspy.endpoint.errors import wrong
from pdr_dspy.endpoint.limits import Limits
from pdr_dspy.endpoint.programs import task_of
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import DISTILLERS, Operator, Schedule


def _whole(value: Any) -> Any:
    """Accept floats that are whole numbers: JSON does not distinguish 7.0 from 7."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
    return int(value) if exact else value


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_whole)]

IGNORED = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p"),
    *("repetition_penalty", "chat_template_kwargs"),
    *("user", "metadata", "store", "service_tier", "verbosity", "prompt_cache_key", "prompt_cache_retention"),
    *("safety_identifier", "prediction"),
)
"""Accepted without effect, which the response says: a tuned program's schedule determines the sampling."""
REFUSED = {
    "tools": "tools are not supported; `pdr serve --ignore-tools` answers without calling any",
    "functions": "functions are not supported",
    "tool_choice": "tools are not supported",
    "function_call": "functions are not supported",
    "audio": "audio is not supported",
    "web_search_options": "there is no web search",
    "logprobs": "log probabilities are not supported",
    "top_logprobs": "log probabilities are not supported",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    """A field of OpenAI's API."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """`text`, or `json_object` for the outputs as a JSON object."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object"] = "text"


class ScheduleChanges(_Strict):
    """Fields of the program's schedule that this request changes."""

    widths: list[Count] | None = Field(None, min_length=1, max_length=64)
    kappa: Count | None = None
    distiller: str | None = None
    k: Count | None = None
    tally: bool | None = None
    draft_tokens: Count | None = None
    refine_tokens: Count | None = None
    distill_tokens: Count | None = None
    thinking_tokens: Annotated[int, Field(ge=0), BeforeValidator(_whole)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    distill_temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    quorum: Share | None = None
    agree: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    final: Literal["refine", "vote", "medoid", "weighted", "best"] | None = None
    keep: bool | None = None
    stop_at: Share | None = None
    first_wave: Count | None = None
    next_wave: Count | None = None


class Options(_Strict):
    """A request's options for its run; `extra_body={"pdr": {...}}` of OpenAI's client."""

    budget_total: Count | None = None
    """Tokens of all calls, of all `n` choices together."""
    budget_seq: Count | None = None
    """Sequential tokens of a run."""
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds from now to the answer."""
    seed: Seed | None = None
    schedule: ScheduleChanges | None = None
    reasoning: Literal["reasoning", "reasoning_content", "none"] = "reasoning"
    """The field for progress messages."""


class ProgramRequest(_Strict):
    """The body of `POST /v1/programs/{name}`."""

    inputs: dict[str, Any]
    pdr: Options | None = None
    reasoning_effort: str | None = None
    max_completion_tokens: Count | None = None


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`: the parameters with an effect."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    stop: str | list[str] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    reasoning_effort: str | None = None
    seed: Seed | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    pdr: Options | None = None


def read_body(raw: bytes) -> dict[str, Any]:
    """A body as a JSON object. Raises Refused (400)."""
    try:
        data = orjson.loads(raw)
    except ValueError as error:
        raise wrong(f"the body is not JSON: {error}", None, "invalid_json") from None
    if not isinstance(data, dict):
        raise wrong("the body is not a JSON object", None, "invalid_json")
    return data


def read_chat(data: dict[str, Any], *, ignore_tools: bool = False) -> tuple[ChatRequest, list[str]]:
    """A chat request, and its parameters without effect. Raises Refused (400).

    Args:
        data: the body.
        ignore_tools: see `Limits.ignore_tools`.
    """
    ignored = [name for name in IGNORED if data.get(name) is not None]
    for name, why in REFUSED.items():
        value = data.get(name)
        if ignore_tools and name in ("tools", "functions") and value and isinstance(value, list):
            ignored.append(name)
            continue
        harmless = value in (None, False, [], 0) or (
            name in ("tool_choice", "function_call") and value in ("none", "auto")
        )
        if not harmless:
            raise wrong(why, name, "unsupported")
    dropped = {*IGNORED, *REFUSED}
    return _model(ChatRequest, {name: value for name, value in data.items() if name not in dropped}), ignored


def read_program(data: dict[str, Any]) -> ProgramRequest:
    """A request to a program by its signature's fields. Raises Refused (400)."""
    return _model(ProgramRequest, data)


def _model(kind: Any, data: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise wrong(f"there is no parameter `{place}`", place, "unknown_parameter") from None
        raise wrong(f"`{place}`: {first['msg']}", place) from None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings for running one request."""

    program: dspy.Module
    task: type[dspy.Signature]
    budget: Budget
    """The budget of each choice."""
    seed: int
    """Seed of the first choice; the others count up from it."""
    deadline: float
    """Deadline, by `time.monotonic()`."""
    seconds: float
    """Seconds from the request to the deadline."""
    left_out: tuple[str, ...] = ()
    """Parameters that have no effect on this program."""


def plan(
    program: dspy.Module, options: Options | None, limits: Limits, *, cap: int | None, seed: int | None, n: int = 1
) -> Plan:
    """The settings that a request asks for, within the server's limits. Raises Refused (400) for those beyond them.

    Args:
        program: the served program.
        options: the request's.
        limits: the server's.
        cap: maximum tokens of the answer.
        seed: of the request itself, used if its options have none.
        n: choices.
    """
    options = options or Options()
    if n > limits.choices:
        raise wrong(f"`n={n}` is above this server's {limits.choices}", "n")
    left_out: tuple[str, ...] = ()
    if options.schedule is not None:
        if not isinstance(program, Operator):
            raise wrong("this program is a module of several steps; its schedules are its own", "pdr.schedule")
        program = _changed(program, options.schedule, limits)
    if cap is not None and isinstance(program, Operator):
        program = _capped(program, cap)
    elif cap is not None:  # which of its calls writes the answer is the module's own business
        left_out = ("max_completion_tokens",)
    total, sequential = _least(options.budget_total, limits.budget_total), _least(options.budget_seq, limits.budget_seq)
    if total is not None:
        total //= n
        if total < 1:
            raise wrong(
                f"`budget_total={options.budget_total}` is below one token for each of {n} choices", "pdr.budget_total"
            )
    seconds = min(options.deadline or limits.seconds, limits.seconds)
    requested = options.seed if options.seed is not None else seed
    return Plan(
        program,
        task_of(program),
        Budget(total=total, sequential=sequential),
        secrets.randbelow(2**31) if requested is None else requested,
        time.monotonic() + seconds,
        seconds,
        left_out,
    )


def _least(requested: int | None, limit: int | None) -> int | None:
    known = [value for value in (requested, limit) if value is not None]
    return min(known, default=None)


def _changed(program: Operator, changes: ScheduleChanges, limits: Limits) -> Operator:
    given = changes.model_dump(exclude_none=True)
    distiller = given.get("distiller")
    foreign = distiller not in DISTILLERS or DISTILLERS.origin(distiller or "") is not None
    if distiller not in (None, program.schedule.distiller) and (foreign or distiller.startswith("oracle")):
        raise wrong(f"`distiller={distiller[:40]!r}` is not one of the library's own", "pdr.schedule.distiller")
    if "widths" in given:
        given["widths"] = tuple(given["widths"])
    try:
        schedule = program.schedule.replace(**given)
        changed = program.with_schedule(schedule)
    except ConfigError as error:
        raise wrong(str(error), "pdr.schedule") from None
    caps = ("kappa", "draft_tokens", "refine_tokens", "distill_tokens", "thinking_tokens")
    above = [name for name in caps if name in given and given[name] > limits.call_tokens]
    if above:
        raise wrong(
            f"`{above[0]}={given[above[0]]}` is above this server's {limits.call_tokens}", f"pdr.schedule.{above[0]}"
        )
    if schedule.calls > max(limits.calls, program.schedule.calls):
        raise wrong(
            f"the schedule makes {schedule.calls} calls; this server allows {limits.calls}", "pdr.schedule.widths"
        )
    return changed


def _capped(program: Operator, cap: int) -> Operator:
    """The program with a lower cap on the call that writes its answer."""
    schedule: Schedule = program.schedule
    if schedule.rounds == 1:
        if schedule.draft_tokens <= cap:
            return program
        return program.with_schedule(schedule.replace(draft_tokens=cap))
    if schedule.refine_cap <= cap:
        return program
    return program.with_schedule(schedule.replace(refine_tokens=cap))
