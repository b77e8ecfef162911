"""reasoning-gym's scorers, for its procedural sets."""

from __future__ import annotations

import importlib.util
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError, MissingExtra
from pdr_dspy.text.answers import tidy, to_number
from pdr_dspy.verifiers.arguments import check_threshold
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.fields import Fields, answer_text, called, lookup, short
from pdr_dspy.verifiers.grading_pool import ask

if TYPE_CHECKING:
    import dspy

_log = logging.getLogger("pdr_dspy.verifiers")
_LONGEST = 100_000
# These scorers pass the answer to Python's or sympy's evaluator. Their worker cannot write files or start processes;
# an answer that looks like code is not sent to it at all.
_EVALUATING = frozenset(
    {"string_insertion", "spiral_matrix", "number_sorting", "binary_matrix", "n_queens", "puzzle24", "countdown"}
    | {"simple_integration", "intermediate_integration", "polynomial_multiplication"}
)
_CODE = re.compile(
    r"__|[\"']\s*\.|\b(?:import|lambda|exec|eval|open|compile|getattr|setattr|globals|locals|vars|dir|type|object|input"
    r"|breakpoint|exit|quit|os|sys|subprocess|builtins|print|for|while|def|class|yield|await|system|popen)\b"
)


@explained
@dataclass(frozen=True)
class ProceduralVerifier(Fields):
    """Scores an answer to a problem of `datasets.load("rg:...")` by the scorer of its task.

    The scorers give partial credit to near misses: the score is 1 if their figure is at least `threshold`, else 0; with
    `threshold=None` it is their figure. An item gets `timeout` seconds and `memory` MB.
    """

    threshold: float | None = 1.0
    timeout: float = 10.0
    memory: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self, self.threshold)
        for name in ("timeout", "memory"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`ProceduralVerifier({name}={getattr(self, name)!r})` must be above 0")

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        task, entry, options = self._read(example)
        answer = answer_text(prediction, self.field)
        if answer is None:
            return Score(0, "no answer")
        return self._score(task, entry, options, answer)

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError if the example does not come from a procedural set or its gold answer does not score 1."""
        task, entry, options = self._read(example)
        score = self._ask(task, entry, options, entry["answer"])
        if not isinstance(score, float) or score < 1:
            raise DataError(f"{called(example)}: reasoning-gym's scorer of {task} does not accept the gold answer")

    def _read(self, example: dspy.Example) -> tuple[str, dict[str, Any], dict[str, Any]]:
        task, entry = lookup(example, "rg_dataset"), lookup(example, "rg_entry")
        if not isinstance(task, str) or not isinstance(entry, dict) or not isinstance(entry.get("answer"), str):
            raise DataError(
                f"{called(example)} lacks `rg_dataset` and `rg_entry`, which ProceduralVerifier grades against; "
                'they come with `datasets.load("rg:...")`'
            )
        return task, entry, dict(lookup(example, "rg_options") or {})

    def _score(self, task: str, entry: dict[str, Any], options: dict[str, Any], answer: str) -> Score:
        gold = entry["answer"].strip()
        if answer.strip() == gold or tidy(answer) == gold:
            return Score(1, "the gold answer")
        number = None if re.match(r"-?0\d", gold) else to_number(gold)
        if number is not None and to_number(answer) == number:
            return Score(1, "the gold number")
        if task in _EVALUATING and _CODE.search(answer):
            return Score(0, f"{short(answer)} is code, not an answer")
        found = self._ask(task, entry, options, tidy(answer) if "\n" not in answer else answer)
        if isinstance(found, str):
            return Score(0, found)
        value = found if self.threshold is None else float(found >= self.threshold - 1e-9)
        return Score(min(1.0, max(0.0, value)), f"{task} scores {short(answer)} {found:.3g}")

    def _ask(self, task: str, entry: dict[str, Any], options: dict[str, Any], answer: str) -> float | str:
        """The scorer's figure, or the reason why there is none."""
        if len(answer) > _LONGEST:
            return f"an answer of {len(answer):,} characters is not read"
        if importlib.util.find_spec("reasoning_gym") is None:
            raise MissingExtra("reasoning-gym", "data", "ProceduralVerifier")
        request = {"task": task, "entry": entry, "options": options, "answer": answer}
        reply = ask("procedural", request, timeout=self.timeout, memory=self.memory * 2**20)
        if "score" in reply:
            return reply["score"]
        reason = {"time": f"timed out after {self.timeout:g} s", "memory": f"needed more than {self.memory} MB"}
        detail = reason.get(reply["error"], f"the scorer failed: {reply.get('detail', 'its process ended')}")
        _log.warning("ProceduralVerifier: %s on %s", detail, short(answer))
        return detail
