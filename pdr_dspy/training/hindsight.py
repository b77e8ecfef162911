"""What both exports of hindsight share: turns that were made with the gold answer in view, under prompts without it.

Self-trained verification (arXiv 2605.30290): a model that sees the gold answer tells right drafts from wrong ones, and
then learns to say the same without it. The prompts are those that the program sends at inference, rendered by the
program itself; the gold answer decides what the assistant's turn says, and is nowhere in the example.

The assistant's turn is the label alone, in the form of the program's own reply, or with `teacher` the turn of a model
that reads the reference answer too. A teacher's turn is kept only if the verifier agrees with it and it does not speak
of the reference.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import dspy

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, DataError, PDRError, StoreError
from pdr_dspy.evaluation import ids_of
from pdr_dspy.evaluation.records import Row, read_rows
from pdr_dspy.evaluation.runner import gold_of, inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.form import label
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import signature_of
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.raised_by import in_words
from pdr_dspy.text import clean
from pdr_dspy.training.export_sft import Exported, Sample
from pdr_dspy.training.replay import Replay, Replayed, evaluation_config
from pdr_dspy.verifiers import RIGHT, Verifier
from pdr_dspy.verifiers.base import verdict

logger = logging.getLogger("pdr_dspy")

_COUNTED = (
    "rows",
    "examples_without_row",
    "no_choice",
    "no_answer",
    "duplicates",
    "not_stored",
    "other_prompt",
    "disagreed",
    "leaked",
    "failed",
    "ungraded",
)
"""Beside `picks` or `verdicts`, the samples: rows; examples without a finished row; rows whose drafts are all right or
all wrong (picks), or all failed; drafts without an answer to judge, failed ones among them (verdicts); equal samples;
rows without a stored draft, or whose drafts are other calls of this program; turns of the teacher that the verifier
disagrees with, that speak of the reference, or that failed; and rows (picks) or drafts (verdicts) that the verifier
failed on."""
_TOLD = re.compile(r"\breference\b|\bgold(?:en)?\b", re.IGNORECASE)
REFERENCE = "reference_answer"
_BY_REFERENCE = """\
You are also given a reference answer, which is right. Decide by it, but give only reasons that can be seen in the
problem and the candidates themselves, and do not mention the reference."""


class Turn(NamedTuple):
    """One call as the program sends it, and the assistant's turn to learn; None if there is nothing to learn."""

    messages: list[dict[str, Any]]
    text: str | None
    reason: str = ""
    """Why there is no turn: a name of `_COUNTED`."""


