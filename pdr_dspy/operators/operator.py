"""Operator: a task signature under a schedule, as a DSPy module.

There is one class for every strategy: after tuning, the schedule defines the program. An operator holds exactly the
predictors that it calls, as plain attributes, so that DSPy optimizers tune only predictors in use. `forward` never
writes to `self`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import dspy

from pdr_dspy import calls
from pdr_dspy.arguments import explained, shown
from pdr_dspy.calls.adapter import Adapter
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.dspy_bridge import Parameter, stream_from_thread
from pdr_dspy.calls.pricing import Models, Price, Priced
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.listening import check_listeners
from pdr_dspy.operators.loop import Check, improve, preflight
from pdr_dspy.operators.prediction import Prediction
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.fields import with_defaults
from pdr_dspy.prompts.roles import Role, check_task, derive, needed_inputs, signature_of
from pdr_dspy.runtime import event_loop
from pdr_dspy.runtime.atomic_write import local_path, replacing
from pdr_dspy.settings import whole_number
from pdr_dspy.verifiers.checks import CHECKS, as_check

_NO_LIMIT = Budget()
AnyCheck = Check | str | Callable[..., Any]
"""A check, the name of a registered one, or a reward function `reward_fn(args, pred) -> float`."""


class ScheduleParameter(Parameter):
    """Holds an operator's schedule so that DSPy's `save` and `load` keep it, at any depth.

    DSPy loads each parameter below a parent module separately, from a list made beforehand: a schedule that calls roles
    other than those of the one it replaces would find no predictors there, and is refused.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def reset(self) -> None:
        """Nothing to do: a tuned schedule survives `reset_copy()`, as learned code does in `dspy.Flex`."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        return self.schedule.model_dump(mode="json")

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Take a saved schedule. Raises ConfigError if it calls roles other than those of the present one."""
        saved = Schedule(**state)
        if saved.roles != self.schedule.roles:
            raise ConfigError(
                f"the saved program's operator {saved} calls {', '.join(saved.roles)}, and the one here "
                f"({self.schedule}) {', '.join(self.schedule.roles)}; a nested `load` can neither add predictors "
                "nor remove them. Give the operator the saved schedule first (`with_schedule`), or save the program "
                "with `pdr_dspy.save(program, path)` and load it with `pdr_dspy.load(path, program=...)`"
            )
        self.schedule = saved
        return self


