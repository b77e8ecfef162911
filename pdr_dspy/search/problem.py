"""What one search is of: program, questions and settings, and how all workers make sure that they mean the same."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.store import address
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.evaluation.evaluator import check_examples
from pdr_dspy.evaluation.evaluator import describe as describe_evaluation
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.runtime import event_loop, postgres
from pdr_dspy.runtime.differences import difference
from pdr_dspy.search.proposing import instructions, shared_instructions
from pdr_dspy.search.racing.confirmation import identities, split
from pdr_dspy.search.racing.plan import Stage
from pdr_dspy.search.result import detached
from pdr_dspy.search.space.prompt_axes import check_demos
from pdr_dspy.search.space.space import Candidate, Space
from pdr_dspy.search.workers.coordination import Board, open_board

if TYPE_CHECKING:
    from pdr_dspy.search.optimizer import PDROptimizer

VERSION = 2


class Terms:
    """The terms of one search; they are checked when they are made, at no cost."""

    def __init__(
        self,
        optimizer: PDROptimizer,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
    ) -> None:
        """
        Args:
            optimizer: has the settings.
            student: the program; a copy of it is kept.
            trainset: questions of the trials.
            valset: questions of the confirmation; None holds some of `trainset` out.

        Raises:
            ConfigError: no operator in the student, or settings that do not go with it.
            DataError: an empty set, or an example that program or verifier cannot use.
        """
        self.optimizer = optimizer
        self.student = detached(student)
        found = operators_in(self.student)
        if not found:
            raise ConfigError(
                f"`compile(student={type(student).__name__}())` holds no LongCoT, SR or PDR; there is no "
                "schedule to tune"
            )
        if not trainset:
            raise DataError("`compile(trainset=[])` is empty; there is nothing to measure")
        valset = valset or None  # DSPy's optimizers hand on an empty one where none was given
        self.operator: Operator = next(iter(found.values()))
        self.space = optimizer.space or Space.default_for(self.operator.schedule)
        """What the user gave; proposed instructions do not join it."""
        for operator in found.values():
            check_demos(operator.task, self.space.demos)
        if optimizer.prompts:
            instructions.operator_of(self.student)  # of several with different tasks none can be written for
            if not shared_instructions.roles_of(self.space):
                raise ConfigError("`PDROptimizer(prompts=...)`: the space fixes the instructions of every role")
        self.limits = optimizer.limits
        self.mixed = len({Candidate(operator.schedule, {}).key for operator in found.values()}) > 1
        """Whether the student's operators differ: no candidate, one schedule for all, is then the student."""
        self.train, self.held_out = split(list(trainset), valset, optimizer.seed)
        train_ids = check_examples(self.student, self.train, optimizer.verifier)
        held_ids = check_examples(self.student, self.held_out, optimizer.verifier)
        searched, confirmed = set(identities(self.student, self.train)), identities(self.student, self.held_out)
        self.seen = sum(question in searched for question in confirmed)
        """How many questions of the confirmation are among those of the trials."""
        self.confirmed_questions = set(confirmed)
        """By what identifies them."""
        self.confirmed_in = f"confirm/{address({'questions': confirmed})[:8]}"
        self.folder = optimizer.run_dir
        self.sets = {
            Stage.RACE: list(zip(train_ids, self.train, strict=True)),
            Stage.FINAL: list(zip(train_ids, self.train, strict=True)),
            Stage.CONFIRM: list(zip(held_ids, self.held_out, strict=True)),
        }
        evaluation = describe_evaluation(
            self.student,
            self.train,
            train_ids,
            optimizer.verifier,
            repeats=1,
            seed=optimizer.seed,
            budget=None,
            models=event_loop.run(lambda: calls.identities(self.student.predictors())),
        )
        sampler = optimizer.sampler
        self.config = {
            **{name: evaluation[name] for name in ("program", "examples", "verifier", "models", "seed")},
            "version": VERSION,
            "space": self.space.model_dump(mode="json"),
            "limits": self.limits._asdict(),
            "pareto": optimizer.pareto,
            "sampler": sampler if isinstance(sampler, str) else getattr(sampler, "__name__", type(sampler).__name__),
            "repeats": optimizer.repeats,
            "finalists": optimizer.finalists,
            "finalist_repeats": optimizer.finalist_repeats,
            "confirm_repeats": optimizer.confirm_repeats,
            "cohort": optimizer.cohort,
            "prompts": optimizer.prompts,
            "prompt_model": getattr(optimizer.prompt_model, "model", None),
        }
        """What may not change while a search goes on."""
        self.ends = {
            "trials": optimizer.trials,
            "max_tokens": optimizer.max_tokens,
            "train": len(self.train),
            "held_out": len(self.held_out),
        }
        """Where the search ends, which may; and how many questions it has, for workers that join."""

    @property
    def named(self) -> str:
        """The storage in a sentence, without a password."""
        where = self.optimizer.storage if self.optimizer.storage is not None else self.folder
        return f"`{postgres.shown(str(where))}`"

    def board(self) -> Board:
        """Where the workers of this search meet. Raises StoreError when it cannot be used."""
        storage = self.optimizer.storage
        if storage is None and self.folder is not None:
            storage = self.folder / "board"
        return open_board(storage, study=self.optimizer.study)

    def agree(self, board: Board) -> None:
        """Put down what this search is of, or check that the one on the board is the same: StoreError if it is not."""
        now = json.loads(json.dumps(self.config, default=str))
        if board.get("config") is None and board.read(""):  # or measurements of another search would pass for ours
            raise StoreError(
                f"the description of the search in {self.named} is damaged, so what is there cannot be told to be of "
                "this one; remove the folder `board` (its calls are in `rollouts` and not paid again), or use another "
                "`run_dir` or `study`"
            )
        self.check(board.put("config", json.dumps({**now, "ends": self.ends})))

    def check(self, text: str, *, but: str | None = None) -> None:
        """Check that a search, by its description on the board, is this one; `but` names a part that may differ.

        Raises StoreError, naming what differs, when it is not.
        """
        now = json.loads(json.dumps({key: value for key, value in self.config.items() if key != but}, default=str))
        try:
            before = {"prompts": 0, "prompt_model": None, **json.loads(text)}
            changed = [key for key in now if before.get(key) != now[key]]
        except (ValueError, AttributeError, TypeError) as error:
            raise StoreError(f"{self.named} is not of a search of this version ({error})") from error
        if changed:
            differs = difference(*_argument(changed[0], before.get(changed[0]), now[changed[0]]))
            raise StoreError(
                f"{self.named} holds another search: {differs}; use another `run_dir` or `study`, or the same "
                "arguments to go on"
            )

    def check_limits(self) -> None:
        """Refuse a student that does not fit the model, and a limit that not even the prompt of one draft fits.

        Raises ConfigError for either.
        """
        student = self.student
        if not isinstance(student, Operator):
            return
        event_loop.run(lambda: student.preflight(self.shortest()))
        least = [limit for limit in self.limits if limit is not None]
        if not least:
            return
        predictor = student.predictor(Role.DRAFT)
        prompts = []
        for example in self.train:
            messages = render(signature_of(predictor), predictor.demos, inputs_of(student, example))
            prompts.append(prompt_text(messages))
        lm = calls.serving(predictor)
        counts, exact = event_loop.run(lambda: calls.count_tokens(lm, prompts))
        mean = sum(counts) / len(counts)
        if exact and mean + 1 > min(least):
            raise ConfigError(
                f"`max_sequential={self.limits.sequential}`, `max_total={self.limits.total}`: the prompt alone of the "
                f"cheapest schedule, LongCoT, has {mean:.0f} tokens on average; the least that can do anything is "
                f"{math.ceil(mean) + 1}"
            )

    def shortest(self) -> dict[str, Any]:
        """The inputs of the shortest training question."""
        return min((inputs_of(self.student, example) for example in self.train), key=lambda inputs: len(str(inputs)))


def ends_of(board: Board) -> dict[str, Any] | None:
    """Where the search ends, as its last `compile` said; None when there is no search, {} for a description that is not
    of this version."""
    said = list(board.read("ends/").values())
    text = board.get("config")
    try:
        return json.loads(said[-1]) if said else None if text is None else json.loads(text)["ends"]
    except (ValueError, KeyError, TypeError):
        return {}


def _argument(key: str, was: Any, is_now: Any) -> tuple[str, Any, Any]:
    """What differs, by the name of the argument that the user gave."""
    if key == "limits" and isinstance(was, dict):
        name = next(name for name in is_now if was.get(name) != is_now[name])
        return f"max_{name}", was.get(name), is_now[name]
    return {"program": "student", "examples": "trainset", "models": "lm"}.get(key, key), was, is_now