class Maker(Protocol):
    """Makes the turns of an export."""

    program: Operator
    """Whose first round is run again."""

    @property
    def kind(self) -> Literal["pick", "verdict"]:
        """What a turn is."""
        ...

    def begin(self) -> None:
        """Called before the replay of each row."""

    def turns(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[Turn]:
        """The calls of a row, as turns to learn."""
        ...


def replays(
    run_dir: str | Path, examples: Sequence[dspy.Example], maker: Maker
) -> Iterator[tuple[Row, dspy.Example, Replayed | str]]:
    """The rows of these examples, each with its first round run again, or the count of why it was not."""
    folder = local_path(run_dir)
    config = evaluation_config(folder)
    known = dict(zip(ids_of(examples), examples, strict=True))
    rows = list(read_rows(folder / "rows.jsonl").values())
    if not any(row.id in known for row in rows):
        raise StoreError(
            f"{folder} has no finished row for these {len(known)} examples; give the data of its evaluation"
        )
    with Rollouts(folder / "rollouts") as store:
        replay = Replay(maker.program, store, config.get("models") or ["replay/model"], begin=maker.begin)
        for row in sorted(rows, key=lambda row: (row.id, row.repeat)):
            if row.id in known:
                yield row, known[row.id], replay.run(row, inputs_of(maker.program, known[row.id]))


def exported(run_dir: str | Path, examples: Sequence[dspy.Example], maker: Maker) -> Exported:
    """The turns of all rows, without copies, and the counts of those that are left out."""
    counts: Counter[str] = Counter(dict.fromkeys((f"{maker.kind}s", *_COUNTED), 0))
    samples: list[Sample] = []
    seen: set[str] = set()
    without = set(ids_of(examples))
    for row, example, replayed in replays(run_dir, examples, maker):
        without.discard(row.id)
        counts["rows"] += 1
        if isinstance(replayed, str):
            counts[replayed] += 1
            continue
        for turn in maker.turns(row, example, replayed):
            if turn.text is None:
                counts[turn.reason] += 1
                continue
            messages = (*turn.messages, {"role": "assistant", "content": turn.text})
            content = json.dumps(messages, sort_keys=True)
            counts["duplicates" if content in seen else f"{maker.kind}s"] += 1
            if content not in seen:
                samples.append(Sample(maker.kind, messages, row.id, row.repeat, 1))
            seen.add(content)
    counts["examples_without_row"] = len(without)
    return Exported(tuple(samples), dict(counts))


class Ungraded(Exception):
    """A verifier that failed on a draft."""


class Labels:
    """Which drafts are right, and the gold answer for a teacher."""

    def __init__(self, program: Operator, verifier: Verifier) -> None:
        self.verifier = verifier
        self.program = program
        self.fields = tuple(program.task.output_fields)
        self._known: dict[str, bool] = {}
        self._said = False
        self._outdated = 0
        """Rows whose scores were given with another gold answer than the example has now."""

    def say(self, error: Ungraded) -> None:
        """Log the first failure of the verifier."""
        if not self._said:
            logger.warning("a draft is left out, and counted as `ungraded`, since the verifier failed: %s", error)
        self._said = True

    def say_outdated(self) -> None:
        """Log how many rows were scored with another gold answer than their example has now."""
        if self._outdated:
            logger.warning(
                "the scores of %d row%s were given with another gold answer than the example has now, and decide what "
                "is right: run `pdr eval` again for scores with the gold answers of now",
                *(self._outdated, "s" * (self._outdated > 1)),
            )

    def right(self, row: Row, example: dspy.Example, drafts: Sequence[Draft]) -> set[int]:
        """The indices of the right drafts: by the row's scores, or graded if the row has none."""
        scored = row.rounds[0].drafts if row.rounds else ()
        if len(scored) == len(drafts) and all(draft.score is not None for draft in scored):
            gold = gold_of(self.program, self.verifier, example)
            self._outdated += None not in (row.gold, gold) and row.gold != clean(str(gold))
            return {draft.index for draft, known in zip(drafts, scored, strict=True) if (known.score or 0.0) >= RIGHT}
        return {draft.index for draft in drafts if self.is_right(example, draft.outputs)}

    def is_right(self, example: dspy.Example, outputs: Mapping[str, Any]) -> bool:
        """The verifier's verdict on an answer, asked once for each. Raises Ungraded if it fails."""
        if any(name not in outputs for name in self.fields):
            return False
        key = repr((sorted(example.items(), key=str), sorted(outputs.items(), key=str)))
        if key not in self._known:
            try:
                self._known[key] = float(verdict(self.verifier, example, dspy.Prediction(**outputs))) >= RIGHT
            except PDRError:
                raise
            except Exception as error:  # a user's verifier may raise anything
                raise Ungraded(in_words(error)) from error
        return self._known[key]

    def gold(self, example: dspy.Example) -> str:
        """The gold answer as text. Raises DataError without one."""
        found = gold_of(self.program, self.verifier, example)
        if found is None or not found.strip():
            raise DataError(
                f"example {str(example.get('id', example))[:80]!r} has no gold answer that a teacher could read; "
                "export without a teacher"
            )
        return found


def operator_of(program: dspy.Module, called: str) -> Operator:
    """The program of the call, which must be an operator. Raises ConfigError."""
    if not isinstance(program, Operator):
        raise ConfigError(f"`{called}(program=...)` must be an operator, such as PDR, not `{type(program).__name__}`")
    return program


def with_reference(predictor: dspy.Predict, teacher: dspy.LM) -> dspy.Predict:
    """A predictor for the same turn that reads the reference answer too."""
    signature = signature_of(predictor)
    field = dspy.InputField(desc="the right answer, which only you see")
    told = signature.append(REFERENCE, field, str).with_instructions(f"{signature.instructions}\n\n{_BY_REFERENCE}")
    made = dspy.Predict(told)
    made.demos, made.lm = predictor.demos, teacher
    return made


def prompt_of(predictor: dspy.Predict, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a call of the program."""
    return render(signature_of(predictor), predictor.demos, inputs)


def written_as(predictor: dspy.Predict, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """A turn of the assistant as the program's prompts show one; in this library's form if a user's adapter shows
    none."""
    shown = render(signature_of(predictor), [{**inputs, **outputs}], inputs)
    own = "\n".join(f"{label(name)}: {value}" for name, value in outputs.items())
    return str(next((message["content"] for message in reversed(shown) if message["role"] == "assistant"), own))


def tells(text: str, gold: str, prompt: str) -> bool:
    """Whether a turn speaks of the reference, or says a gold answer that is not in its prompt."""
    return _TOLD.search(text) is not None or (gold in text and gold not in prompt)
