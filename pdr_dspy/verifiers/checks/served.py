"""Scoring models: reward models, step reward models, and cross-encoders, as vLLM serves them.

    server = VLLMServer("Skywork/Skywork-Reward-V2-Qwen3-4B", pooling="classify")
    check = RewardModel(server.connect())

A failed request leaves the draft unchecked, with the reason; its tokens are still on the ledger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any, ClassVar, Literal

import dspy

from pdr_dspy import calls
from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.settings import is_number
from pdr_dspy.verifiers.arguments import check_lm
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import SOLUTION, SyncForm, bounded, checked, one_line
from pdr_dspy.verifiers.fields import as_text


def question_of(inputs: Mapping[str, Any], name: str | None) -> str:
    """The question as text for a model: one input, or all of them with their names.

    Raises DataError without an input.
    """
    if name is not None:
        text = as_text(inputs.get(name))
        if text is None or not text.strip():
            raise DataError(f"there is no input {name!r} to show; the inputs are {', '.join(inputs) or 'none'}")
        return text
    shown = {key: text for key, value in inputs.items() if (text := as_text(value)) is not None}
    if not shown:
        raise DataError("there are no inputs to show")
    return (
        next(iter(shown.values())) if len(shown) == 1 else "\n\n".join(f"{key}: {text}" for key, text in shown.items())
    )


def answer_of(outputs: Mapping[str, Any], name: str | None) -> str | None:
    """The answer as text for a model: one output, or the whole solution, else all outputs with their names.

    None for an empty answer.
    """
    if name is not None or isinstance(outputs.get(SOLUTION), str):
        text = as_text(outputs.get(name or SOLUTION))
    else:
        shown = {key: text for key, value in outputs.items() if (text := as_text(value)) is not None}
        text = next(iter(shown.values())) if len(shown) == 1 else "\n".join(f"{k}: {t}" for k, t in shown.items())
    return text if text and text.strip() else None


@dataclass(frozen=True)
class ModelCheck(SyncForm):
    """Base class of checks by a model."""

    lm: dspy.BaseLM | None = field(default=None, compare=False, repr=False)
    """The model; None for the one of `dspy.configure(lm=...)`."""
    time_limit: ClassVar[float | None] = None  # requests have their own
    prompt: str | None = field(default=None, kw_only=True)
    """The input with the question; None: all inputs."""
    field: str | None = field(default=None, kw_only=True)
    """The output with the answer; None: the draft as a whole, its steps and its answer."""

    def __post_init__(self) -> None:
        if self.lm is not None:
            check_lm(self, self.lm)

    @property
    def reads_solution(self) -> bool:
        """Whether the check reads a draft's full text beside its outputs."""
        return self.field is None

    def model(self) -> dspy.BaseLM:
        """The model. Raises ConfigError if none is set."""
        lm = self.lm or dspy.settings.lm
        if lm is None:
            raise ConfigError(f"`{type(self).__name__}` has no model: give it `lm=`, or `dspy.configure(lm=...)`")
        return lm

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the model's name in place of the model."""
        settings = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "lm"}
        return {"kind": type(self).__name__, **settings, "model": None if self.lm is None else self.lm.model}


def _squashed(value: float, center: float, spread: float) -> float:
    """Map an unbounded score to (0, 1), monotonically, with 0.5 at `center`."""
    z = (value - center) / spread
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def _number(value: Any, what: str) -> float:
    """A finite number of a response. Raises ValueError for anything else, such as NaN or null."""
    if not is_number(value) or not math.isfinite(value):
        raise ValueError(f"gave {value!r} as {what}, which is not a finite number")
    return float(value)


def _probability(value: Any, what: str, remedy: str) -> float:
    number = _number(value, what)
    if not -1e-6 <= number <= 1 + 1e-6:
        raise ValueError(f"gave {number:g} as {what}, which is not a probability; {remedy}")
    return min(1.0, max(0.0, number))


def _rows(data: Mapping[str, Any], name: str, count: int) -> list[Mapping[str, Any]]:
    """The entries of a response's list in the order of the request, each once. Raises ValueError otherwise."""
    rows = data.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"answered without a list `{name}`: {one_line(str(dict(data)), 120)}")
    placed = {row.get("index", place): row for place, row in enumerate(rows)}
    if len(rows) != count or placed.keys() != set(range(count)):
        raise ValueError(f"answered with {len(rows)} entries in `{name}` for {count} requested")
    return [placed[place] for place in range(count)]


