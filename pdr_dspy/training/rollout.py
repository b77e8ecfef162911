"""The rollout: LongCoT for long traces and the user's program for operator groups, as they run at inference.

PDR is not implemented again here. An episode is one `aforward` of the program on a `PolicyLM`; its ledger and rounds
give the purpose of each call, and the policy its prompt and completion as token ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase
from pdr_dspy.errors import ConfigError, PDRError
from pdr_dspy.evaluation.runner import Runner, inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Round, Stop
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.settings import is_number
from pdr_dspy.training.policy_lm import PolicyLM, SampledCall
from pdr_dspy.training.replay import NAMED_MODELS, WHOLE_ROUNDS
from pdr_dspy.training.rewards import PENALTY, REWARD, Grader, Verdict, check_threshold, workspace_reward
from pdr_dspy.training.types import DISTILLER_CALLS, Group, Mode, Policy, Row, Sampled, TrainCalls
from pdr_dspy.verifiers import Metric, Verifier, as_verifier
from pdr_dspy.verifiers.base import verdict

T = TypeVar("T")
TEMPERATURE = 1.0
"""Temperature of every trained call, which the objective's log-probabilities assume."""


class Episodes:
    """A `Rollout` (see types.py) made of a program and a verifier.

    A long-trace episode is a single draft call of the program. Rounds never end early (`quorum`, `agree`), since a
    cancelled draft has no reward, and unreadable answers are not requested again (`json_fallback`). An episode that
    starts from a workspace runs the program with an additional first round, whose drafts and distillation are sampled
    from the same policy and not trained; so the trained calls read a workspace as a later round does at inference.
    """

    def __init__(
        self,
        program: Operator,
        verifier: Verifier | Metric,
        *,
        train_calls: TrainCalls = "all",
        starts: float = 0.0,
        process_rewards: bool = False,
        threshold: float = 0.5,
        trace_tokens: int | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            program: an operator; it is not changed. Its own language model is not called.
            verifier: a score of at least `threshold` is rewarded with +1, else -1. A judge's calls are not counted.
            train_calls: see `TrainCalls`.
            starts: fraction of the operator groups that start from a non-empty workspace.
            process_rewards: reward drafts by their own answers, and distill and select calls by whether the workspace
                keeps a right answer of a draft; only with `train_calls="all"`, "distill" and "select".
            threshold: the lowest score that counts as right.
            trace_tokens: cap of a long trace's solution, in output tokens; None means the schedule's `draft_tokens`.
            template_options: arguments of the tokenizer's chat template.

        Raises:
            ConfigError: an invalid argument, or a schedule whose sampling contradicts the objective.
        """
        if not isinstance(program, Operator):
            raise ConfigError(
                f"training takes an operator, such as `PDR(signature, schedule)`, not `{type(program).__name__}`: the "
                "rows of an episode are the calls of its schedule"
            )
        check_threshold(threshold)
        if train_calls not in get_args(TrainCalls):
            raise ConfigError(f"`train_calls={train_calls!r}` must be one of {', '.join(get_args(TrainCalls))}")
        if not is_number(starts) or not 0 <= starts <= 1:
            raise ConfigError(f"`starts={starts!r}` must be a fraction in [0, 1]")
        if process_rewards and train_calls not in ("all", *DISTILLER_CALLS):
            raise ConfigError(
                f'`process_rewards=True` rewards drafts and distillations, and needs `train_calls="all"`, '
                f'"distill" or "select", got {train_calls!r}'
            )
        _check_distiller(program.schedule, train_calls)
        if trace_tokens is not None and trace_tokens < 1:
            raise ConfigError(f"`trace_tokens={trace_tokens!r}` must be at least 1 token, or None")
        _check_sampling(program.schedule, train_calls)
        self.verifier = as_verifier(verifier, argument="Episodes(verifier=...)")
        self.train_calls: TrainCalls = train_calls
        self.starts = float(starts)
        self.process_rewards = process_rewards
        self.threshold = float(threshold)
        self.template_options = dict(template_options or {})
        self.context_length: int | None = None
        """Tokens that prompt and completion may take together; None if unknown. Longer schedules are refused."""
        # Every call of an episode is a row and a sample of the policy: none is cancelled or constrained.
        # Roles with a model of their own are the policy's too.
        schedule = program.schedule.replace(**WHOLE_ROUNDS, **NAMED_MODELS, json_fallback=False)
        self.trace_tokens = trace_tokens or schedule.draft_tokens
        self.schedule = schedule
        self.counts: Counter[str] = Counter()
        """Totals over all calls: `episodes`, `started` (from a workspace), `rounds_failed`, `fillers` (rows in place of
        calls that were not made), `ungraded` (answers on which the verifier failed)."""
        self.batches: list[int] = []
        """Completions in each batch that the policy sampled for the last call."""
        trace = schedule.replace(widths=(1,), draft_tokens=self.trace_tokens)
        self._trace = program.with_schedule(trace)
        self._operator = program.with_schedule(schedule)
        longer = schedule.replace(widths=(schedule.widths[0], *schedule.widths)) if schedule.rounds > 1 else schedule
        self._started = program.with_schedule(longer)

    def rows_per_episode(self, mode: Mode) -> int:
        """Trained calls of one episode."""
        return 1 if mode == "trace" else operator_rows(self.schedule, self.train_calls)

    def check_rows(self, rows: int, mode: Mode) -> None:
        """Check that groups of `rows` rows hold whole episodes, and enough of them for rewards to differ.

        Raises ConfigError with valid sizes.
        """
        each = self.rows_per_episode(mode)
        vary = self.train_calls == "drafts" or self.process_rewards  # the calls of one episode may differ in reward
        least = 2 * each if mode == "trace" or not vary or each == 1 else each
        if rows < least or rows % each:
            raise ConfigError(
                f"a group of {rows} rows (`rows` of TrainingConfig, `num_generations` of OperatorConfig) does not hold "
                f"whole {mode} episodes of {each} trained call{'s' if each > 1 else ''}, at least "
                f"{'two' if least > each else 'one'}; choose a multiple of {each}, at least {least}, such as "
                f"{max(least, -(-rows // each) * each)}"
            )

    def check_operator(self) -> None:
        """Raise ConfigError for a single-pass program, which has no operator episodes."""
        if self.schedule.rounds == 1:
            raise ConfigError(
                f"an operator group needs a program of two rounds or more, got {self.schedule}; give a PDR program, or "
                "train on long traces only"
            )

    def check_context(self, examples: Sequence[dspy.Example], tokenizer: Any) -> None:
        """Check that prompts, kappa and caps fit `context_length` for the longest questions.

        Raises ConfigError with the first example that does not fit, and the remedy. Does nothing if the context length
        is unknown.
        """
        lm = PolicyLM(
            _CountingPolicy(tokenizer), template_options=self.template_options, context_length=self.context_length
        )
        programs = [_on(self._trace, lm, self.train_calls), _on(self._operator, lm, self.train_calls)]
        longest = sorted(examples, key=lambda example: -len(str(inputs_of(self._operator, example))))[:_CHECKED]

        async def check() -> None:
            for example in longest:
                for program in programs:
                    try:
                        await program.preflight(inputs_of(program, example))
                    except ConfigError as error:
                        raise ConfigError(f"example {str(example.get('id', example))[:80]!r}: {error}") from error

        if self.context_length is not None:
            _run(check)

    def __call__(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        """Exactly `group.rows` rows for each group; all episodes of all groups run concurrently."""
        for group in groups:
            if group.mode == "operator":
                self.check_operator()
            self.check_rows(group.rows, group.mode)
        return _run(lambda: self._roll(groups, policy))

    async def _roll(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        lm = PolicyLM(policy, template_options=self.template_options, context_length=self.context_length)
        programs = {mode: _on(program, lm, self.train_calls) for mode, program in self._programs().items()}
        runner = Runner(self._operator, self.verifier, threads=16)
        started = self._choose(groups)
        plan = [
            _Episode(index, group, number, index in started)
            for index, group in enumerate(groups)
            for number in range(group.rows // self.rows_per_episode(group.mode))
        ]
        try:
            with dspy.context(trace=None):
                done = await lm.together([self._run_one(episode, programs) for episode in plan])
            self.batches = lm.batches
            graders = [Grader(runner, group.example, self._fields, self.threshold) for group in groups]
            made = await asyncio.gather(
                *(
                    self._rows(episode, outcome, lm.sampled_calls[number], graders[episode.group_index])
                    for number, (episode, outcome) in enumerate(zip(plan, done, strict=True))
                )
            )
        finally:
            runner.close()
        self.counts["episodes"] += len(plan)
        self.counts["started"] += sum(episode.started for episode in plan)
        self.counts["ungraded"] += sum(grader.failures for grader in graders)
        rows: list[list[Row]] = [[] for _ in groups]
        for episode, rows_of in zip(plan, made, strict=True):
            rows[episode.group_index] += rows_of
        return rows

    async def episode(self, group: Group, lm: Recording, *, started: bool = False, number: int = 0) -> list[Row]:
        """The rows of one episode of a group, for engines that run one episode at a time.

        Args:
            group: the group; its `rows` are ignored.
            lm: a language model that records its calls, a new one for each episode.
            started: whether the episode begins from a workspace.
            number: number of the episode in its group, which decides the seed.
        """
        plan = _Episode(0, group, number, started)
        programs = {mode: _on(program, lm, self.train_calls) for mode, program in self._programs().items()}
        runner = Runner(self._operator, self.verifier, threads=4)
        try:
            with dspy.context(trace=None), calls.session(store=None):
                outcome = await self._run_one(plan, programs)()
            return await self._rows(
                plan, outcome, lm.record, Grader(runner, group.example, self._fields, self.threshold)
            )
        finally:
            runner.close()

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self._operator.task.output_fields)

    def _programs(self) -> dict[str, Operator]:
        return {"trace": self._trace, "operator": self._operator, "started": self._started}

    def _choose(self, groups: Sequence[Group]) -> set[int]:
        """Indices of the operator groups that start from a workspace: every 1 / `starts`-th, from a seeded offset."""
        candidates = [index for index, group in enumerate(groups) if group.mode == "operator"]
        if not candidates or not self.starts:
            return set()
        offset = _fraction(groups[candidates[0]].seed, "starts")
        return {
            index
            for count, index in enumerate(candidates)
            if int((count + 1) * self.starts + offset) > int(count * self.starts + offset)
        }

    def _run_one(self, episode: _Episode, programs: Mapping[str, Operator]) -> Callable[[], Awaitable[_Outcome]]:
        group = episode.group
        program = programs["started" if episode.started else group.mode]
        seed = int(_fraction(group.seed, f"episode {episode.number}") * 2**31)

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(verdict(self.verifier, group.example, dspy.Prediction(**outputs)))

        async def run() -> _Outcome:
            heard = {"on_call": None, "on_failed_round": lambda why: None}  # counted as `rounds_failed`
            with calls.session(oracle=oracle, in_flight=None, **heard):
                try:
                    prediction = await program.acall(seed=seed, **inputs_of(program, group.example))
                except RoundFailed as error:
                    return _Outcome(program.schedule.rounds, error.ledger, None)
            failed = prediction.stop is Stop.ROUND_FAILED  # the episode has no last round to reward
            return _Outcome(program.schedule.rounds, prediction.ledger, None if failed else prediction.rounds)

        return run

    async def _rows(
        self, episode: _Episode, outcome: _Outcome, sampled: Sequence[SampledCall], grader: Grader
    ) -> list[Row]:
        """The rows of one episode."""
        first = 2 if episode.started else 1
        by_call = _matched(outcome.ledger, sampled)
        answered = [call for call in outcome.ledger.calls if id(call) in by_call]
        if not answered:
            raise PDRError("no call of an episode returned a token; see the server's log")
        drafts = await _graded(outcome.rounds or (), grader)
        final = drafts.get((outcome.length, 0), Verdict(PENALTY, "every draft of a round failed"))
        trained = [call for call in answered if self._is_trained(call, outcome.length, first)]
        rows = [
            _row(by_call[id(call)], call, *self._reward_of(call, outcome, drafts, final), episode.number)
            for call in trained
        ]
        self.counts["rounds_failed"] += outcome.rounds is None
        missing = self.rows_per_episode(episode.group.mode) - len(rows)
        if missing:
            self.counts["fillers"] += missing
            call = (trained or answered)[0]
            rows += [_row(by_call[id(call)], call, None, False, episode.number)] * missing
        return rows

    def _is_trained(self, call: Call, length: int, first: int) -> bool:
        if call.round < first:
            return False
        if self.train_calls in DISTILLER_CALLS:
            return call.phase == self.train_calls
        if length == 1 or self.train_calls == "all":
            return True
        last = call.round == length
        return last if self.train_calls == "refine" else not last and call.phase in _SOLVING

    def _reward_of(
        self, call: Call, outcome: _Outcome, drafts: Mapping[tuple[int, int], Verdict], final: Verdict
    ) -> tuple[float | None, bool]:
        """The reward of a trained call, and whether it belongs to I+."""
        if call.phase in _SOLVING and call.round < outcome.length:
            known = drafts.get((call.round, call.index))
            if known is None:  # every draft of some round failed, and the answers of the others are unknown
                known = Verdict(PENALTY if call.failure else None, "")
            by_own_answer = self.train_calls == "drafts" or self.process_rewards
            return (known if by_own_answer else final).reward, known.right
        alone = self.train_calls in DISTILLER_CALLS
        if self.process_rewards and call.phase in _DISTILLING and outcome.rounds is not None:
            reward = self._process_reward(call, outcome.rounds[call.round - 1], drafts)
            return reward, reward == REWARD if alone else final.right
        if alone and call.failure is not None:
            return PENALTY, False  # the failed call did not write the workspace
        return final.reward, final.right

    def _process_reward(self, call: Call, round_: Round, drafts: Mapping[tuple[int, int], Verdict]) -> float | None:
        right = [drafts[call.round, draft.index].right for draft in round_.drafts]
        if any(right) and call.failure is not None:
            return PENALTY  # the failed call did not write the workspace
        workspace = round_.workspaces[call.index if call.index < len(round_.workspaces) else 0]
        return workspace_reward(round_.drafts, right, workspace, fields=self._fields, chosen=call.phase is Phase.SELECT)


def operator_rows(schedule: Schedule, train_calls: TrainCalls) -> int:
    """Trained calls of one operator episode."""
    if train_calls == "refine":
        return 1
    if train_calls in DISTILLER_CALLS:
        return schedule.calls - sum(schedule.widths)
    return schedule.calls if train_calls == "all" else sum(schedule.widths[:-1])


class _CountingPolicy(NamedTuple):
    """A policy that counts tokens and cannot sample."""

    tokenizer: Any

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        raise NotImplementedError


class Recording(Protocol):
    """A `dspy.LM` that records its calls."""

    record: list[SampledCall]


_CHECKED = 32
"""Number of questions, the longest, whose prompts are counted before training."""


class _Episode(NamedTuple):
    group_index: int
    """Index of its group."""
    group: Group
    number: int
    """From 0, within the group."""
    started: bool
    """Whether it begins from a workspace."""


class _Outcome(NamedTuple):
    """The result of an episode."""

    length: int
    """Number of its rounds, including an untrained first one."""
    ledger: Ledger
    rounds: tuple[Round, ...] | None
    """None when every draft of a round failed."""


_SOLVING = (Phase.DRAFT, Phase.REFINE)
_DISTILLING = (Phase.DISTILL, Phase.SELECT)


async def _graded(rounds: Sequence[Round], grader: Grader) -> dict[tuple[int, int], Verdict]:
    """The verdict on each draft's own answer, by round (from 1) and index. A fallback to another draft is not its own
    answer."""
    drafts = [draft for round_ in rounds for draft in round_.drafts]
    return {(draft.round, draft.index): await grader.grade(draft.outputs) for draft in drafts}


def _matched(ledger: Ledger, sampled: Sequence[SampledCall]) -> dict[int, SampledCall]:
    """The token ids of each answered call, by the `id` of the call on the ledger."""
    left = list(sampled)  # calls with the same seed are in the ledger's order
    found: dict[int, SampledCall] = {}
    for call in ledger.calls:
        index = next((index for index, one in enumerate(left) if one.seed == call.seed), None)
        if index is not None:
            found[id(call)] = left.pop(index)
    return found


def _row(sampled_call: SampledCall, call: Call, reward: float | None, correct: bool, episode: int) -> Row:
    sampled = sampled_call.sampled
    return Row(
        prompt_ids=sampled_call.prompt_ids,
        completion_ids=list(sampled.ids),
        logprobs=list(sampled.logprobs),
        reward=reward,
        correct=correct,
        phase=str(call.phase),
        truncated=sampled.finish == "length",
        episode=episode,
    )


def _on(program: Operator, lm: Any, train_calls: TrainCalls) -> Operator:
    """A copy of the program that sends all calls to `lm`; where only a distiller's are trained, the other calls to the
    model without its adapter, if `lm` knows one."""
    copied = program.deepcopy()
    copied.set_lm(lm)
    for role in copied.schedule.roles:
        if train_calls in DISTILLER_CALLS and role != train_calls:
            copied.predictor(role).lm = getattr(lm, "base", lm)
    return copied


def _check_distiller(schedule: Schedule, train_calls: TrainCalls) -> None:
    """Raise ConfigError if a program makes no call of the kind that is trained, or if its picks are of one draft."""
    made = schedule.distill_role
    if train_calls in DISTILLER_CALLS and made != train_calls:
        other = f'it makes {made} calls, see `train_calls="{made}"`' if made in DISTILLER_CALLS else "it makes none"
        needed = "topk" if train_calls == "select" else "summary"
        raise ConfigError(
            f'`train_calls="{train_calls}"` trains the {train_calls} calls of a program such as '
            f'`Schedule(distiller="{needed}")`, got {schedule}: {other}'
        )
    if train_calls == "select" and max(schedule.widths) == 1:
        raise ConfigError(
            f'`train_calls="select"` trains picks, and {schedule} has one draft a round, which leaves nothing to pick; '
            "give it more drafts, such as `widths=(4, 1)`"
        )


def _check_sampling(schedule: Schedule, train_calls: TrainCalls) -> None:
    alone = train_calls in DISTILLER_CALLS
    distilled = schedule.temperature if schedule.distill_temperature is None else schedule.distill_temperature
    distills = distilled != TEMPERATURE and (train_calls == "all" or alone)
    for name, value, wrong in (
        ("temperature", schedule.temperature, schedule.temperature != TEMPERATURE and not alone),
        ("distill_temperature", schedule.distill_temperature, distills),
        ("top_p", schedule.top_p, schedule.top_p != 1.0),
    ):
        if wrong:
            raise ConfigError(
                f"`Schedule({name}={value})` samples from another distribution than the one that is trained; set "
                f"`{name}=1.0` for training"
            )


def _fraction(seed: int, purpose: str) -> float:
    """A number in [0, 1), determined by a seed and a purpose."""
    digest = hashlib.sha256(f"{seed}|{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _run(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in this thread, or in a new one if this thread already runs an event loop."""

    async def body() -> T:
        return await function()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(body())
    result: list[T] = []
    failure: list[BaseException] = []
    context = copy_context()

    def in_thread() -> None:
        try:
            result.append(context.run(asyncio.run, body()))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=in_thread, name="pdr-dspy-rollout")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