class Operator(dspy.Module):
    """A task signature under a schedule. `LongCoT`, `SelfConsistency`, `BestOfN`, `SR` and `PDR` make one by name.

    Call it with the task's inputs by keyword, and optionally `budget=Budget(...)` and `seed=int`. It returns a
    `dspy.Prediction` with the task's outputs first, then `solution` (the text of the selected draft), `ledger`
    (a `Ledger`: `.sequential`, `.total`, `.calls`), `rounds` (a tuple of `Round`) and `stop` (a `Stop`).

    Equal inputs and seed make equal calls: use another `seed` for another sample.

    Raises:
        ConfigError: an input is missing or unknown, no language model is set, or the caps, kappa and the prompt do not
            fit the model's context.
        BudgetTooSmall: not even the first round fits the budget.
        RoundFailed: every draft of a round failed, and no earlier round has an answer; `error.ledger` has all calls
            until then.
        DeadlinePassed: a deadline (`calls.session(deadline=...)`) passed before there was a draft.
    """

    @explained
    def __init__(
        self,
        signature: str | type[dspy.Signature],
        schedule: Schedule,
        check: AnyCheck | Mapping[str, AnyCheck] | None = None,
        models: Mapping[str, dspy.LM | Priced] | None = None,
    ) -> None:
        """
        Args:
            signature: the task.
            schedule: defines the program.
            check: scores drafts without the gold answer: a check, the name of a registered one, or a DSPy reward
                function; or several of them by name. A single one has the name "check", or its registered name, and a
                schedule without a check uses it.
            models: LMs by name, in `Priced` if their price is known; `Schedule.draft_model`, `refine_model` and
                `distill_model` assign them to roles. Other roles use the LM that they would use without `models`. An
                `Adapter` is one of the model that drafts.
        """
        super().__init__()
        self.task = check_task(signature)
        _check_schedule("Operator(", schedule)
        self.checks = _checks(check)
        """Checks by name; `Schedule.check` selects one."""
        if check is not None and not isinstance(check, Mapping) and schedule.check is None:
            schedule = schedule.replace(check=next(iter(self.checks)))
        self.checks = _with_registered(schedule, self.checks)
        _require_check(schedule, self.checks)
        self.models = Models(models)
        """Models by name; `Schedule.draft_model` and the other fields assign them to roles."""
        _require_models(schedule, self.models)
        self.tuned = ScheduleParameter(schedule)
        for role, role_signature in self.role_signatures(self.task, schedule).items():
            setattr(self, role.value, dspy.Predict(role_signature))

    @property
    def schedule(self) -> Schedule:
        """The schedule of the program."""
        return self.tuned.schedule

    @staticmethod
    def role_signatures(task: type[dspy.Signature], schedule: Schedule) -> dict[Role, type[dspy.Signature]]:
        """The signatures of exactly those predictors that this schedule calls."""
        chain = schedule.rounds > 1 and schedule.distill_by.chain
        return {
            role: derive(task, role, k=schedule.k, last=chain, critique=schedule.critique) for role in schedule.roles
        }

    @explained
    def with_schedule(
        self,
        schedule: Schedule,
        *,
        instructions: Mapping[str, str] | None = None,
        demos: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> Self:
        """A copy that runs under another schedule.

        Predictors of roles that both schedules use keep their instructions, demonstrations and LM; Select and Refine
        only if their default instructions stay the same or were tuned. `instructions` (role to text) and `demos` (role
        to demonstrations, each a mapping of fields) replace the present ones.

        Raises ConfigError for an unknown role in `instructions` or `demos`, and for a check that the program lacks.
        """
        _check_schedule("with_schedule(", schedule)
        checks = _with_registered(schedule, self.checks)
        _require_check(schedule, checks)
        _require_models(schedule, self.models)
        for name, given in (("instructions", instructions), ("demos", demos)):
            unknown = set(given or ()) - {role.value for role in Role}
            if unknown:
                raise ConfigError(f"`{name}` names the role {sorted(unknown)[0]!r}; the roles are {', '.join(Role)}")
        new = copy.deepcopy(self)
        old = {name: predictor for name, predictor in new.__dict__.items() if isinstance(predictor, dspy.Predict)}
        defaults = self.role_signatures(self.task, self.schedule)
        for name in old:
            delattr(new, name)
        new.tuned = ScheduleParameter(schedule)
        new.checks = {**{name: check for name, check in checks.items() if name not in new.checks}, **new.checks}
        for role, signature in self.role_signatures(self.task, schedule).items():
            predictor = dspy.Predict(signature)
            predictor.lm = old[Role.DRAFT].lm  # a new role uses the model that the program was given
            before = old.get(role.value)
            if before is not None and role in defaults:
                if signature_of(before).instructions != defaults[role].instructions:
                    predictor.signature = signature.with_instructions(signature_of(before).instructions)
                predictor.demos = before.demos
                predictor.lm = before.lm
            if instructions and role.value in instructions:
                predictor.signature = signature.with_instructions(instructions[role.value])
            if demos and role.value in demos:
                predictor.demos = [dspy.Example(**demo) for demo in demos[role.value]]
            setattr(new, role.value, predictor)
        return new

    def with_models(self, models: Mapping[str, dspy.LM | Priced]) -> Self:
        """A copy with additional models; a model replaces one with the same name."""
        new = copy.deepcopy(self)
        new.models = self.models | models
        return new

    def bound(self) -> AbstractContextManager[Any]:
        """Inside, its predictors use the models that its schedule names, with their prices."""
        schedule, prices = self.schedule, self.models.prices
        if not prices and schedule.draft_model is schedule.refine_model is schedule.distill_model is None:
            return nullcontext()
        return self._bound()

    @contextmanager
    def _bound(self) -> Iterator[None]:
        now = calls.current()
        served, prices = self.served, {**now.prices, **self.models.prices}
        for role in self.schedule.roles:  # an adapter's tokens cost what its model's do, unless it has its own price
            name, lm = self.schedule.model_of(role), served.get(id(self.predictor(role)))
            if name is not None and lm is not None and isinstance(self.models[name], Adapter):
                price = self.models.price(name) or self._price_of_base(role, prices)
                prices |= {} if price is None else {id(lm): price}
        with calls.session(serves={**now.serves, **served}, prices=prices):
            yield

    def _price_of_base(self, role: Role, prices: Mapping[int | str, Price]) -> Price | None:
        base = self._base_of(role)
        return None if base is None else prices.get(id(base), prices.get(str(base.model)))

    def _base_of(self, role: Role) -> dspy.BaseLM | None:
        """The model whose adapter a role may use: that of the drafts; None if none is set."""
        name = self.schedule.draft_model
        drafts = None if name is None else self.models[name]
        if drafts is None or isinstance(drafts, Adapter):
            drafts = self.predictor(role).lm or dspy.settings.lm
        return drafts

    def lm_of(self, role: Role) -> dspy.LM:
        """The model of a role. Raises ConfigError if there is none."""
        with self.bound():
            return calls.serving(self.predictor(role))

    @property
    def served(self) -> dict[int, dspy.LM]:
        """The models that its schedule names, by the `id` of the predictor that each serves; adapters as the model that
        has them, if one is set."""
        named = {role: self.schedule.model_of(role) for role in self.schedule.roles}
        return {
            id(self.predictor(role)): self.model_named(name, role) for role, name in named.items() if name is not None
        }

    def model_named(self, name: str, role: Role = Role.DRAFT) -> dspy.LM:
        """One of its models; an adapter as the model that has it, if one is set for the role."""
        lm, base = self.models[name], self._base_of(role)
        return lm.on(base) if isinstance(lm, Adapter) and base is not None else lm

    def price_of(self, name: str | None) -> Price | None:
        """The price per token of one of its models by name, or with None of its default LM; None if it is unknown."""
        if name is not None:
            return self.models.price(name)
        with calls.session(prices={**calls.current().prices, **self.models.prices}):
            lm = self.predictor(Role.DRAFT).lm or dspy.settings.lm
            return None if lm is None else calls.price_of(lm)

    def save(self, path: Any, save_program: bool = False, modules_to_serialize: Any = None) -> None:
        """As `dspy.Module.save`; a state file is written completely or not at all."""
        place = local_path(path)
        if save_program or place.suffix not in (".json", ".pkl"):
            super().save(path, save_program, modules_to_serialize)
            return
        with replacing(place) as temporary:
            super().save(temporary)

    def load_state(self, state: dict[str, Any], **options: Any) -> Any:
        """As `dspy.Module.load_state`; the predictors follow the loaded schedule."""
        if "tuned" in state:
            fresh = self.with_schedule(Schedule(**state["tuned"]))
            for name in [name for name, value in self.__dict__.items() if isinstance(value, dspy.Predict)]:
                delattr(self, name)
            vars(self).update(vars(fresh))
        return super().load_state(state, **options)

    def forward(self, *unnamed: Any, **inputs: Any) -> dspy.Prediction:
        """Run the program; see the class."""
        with stream_from_thread():
            return event_loop.run(lambda: self.aforward(*unnamed, **inputs))

    async def aforward(
        self, *unnamed: Any, budget: Budget | None = None, seed: int | None = None, **inputs: Any
    ) -> dspy.Prediction:
        """Run the program on the caller's event loop; see the class."""
        task, schedule, predictors = self.task, self.schedule, self.predictors_by_role
        taken = task.input_fields
        if unnamed:
            named = ", ".join(f"{name}=..." for name in taken)
            raise ConfigError(
                f"`{schedule.strategy}` takes its inputs by keyword, `program({named})`; got {str(unnamed)[:80]}"
            )
        unknown = [name for name in inputs if name not in taken]
        missing = [name for name in needed_inputs(task) if name not in inputs]
        if unknown or missing:
            raise ConfigError(
                f"`{schedule.strategy}` takes the inputs {', '.join(taken)}; "
                + " and ".join(
                    [f"{name!r} is missing" for name in missing[:1]]
                    + [f"{name!r} is not one of them" for name in unknown[:1]]
                )
            )
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigError(
                f"`{schedule.strategy}(...)(budget={budget!r})` must be a `Budget(sequential=..., total=...)`, "
                "in tokens"
            )
        if seed is not None:
            seed = whole_number(f"{schedule.strategy}(...)(", "seed", seed, least=None)
        inputs = with_defaults(taken, inputs)
        check_listeners(schedule, predictors)
        with calls.run_of(self), self.bound():
            outcome = await improve(
                task,
                schedule,
                predictors,
                inputs,
                budget=budget or _NO_LIMIT,
                seed=seed,
                check=self.checks[schedule.check] if schedule.check else None,
            )
        return Prediction(
            **outcome.outputs,
            solution=outcome.solution,
            ledger=outcome.ledger,
            rounds=outcome.rounds,
            stop=outcome.stop,
        )

    async def preflight(self, inputs: Mapping[str, Any], budget: Budget | None = None) -> None:
        """Check the parts of a run that are known before its first call: the model's context and the budget.

        Raises ConfigError or BudgetTooSmall, as the run itself would.
        """
        with self.bound():
            await preflight(Question(self.task, self.schedule, self.predictors_by_role, inputs), budget or _NO_LIMIT)

    def predictor(self, role: Role) -> dspy.Predict:
        """The predictor of a role that the schedule calls."""
        return getattr(self, role.value)

    @property
    def predictors_by_role(self) -> dict[Role, dspy.Predict]:
        """The predictor of every role that the schedule calls."""
        return {role: self.predictor(role) for role in self.schedule.roles}


def _check_schedule(called: str, schedule: Any) -> None:
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"`{called}schedule={shown(schedule)})` must be a `Schedule(...)`; `preset(name)` has those with a name"
        )