def _scale(check: Any) -> None:
    if not (math.isfinite(check.center) and math.isfinite(check.spread) and check.spread > 0):
        raise ConfigError(
            f"`{type(check).__name__}(center={check.center!r}, spread={check.spread!r})` must be finite, `spread` "
            "above 0"
        )


@explained
@dataclass(frozen=True)
class RewardModel(ModelCheck):
    """Scores by a sequence classifier at vLLM's /classify, such as Skywork-Reward-V2, or a classifier with labels.

    The question is the user's turn and the answer the assistant's. An unbounded reward is mapped to a score in (0, 1),
    monotonically, with 0.5 at `center`. Serve it with `VLLMServer(model, pooling="classify")`.
    """

    label: int | None = None
    """For a classifier: the index of the label whose probability is the score. None: a single reward."""
    center: float = 0.0
    spread: float = 1.0
    """Scale of the reward: a reward this far above `center` scores 0.73."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _scale(self)
        if self.label is not None and (isinstance(self.label, bool) or self.label < 0):
            raise ConfigError(f"`RewardModel(label={self.label!r})` must be the index of a label, from 0, or None")

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score. Raises CallError if the model returns none, DataError without a question."""
        question, answer = question_of(inputs, self.prompt), answer_of(outputs, self.field)
        if answer is None:
            return Score(0, "no answer")
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        }
        if self.label is None:
            body["use_activation"] = False  # the unbounded reward
        value, call = await calls.post(self.model(), "/classify", body, self._read)
        if self.label is not None:
            return Score(value, f"label {self.label} with {value:.2f}", (call,))
        return Score(_squashed(value, self.center, self.spread), f"reward {value:.3g}", (call,))

    def _read(self, data: Mapping[str, Any]) -> float:
        (row,) = _rows(data, "data", 1)
        probs = row.get("probs")
        if not isinstance(probs, list) or not probs:
            raise ValueError("answered without `probs`")
        if self.label is None:
            if len(probs) != 1:
                raise ValueError(f"gave {len(probs)} figures, as a classifier with labels; choose one with `label=`")
            return _number(probs[0], "the reward")
        if self.label >= len(probs):
            raise ValueError(f"has {len(probs)} labels, and `label={self.label}` is none of them")
        return _probability(probs[self.label], f"label {self.label}", "is `use_activation` switched off at the server?")


_STEPS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


@explained
@dataclass(frozen=True)
class StepReward(ModelCheck):
    """Scores by the steps of a solution: a process reward model at vLLM's /pooling, such as Qwen2.5-Math-PRM
    (arXiv 2501.07301).

    Steps are the paragraphs of the draft. The feedback names the weakest step. Serve it with `VLLMServer(model,
    pooling="token_classify")`.
    """

    reduce: Literal["min", "mean", "last"] = "min"
    """The score of the steps: that of the weakest, their mean, or that of the last."""
    separator: str = "<extra_0>"
    """The text after each step, at which the model judges it."""
    system: str | None = "Please reason step by step, and put your final answer within \\boxed{}."
    """The system prompt that the model was trained with; None for no system prompt."""
    column: int = -1
    """Index of the probability that a step is good among the figures of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduce not in ("min", "mean", "last"):
            raise ConfigError(f'`StepReward(reduce={self.reduce!r})` must be "min", "mean" or "last"')
        if not self.separator:
            raise ConfigError('`StepReward(separator="")` separates nothing; Qwen2.5-Math-PRM has "<extra_0>"')

    def steps(self, answer: str) -> list[str]:
        """The paragraphs of a solution, without separators that the solution itself contains."""
        return [step.strip() for step in _STEPS.split(answer.replace(self.separator, " ")) if step.strip()]

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score, with the weakest step in the feedback. Raises CallError if the model returns none."""
        question, answer = question_of(inputs, self.prompt), answer_of(outputs, self.field)
        steps = [] if answer is None else self.steps(answer)
        if not steps:
            return Score(0, "no answer")
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": "".join(f"{step}{self.separator}" for step in steps)})

        def read(data: Mapping[str, Any]) -> list[float]:
            return self._read(data, len(steps))

        body = {"messages": messages, "task": "token_classify"}
        good, call = await calls.post(self.model(), "/pooling", body, read)
        value = {"min": min(good), "mean": fmean(good), "last": good[-1]}[self.reduce]
        weakest = min(range(len(good)), key=lambda place: good[place])
        where = f"step {weakest + 1} of {len(good)}"
        feedback = f"The weakest is {where}, with {good[weakest]:.2f}: {one_line(steps[weakest], 200)}"
        return Score(value, f"{where} is the weakest, {good[weakest]:.2f}", (call,), bounded([feedback]))

    def _read(self, data: Mapping[str, Any], count: int) -> list[float]:
        (entry,) = _rows(data, "data", 1)
        rows = entry.get("data")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
            raise ValueError("answered without a row of figures for each step; serve it with token_classify")
        if len(rows) != count:
            raise ValueError(
                f"judged {len(rows)} places of {count} steps: the model does not judge at "
                f"`separator={self.separator!r}`"
            )
        if not all(-len(row) <= self.column < len(row) for row in rows):
            raise ValueError(f"gave {len(rows[0])} figures for a step, none in `column={self.column}`")
        return [_probability(row[self.column], "a step", "it has to be served with its activation on") for row in rows]


