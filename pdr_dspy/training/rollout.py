"""The rollout: LongCoT for long traces and the user's own program for operator groups, as they run at inference.

Nothing here describes PDR a second time. An episode is one `aforward` of the program on a `PolicyLM`; its ledger and
rounds say what each call was for, and the policy what it read and wrote as token ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase
from pdr_dspy.errors import ConfigError, PDRError
from pdr_dspy.evaluation.runner import Runner, inputs_of
from pdr_dspy.operators.loop import Round
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.training.policy_lm import Asked, PolicyLM
from pdr_dspy.training.rewards import PENALTY, Grader, Verdict, check_threshold, workspace_reward
from pdr_dspy.training.types import Group, Mode, Policy, Row, Sampled
from pdr_dspy.verifiers import Metric, Verifier, as_verifier

T = TypeVar("T")
TrainCalls = Literal["all", "refine", "drafts"]
"""Which calls of an operator episode are rows: all, with the reward of the final answer; the last one alone; or all
before the last round's that write a solution, each with the reward of its own answer."""
TEMPERATURE = 1.0
"""Of every trained call: the objective's log-probabilities are those of this distribution."""


class Episodes:
    """A `Rollout` (see rows.py) made of a program and a verifier.

    Long-trace episodes are the program's draft call alone. No round ends early (`quorum`, `agree`): a cancelled draft
    has no reward. Nothing is asked again (`json_fallback`): an answer that cannot be read is none. An episode that
    starts from a workspace runs the program with one more round before its own: the first round's drafts and their
    distillation are sampled from the same policy and are not trained, so what the trained calls then read is what a
    later round meets at inference.
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
            verifier: its score, at least `threshold`, is +1, else -1. A judge's calls are its own affair.
            train_calls: see `TrainCalls`.
            starts: share of the operator groups, a fraction, that start from a non-empty workspace.
            process_rewards: drafts earn by their own answers, and distill and select calls by whether the workspace
                keeps a right answer that was there; only with `train_calls="all"`.
            threshold: the least score that counts as right.
            trace_tokens: cap of a long trace's solution, in output tokens; None means the schedule's `draft_tokens`.
            template_options: handed to the tokenizer's chat template.

        Raises:
            ConfigError: an argument that cannot work, or a schedule that samples otherwise than the objective assumes.
        """
        if not isinstance(program, Operator):
            raise ConfigError(
                f"training takes an operator, such as `PDR(signature, schedule)`, not `{type(program).__name__}`: the "
                "rows of an episode are the calls of its schedule"
            )
        check_threshold(threshold)
        if train_calls not in get_args(TrainCalls):
            raise ConfigError(f"`train_calls={train_calls!r}` must be one of {', '.join(get_args(TrainCalls))}")
        if isinstance(starts, bool) or not isinstance(starts, int | float) or not 0 <= starts <= 1:
            raise ConfigError(f"`starts={starts!r}` must be a fraction in [0, 1]")
        if process_rewards and train_calls != "all":
            raise ConfigError(
                f'`process_rewards=True` rewards drafts and distillations, and needs `train_calls="all"`, '
                f"got {train_calls!r}"
            )
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
        """Tokens that prompt and completion may take together, where it is known; a schedule beyond it is refused."""
        # Every call of an episode is a row, and a sample of the policy: none is cancelled, none held to a form.
        schedule = program.schedule.replace(quorum=1.0, agree=None, json_fallback=False)
        self.trace_tokens = trace_tokens or schedule.draft_tokens
        self.schedule = schedule
        self.counts: Counter[str] = Counter()
        """Over all calls so far: `episodes`, `started` (from a workspace), `rounds_failed`, `fillers` (rows that stand
        for a call that was not made), `ungraded` (answers on which the verifier failed)."""
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
        """Whether groups of `rows` rows hold whole episodes, and enough of them for one to be better than another.

        Raises ConfigError with the sizes that would do.
        """
        each = self.rows_per_episode(mode)
        own = self.train_calls == "drafts" or self.process_rewards  # then calls of one episode differ in reward
        least = 2 * each if mode == "trace" or not own or each == 1 else each
        if rows < least or rows % each:
            raise ConfigError(
                f"a group of `num_generations={rows}` rows does not hold whole {mode} episodes of {each} trained "
                f"call{'s' if each > 1 else ''}, {'two' if least > each else 'one'} at the least; choose a multiple "
                f"of {each} from {least} on, such as {max(least, -(-rows // each) * each)}"
            )

    def check_operator(self) -> None:
        """Raise ConfigError when the program has no operator episodes, as a single pass has none."""
        if self.schedule.rounds == 1:
            raise ConfigError(
                f"an operator group needs a program of two rounds or more, and this one is {self.schedule}; give a "
                "PDR program, or long-trace groups alone"
            )

    def check_context(self, examples: Sequence[dspy.Example], tokenizer: Any) -> None:
        """Whether prompts, kappa and caps fit `context_length` for the longest questions.

        Raises ConfigError with the first example that does not fit, and what to change. Nothing is checked where the
        context is not known.
        """
        lm = PolicyLM(_Unable(tokenizer), template_options=self.template_options, context_length=self.context_length)
        programs = [_on(self._trace, lm), _on(self._operator, lm)]
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
        """Exactly `group.rows` rows for each group; all episodes of all groups run side by side."""
        for group in groups:
            if group.mode == "operator":
                self.check_operator()
            self.check_rows(group.rows, group.mode)
        return _run(lambda: self._roll(groups, policy))

    async def _roll(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        lm = PolicyLM(policy, template_options=self.template_options, context_length=self.context_length)
        programs = {mode: _on(program, lm) for mode, program in self._programs().items()}
        runner = Runner(self._operator, self.verifier, threads=16)
        started = self._choose(groups)
        plan = [
            _Episode(place, group, number, place in started)
            for place, group in enumerate(groups)
            for number in range(group.rows // self.rows_per_episode(group.mode))
        ]
        try:
            with dspy.context(trace=None):
                done = await lm.together([self._run_one(episode, programs) for episode in plan])
            self.batches = lm.batches
            graders = [Grader(runner, group.example, self._fields, self.threshold) for group in groups]
            made = await asyncio.gather(
                *(
                    self._rows(episode, ran, lm.asked[number], graders[episode.place])
                    for number, (episode, ran) in enumerate(zip(plan, done, strict=True))
                )
            )
        finally:
            runner.close()
        self.counts["episodes"] += len(plan)
        self.counts["started"] += sum(episode.started for episode in plan)
        self.counts["ungraded"] += sum(grader.failures for grader in graders)
        rows: list[list[Row]] = [[] for _ in groups]
        for episode, own in zip(plan, made, strict=True):
            rows[episode.place] += own
        return rows

    async def episode(self, group: Group, lm: Recording, *, started: bool = False, number: int = 0) -> list[Row]:
        """The rows of one episode of a group on a language model that records what it samples: for engines that run
        one episode at a time.

        Args:
            group: its `rows` are not looked at.
            lm: fresh for each episode.
            started: whether it begins from a workspace.
            number: which episode of the group it is; it decides the seed.
        """
        plan = _Episode(0, group, number, started)
        programs = {mode: _on(program, lm) for mode, program in self._programs().items()}
        runner = Runner(self._operator, self.verifier, threads=4)
        try:
            with dspy.context(trace=None), calls.session(store=None):
                ran = await self._run_one(plan, programs)()
            return await self._rows(plan, ran, lm.record, Grader(runner, group.example, self._fields, self.threshold))
        finally:
            runner.close()

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self._operator.task.output_fields)

    def _programs(self) -> dict[str, Operator]:
        return {"trace": self._trace, "operator": self._operator, "started": self._started}

    def _choose(self, groups: Sequence[Group]) -> set[int]:
        """The operator groups that start from a workspace: every 1 / `starts`-th, from a place that the seed gives."""
        places = [place for place, group in enumerate(groups) if group.mode == "operator"]
        if not places or not self.starts:
            return set()
        offset = _fraction(groups[places[0]].seed, "starts")
        return {
            place
            for count, place in enumerate(places)
            if int((count + 1) * self.starts + offset) > int(count * self.starts + offset)
        }

    def _run_one(self, episode: _Episode, programs: Mapping[str, Operator]) -> Callable[[], Awaitable[_Ran]]:
        group = episode.group
        program = programs["started" if episode.started else group.mode]
        seed = int(_fraction(group.seed, f"episode {episode.number}") * 2**31)

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(self.verifier(group.example, dspy.Prediction(**outputs)))

        async def run() -> _Ran:
            with calls.session(oracle=oracle, in_flight=None, on_call=None):
                try:
                    prediction = await program.acall(seed=seed, **inputs_of(program, group.example))
                except RoundFailed as error:
                    return _Ran(program.schedule.rounds, error.ledger, None)
            return _Ran(program.schedule.rounds, prediction.ledger, prediction.rounds)

        return run

    async def _rows(self, episode: _Episode, ran: _Ran, asked: Sequence[Asked], grader: Grader) -> list[Row]:
        """The rows of one episode."""
        first = 2 if episode.started else 1
        own = _matched(ran.ledger, asked)
        seen = [call for call in ran.ledger.calls if id(call) in own]
        if not seen:
            raise PDRError("none of an episode's calls gave a token; see the server's log")
        drafts = await _graded(ran.rounds or (), grader)
        final = drafts.get((ran.length, 0), Verdict(PENALTY, "every draft of a round failed"))
        trained = [call for call in seen if self._is_trained(call, ran.length, first)]
        rows = [_row(own[id(call)], call, *self._earned(call, ran, drafts, final), episode.number) for call in trained]
        self.counts["rounds_failed"] += ran.rounds is None
        missing = self.rows_per_episode(episode.group.mode) - len(rows)
        if missing:
            self.counts["fillers"] += missing
            call = (trained or seen)[0]
            rows += [_row(own[id(call)], call, None, False, episode.number)] * missing
        return rows

    def _is_trained(self, call: Call, length: int, first: int) -> bool:
        if call.round < first:
            return False
        if length == 1 or self.train_calls == "all":
            return True
        last = call.round == length
        return last if self.train_calls == "refine" else not last and call.phase in _SOLVING

    def _earned(
        self, call: Call, ran: _Ran, drafts: Mapping[tuple[int, int], Verdict], final: Verdict
    ) -> tuple[float | None, bool]:
        """A trained call's reward, and whether it belongs to I+."""
        if call.phase in _SOLVING and call.round < ran.length:
            known = drafts.get((call.round, call.index))
            if known is None:  # every draft of some round failed, and what others had answered is not known
                known = Verdict(PENALTY if call.failure else None, "")
            by_itself = self.train_calls == "drafts" or self.process_rewards
            return (known if by_itself else final).reward, known.right
        if self.process_rewards and call.phase in _DISTILLING and ran.rounds is not None:
            return self._kept(call, ran.rounds[call.round - 1], drafts), final.right
        return final.reward, final.right

    def _kept(self, call: Call, round_: Round, drafts: Mapping[tuple[int, int], Verdict]) -> float | None:
        right = [drafts[call.round, draft.index].right for draft in round_.drafts]
        if any(right) and call.failure is not None:
            return PENALTY  # what stands in the workspace is not of its making
        workspace = round_.workspaces[call.index if call.index < len(round_.workspaces) else 0]
        return workspace_reward(round_.drafts, right, workspace, fields=self._fields, chosen=call.phase is Phase.SELECT)


def operator_rows(schedule: Schedule, train_calls: TrainCalls) -> int:
    """Trained calls of one operator episode."""
    if train_calls == "refine":
        return 1
    return schedule.calls if train_calls == "all" else sum(schedule.widths[:-1])


class _Unable(NamedTuple):
    """A policy that can only count."""

    tokenizer: Any

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        raise NotImplementedError


class Recording(Protocol):
    """A `dspy.LM` that keeps, in `record`, what was asked of it."""

    record: list[Asked]


_CHECKED = 32
"""Questions, the longest, whose prompts are counted before training."""


class _Episode(NamedTuple):
    place: int
    """Of its group."""
    group: Group
    number: int
    """From 0, within the group."""
    started: bool
    """Whether it begins from a workspace."""


class _Ran(NamedTuple):
    """How an episode went."""

    length: int
    """Its rounds, the untrained first one included."""
    ledger: Ledger
    rounds: tuple[Round, ...] | None
    """None when every draft of a round failed."""


_SOLVING = (Phase.DRAFT, Phase.REFINE)
_DISTILLING = (Phase.DISTILL, Phase.SELECT)


async def _graded(rounds: Sequence[Round], grader: Grader) -> dict[tuple[int, int], Verdict]:
    """The verdict on each draft's own answer, by round (from 1) and index. A fallback to another draft is no answer."""
    drafts = [draft for round_ in rounds for draft in round_.drafts]
    return {(draft.round, draft.index): await grader.grade(draft.outputs) for draft in drafts}


def _matched(ledger: Ledger, asked: Sequence[Asked]) -> dict[int, Asked]:
    """What the policy saw of each call that it answered, by the call's identity."""
    left = list(asked)  # those of one seed in the ledger's order
    found: dict[int, Asked] = {}
    for call in ledger.calls:
        place = next((place for place, own in enumerate(left) if own.seed == call.seed), None)
        if place is not None:
            found[id(call)] = left.pop(place)
    return found


def _row(asked: Asked, call: Call, reward: float | None, correct: bool, episode: int) -> Row:
    sampled = asked.sampled
    return Row(
        prompt_ids=asked.prompt_ids,
        completion_ids=list(sampled.ids),
        logprobs=list(sampled.logprobs),
        reward=reward,
        correct=correct,
        phase=str(call.phase),
        truncated=sampled.finish == "length",
        episode=episode,
    )


def _on(program: Operator, lm: Any) -> Operator:
    """A copy whose every call goes to `lm`."""
    copied = program.deepcopy()
    copied.set_lm(lm)
    return copied


def _check_sampling(schedule: Schedule, train_calls: TrainCalls) -> None:
    distills = schedule.distill_temperature not in (None, TEMPERATURE) and train_calls == "all"
    for name, value, wrong in (
        ("temperature", schedule.temperature, schedule.temperature != TEMPERATURE),
        ("distill_temperature", schedule.distill_temperature, distills),
        ("top_p", schedule.top_p, schedule.top_p != 1.0),
    ):
        if wrong:
            raise ConfigError(
                f"`Schedule({name}={value})` samples from another distribution than the one that is trained; set "
                f"`{name}=1.0` for training"
            )


def _fraction(seed: int, purpose: str) -> float:
    """A number in [0, 1) that a seed and a purpose decide."""
    digest = hashlib.sha256(f"{seed}|{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _run(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in this thread, where the model is; in one of its own where this thread's loop runs."""

    async def body() -> T:
        return await function()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(body())
    result: list[T] = []
    failure: list[BaseException] = []
    context = copy_context()

    def other() -> None:
        try:
            result.append(context.run(asyncio.run, body()))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=other, name="pdr-dspy-rollout")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