_CHECK = "check"
"""The name of a program's single check."""


def _checks(check: AnyCheck | Mapping[str, AnyCheck] | None) -> dict[str, Check]:
    """The checks of a program by name. Raises ConfigError for an invalid one."""
    if check is None:
        return {}
    named = check if isinstance(check, Mapping) else {check if isinstance(check, str) else _CHECK: check}
    return {name: as_check(one) for name, one in named.items()}


def _with_registered(schedule: Schedule, checks: dict[str, Check]) -> dict[str, Check]:
    """Adds the registered check that a schedule names, if the program has none of that name."""
    name = schedule.check
    return checks if name is None or name in checks or name not in CHECKS else {**checks, name: as_check(name)}


def _require_models(schedule: Schedule, models: Mapping[str, Any]) -> None:
    """Raise ConfigError if a program lacks a model that a schedule names."""
    for name in ("draft_model", "refine_model", "distill_model"):
        value = getattr(schedule, name)
        if value is not None and value not in models:
            raise ConfigError(
                f"`Schedule({name}={value!r})` is not a model of the program; it has: {', '.join(models) or 'none'}. "
                f"Add `{schedule.strategy}(..., models={{{value!r}: lm}})` or `program.with_models({{{value!r}: lm}})`"
            )


def _require_check(schedule: Schedule, checks: Mapping[str, Check]) -> None:
    if schedule.check is not None and schedule.check not in checks:
        there = ", ".join(checks) or "none"
        raise ConfigError(f"`Schedule(check={schedule.check!r})` is not a check of the program; it has: {there}")
    if schedule.check is None and (needs := schedule.needs_check):
        raise ConfigError(
            f"`Schedule({needs})` needs a check that scores drafts without the gold answer; give the program one "
            "(`check=...`) and name it in the schedule"
        )
    if schedule.check is not None and getattr(checks[schedule.check], "relative", False):
        for setting, wanted in (("stop_at", schedule.stop_at is not None), ("keep", schedule.keep)):
            if wanted:
                raise ConfigError(
                    f"`Schedule({setting}={getattr(schedule, setting)!r})` compares a score with one of another round, "
                    f"and the check {schedule.check!r} only compares the drafts of a round; leave it out, or take a "
                    "check that scores each draft separately"
                )