@explained
@dataclass(frozen=True)
class ScoreModel(ModelCheck):
    """Scores how well the answer fits the question, by a cross-encoder at /score or /rerank of vLLM or llama.cpp.

    With "score" each answer is a separate request; with "rerank" the answers of a round are one request, whose tokens
    are all on the critical path. Serve it with `VLLMServer(model, pooling="classify")`.
    """

    endpoint: Literal["score", "rerank"] = "score"
    instruction: str | None = None
    """The meaning of "fits", for models that take an instruction."""
    logits: bool = False
    """Set it for a server with unbounded scores, such as llama.cpp; they are mapped to (0, 1), with 0.5 at `center`."""
    center: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _scale(self)
        if self.endpoint not in ("score", "rerank"):
            raise ConfigError(f'`ScoreModel(endpoint={self.endpoint!r})` must be "score" or "rerank"')

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score. Raises CallError if the model returns none, DataError without a question."""
        (score,) = await self._scores(inputs, [outputs])
        return score

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> list[Score | Exception]:
        """The scores of several answers to one question."""
        if self.endpoint == "rerank":
            return list(await self._scores(inputs, outputs))
        return await apart(self, inputs, outputs)

    async def _scores(self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score]:
        question = question_of(inputs, self.prompt)
        answers = [answer_of(one, self.field) for one in outputs]
        documents = [answer for answer in answers if answer is not None]
        found: list[float] = []
        made: tuple[calls.Call, ...] = ()
        if documents:
            query = {"queries": question} if self.endpoint == "score" else {"query": question}
            body: dict[str, Any] = {**query, "documents": documents}
            if self.instruction is not None:
                body["instruction"] = self.instruction
            if self.logits:
                body["use_activation"] = False
            found, call = await calls.post(
                self.model(), f"/{self.endpoint}", body, lambda data: self._read(data, len(documents))
            )
            made = (call,)
        left = iter(found)
        scores = []
        for answer in answers:
            if answer is None:
                scores.append(Score(0, "no answer"))
                continue
            raw = next(left)
            value = _squashed(raw, self.center, self.spread) if self.logits else raw
            scores.append(Score(value, f"score {raw:.3g}", made))
            made = ()  # a single request is on the ledger once
        return scores

    def _read(self, data: Mapping[str, Any], count: int) -> list[float]:
        rows, name = ("data", "score") if self.endpoint == "score" else ("results", "relevance_score")
        values = [row.get(name) for row in _rows(data, rows, count)]
        if self.logits:
            return [_number(value, "a score") for value in values]
        return [
            _probability(value, "a score", "pass `logits=True` for a server with unbounded scores") for value in values
        ]


async def apart(check: Any, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[Score | Exception]:
    """Check several answers separately and concurrently; a failure takes the place of the score."""

    async def one(each: Mapping[str, Any]) -> Score | Exception:
        try:
            return await checked(check, inputs, each)
        except (ConfigError, StoreError):  # of all drafts
            raise
        except Exception as error:
            return error

    return await calls.together([one(each) for each in outputs])
