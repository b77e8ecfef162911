"""A stage of calls that may end before all of them have finished: the others are cancelled and their connections
closed.

Calls are sent as single requests, never as one request for n completions, whose parts could not be cancelled alone.

Stored completions count as if they were requested now. If the rule depends on the answers alone, in the order of the
indices, stored drafts are available at once, and nothing is sent if they decide. If it depends on which call finishes
first, a stored draft arrives after the seconds it originally took; if all are stored there is no wait. The end of a
stage is itself kept in the store, so that a replay takes the same drafts and costs the same.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import dspy

from pdr_dspy import calls
from pdr_dspy.calls import dispatch
from pdr_dspy.calls.context import Session
from pdr_dspy.calls.dispatch import Result
from pdr_dspy.calls.ledger import Call, Usage
from pdr_dspy.calls.predict import Reply, ended_calls
from pdr_dspy.calls.request import Job, Sampling
from pdr_dspy.calls.site import CallSite
from pdr_dspy.calls.store import Rollout, address
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.prompts.parse import Reading
from pdr_dspy.prompts.roles import signature_of


class Part(NamedTuple):
    """The calls of one predictor within a stage."""

    predictor: dspy.Predict
    site: CallSite
    sampling: Sampling
    inputs: Sequence[Mapping[str, Any]]
    """Inputs of each call; a call's index is its position here."""
    places: Sequence[int]
    """The number of each call within the stage, from 0."""


Ends = Callable[[Sequence[Reply | None]], Awaitable[tuple[int, ...] | None]]
"""Takes the reply of each call, None for one that has not finished; returns the numbers of the calls to continue with,
or None to wait for more. It must decide once every reply has arrived."""
Examine = Callable[[int, Reply], Awaitable[Any]]
"""Called with a call's number and its reply before `Ends` sees it, for example to check it. Replies are examined
concurrently, while others are still written; pending examinations are cancelled when the stage ends."""


async def ask_until(
    parts: Sequence[Part],
    ends: Ends,
    *,
    rule: str,
    in_order: bool,
    wave_of: Callable[[int], int] = lambda place: 0,
    examine: Examine | None = None,
) -> list[Reply]:
    """Run the calls of a stage concurrently until `ends` decides; return a reply for each call.

    `Call.fate` records whether the stage continued with a call. A cancelled call has the finish "cancelled" and an
    estimate of its cost. Failures are recorded, as by `calls.ask`, never raised; StoreError is raised.

    Args:
        parts: the predictors and their inputs; their places are 0 to n - 1, each once.
        ends: the rule.
        rule: names the rule and its settings, so that stages under different rules have different keys in the store.
        in_order: the rule does not depend on the order in which calls finish.
        wave_of: the wave of a call, from 0, by its number: a wave waits for the one before (`Call.wave`), and is made
            only if the rule cannot decide without it. Unless given, all calls are made at once.
        examine: called with each reply before the rule sees it; None for no examination. A replayed stage is not
            examined again.
    """
    now = calls.current()
    places: list[_Place] = []
    for part in parts:
        lm, jobs = await calls.prepare(part.predictor, part.inputs, site=part.site, sampling=part.sampling)
        for index, (place, job) in enumerate(zip(part.places, jobs, strict=True)):
            places.append(_Place(place, part, lm, index, job, wave_of(place)))
    places.sort(key=lambda place: place.number)
    if any(place.job.fallback is not None for place in places):
        rule = f"{rule} json_fallback"  # more drafts can be read, so the stage may end differently
    key = address({"stage": [place.job.key for place in places], "rule": rule})
    stage = _Stage(places, ends, examine, now, in_order, key)
    await stage.run()
    for place in places:
        assert place.reply is not None
        place.reply = _in_wave(place.reply, place.wave)
        calls.tell(place.part.predictor, place.part.inputs[place.index], place.reply, now)
    return [place.reply for place in places if place.reply is not None]


class _Place:
    """The state of one call of a stage."""

    def __init__(self, number: int, part: Part, lm: dspy.LM, index: int, job: Job, wave: int = 0) -> None:
        self.number = number
        self.part = part
        self.lm = lm
        self.index = index
        self.job = job
        self.wave = wave
        self.result: Result | None = None
        self.reply: Reply | None = None
        self.begun: float | None = None
        """When its latest request was sent, after its wait for the bound on requests in flight."""
        self.ended = 0.0
        self.before: list[tuple[Job, Result]] = []
        """Requests of its turn that have ended, when another one followed."""
        self.ready = False
        """Whether the rule may see its reply."""

    def finish(self, result: Result) -> None:
        self.result = result
        self.reply = calls.reply_of(self.part.predictor, self.lm, self.job, result)

    def judge(self, *, taken: bool) -> None:
        """Record whether the stage continued with this call."""
        assert self.reply is not None
        fate = {"fate": "taken" if taken else "left"}
        others = tuple(other.model_copy(update=fate) for other in self.reply.others)
        self.reply = self.reply._replace(call=self.reply.call.model_copy(update=fate), others=others)

    def cancel(self, usage: Usage, seconds: float, *, reused: bool, estimated: bool = True) -> None:
        """Record the call as cancelled, with the cost of its latest request until then."""
        self.result = None
        job = self.latest
        phase, round_number, index = job.place
        call = Call(
            phase=phase,
            round=round_number,
            index=index,
            part=job.part,
            model=self.lm.model,
            seed=job.seed,
            cap=job.cap if job.part else self.part.sampling.cap,
            usage=usage,
            finish="cancelled",
            seconds=0.0 if reused else round(seconds, 4),
            reused=reused,
            estimated=estimated,
            tries=int(estimated),
            fate="left",
            key=job.key,
            prompt=job.prompt[:12],
            price=calls.price_of(self.lm),
        )
        ended = [each.model_copy(update={"fate": "left"}) for each in ended_calls(self.lm, self.before, job)]
        missing = tuple(signature_of(self.part.predictor).output_fields)
        self.reply = Reply(call, "", Reading({}, missing), tuple(ended))

    @property
    def latest(self) -> Job:
        """The request of its turn that is under way."""
        if not self.before:
            return self.job
        job, result = self.before[-1]
        following = None if result.rollout is None else dispatch.following(self.lm, job, result.rollout)
        assert following is not None
        return following

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions of its turn, as far as there are any."""
        if self.result is not None:
            return self.result.rollouts
        return [result.rollout for _, result in self.before if result.rollout is not None]

    @property
    def seconds(self) -> float:
        """Seconds that a finished call took when it was first made."""
        assert self.result is not None
        return self.result.took


class _Stage:
    """Runs the calls of a stage until its rule decides."""

    def __init__(
        self, places: list[_Place], ends: Ends, examine: Examine | None, now: Session, in_order: bool, key: str
    ) -> None:
        self.places = places
        self.ends = ends
        self.examine = examine
        self.now = now
        self.in_order = in_order
        self.key = key
        self.stored: dict[int, Result] = {}
        self.taken: tuple[int, ...] | None = None
        self.waves = 0
        """How many began."""
        self.sent = False

    async def run(self) -> None:
        for place in self.places:
            result = dispatch.replayed(place.lm, place.job, self.now.store)
            if result is not None:
                self.stored[place.number] = result
        record = self.now.store.get(self.key)
        if record is not None and self._restore(record.text):
            return
        for wave in sorted({place.wave for place in self.places}):
            if self.taken is None:
                await self._make([place for place in self.places if place.wave == wave])
        await self._settle()
        if self.sent:
            await self._keep()

    async def _make(self, wave: Sequence[_Place]) -> None:
        """Run the calls of a wave: stored ones first where that does not affect the result, then the missing ones."""
        self.waves += 1
        numbers = [place.number for place in wave if place.number in self.stored]
        waiting = sorted(numbers, key=lambda number: (self.stored[number].took, number))
        missing = [place for place in wave if place.number not in self.stored]
        if self.in_order or not missing:
            await self._replay(waiting)
            waiting = []
        if self.taken is None and missing:
            self.sent = True
            await self._send(missing, waiting)

    async def _replay(self, numbers: Sequence[int]) -> None:
        """Apply the rule to stored calls in the order in which they originally ended, until it decides; they are
        examined concurrently."""
        arriving = {number: self._arriving(number) for number in numbers} if self.examine is not None else {}
        try:
            for number in numbers:
                if self.taken is not None:
                    break
                if number in arriving:
                    await arriving[number]
                else:
                    self.places[number].finish(self.stored[number])
                await self._check_rule(self.places[number])
        finally:
            for task in arriving.values():
                task.cancel()
            await asyncio.gather(*arriving.values(), return_exceptions=True)
        for number in arriving:
            if not self.places[number].ready:  # the rule decided without it
                self.places[number].result = self.places[number].reply = None

    def _arriving(self, number: int) -> asyncio.Task[None]:
        """A stored call whose examination starts now."""
        self.places[number].finish(self.stored[number])
        return asyncio.ensure_future(self._examined(self.places[number]))

    async def _examined(self, place: _Place) -> None:
        if self.examine is not None and place.reply is not None:
            await self.examine(place.number, place.reply)

    async def _check_rule(self, place: _Place) -> None:
        place.ready = True
        if self.taken is None:
            self.taken = await self.ends([one.reply if one.ready else None for one in self.places])

    async def _send(self, missing: Sequence[_Place], waiting: list[int]) -> None:
        """Send the missing calls until the rule decides; then cancel those that still run."""
        started = time.perf_counter()
        tasks: dict[asyncio.Task[None], _Place] = {
            asyncio.ensure_future(self._answered(place)): place for place in missing
        }
        running = set(tasks)
        try:
            while self.taken is None and (running or waiting):
                elapsed = time.perf_counter() - started
                if waiting and (not running or self.stored[waiting[0]].took <= elapsed):
                    number = waiting.pop(0)
                    if self.examine is None:
                        self.places[number].finish(self.stored[number])
                        await self._check_rule(self.places[number])
                    else:
                        task = self._arriving(number)
                        tasks[task] = self.places[number]
                        running.add(task)
                    continue
                left = self.stored[waiting[0]].took - elapsed if waiting else None
                done, running = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: tasks[task].number):
                    task.result()  # re-raises the task's error
                    await self._check_rule(tasks[task])
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # re-raises the task's error; a task that ended just now has its reply

    async def _answered(self, place: _Place) -> None:
        """Send the call, and examine its reply."""
        place.finish(await self._ask(place))
        await self._examined(place)

    async def _ask(self, place: _Place) -> Result:
        def begun() -> None:
            place.begun = time.perf_counter()

        def followed(job: Job, result: Result) -> None:
            place.before.append((job, result))
            place.begun = None

        tokens = dispatch.BEGUN.set(begun), dispatch.FOLLOWED.set(followed)
        try:
            (result,) = await dispatch.send(place.lm, [place.job], self.now)
        finally:
            place.ended = time.perf_counter()
            dispatch.BEGUN.reset(tokens[0])
            dispatch.FOLLOWED.reset(tokens[1])
        return result

    async def _settle(self) -> None:
        """Record the outcome of each call, and the cost of the calls that did not finish."""
        assert self.taken is not None
        for number in self.taken:
            self.places[number].judge(taken=True)
        rate = _rate([rollout for place in self.places for rollout in place.rollouts])
        for place in self.places:
            old = self.stored.get(place.number)
            if place.number in self.taken:
                continue
            if place.wave >= self.waves:  # its wave was never started
                place.cancel(Usage(input=0, output=0), 0.0, reused=False, estimated=False)
                continue
            longest = max(taken.seconds for taken in self._taken() if taken.wave == place.wave)
            if old is not None and old.took > longest:  # it would not have run longer than the others
                place.cancel(_share(_spent(old), longest / old.took), longest, reused=True)
            elif old is not None and place.reply is None:
                place.finish(old)
                place.judge(taken=False)
            elif place.reply is not None:
                place.judge(taken=False)
            elif self.sent and place.begun is None:
                place.cancel(Usage(input=0, output=0), 0.0, reused=False, estimated=False)
            else:
                seconds = place.ended - place.begun if place.begun is not None else longest
                cap = place.latest.cap if place.before else place.part.sampling.cap
                output = cap if rate is None else min(cap, round(rate * seconds))
                usage = Usage(input=await self._prompt(place), output=output)
                place.cancel(usage, seconds, reused=not self.sent)

    def _taken(self) -> list[_Place]:
        return [self.places[number] for number in self.taken or ()]

    async def _prompt(self, place: _Place) -> int:
        """Prompt tokens of a call's latest request: as reported for a finished sibling, otherwise counted."""
        job = place.latest
        siblings = [other.rollouts[:1] for other in self.places if other.job.prompt == job.prompt]
        reported = [rollout.usage.input or 0 for first in siblings for rollout in first]
        if max(reported, default=0) > 0:
            return max(reported)
        prompt = prompt_text(job.messages)
        (counted,), _ = await dispatch.count_tokens(place.lm, [prompt])
        return counted

    # --- the stored record of a stage's end ---

    async def _keep(self) -> None:
        """Store the end of a stage without failures: a failed call is sent again next time, and its stage runs
        again."""
        entries: list[Any] = []
        for place in self.places:
            assert place.reply is not None
            call = place.reply.call
            if call.cancelled:
                ended = [len(place.before)] if place.before else []
                entries.append([call.usage.input, call.usage.output, call.seconds, call.estimated, *ended])
            elif place.result is None or not place.result.whole:
                return
            else:
                entries.append(call.fate)
        if all(entry == "taken" for entry in entries):
            return
        record = Rollout(key=self.key, text=json.dumps(entries))
        if self.now.store.slow:
            await asyncio.to_thread(self.now.store.put, record)
        else:
            self.now.store.put(record)

    def _restore(self, text: str) -> bool:
        """Restore the stage from its stored record; return False, and change nothing, if a completion is not in the
        store."""
        entries = json.loads(text)
        finished = {place for place, entry in enumerate(entries) if isinstance(entry, str)}
        if not finished <= self.stored.keys():
            return False
        before = []
        for place, entry in zip(self.places, entries, strict=True):
            ended = entry[4] if isinstance(entry, list) and len(entry) > 4 else 0
            before.append(dispatch.ended_requests(place.lm, place.job, self.now.store, ended))
            if len(before[-1]) < ended:
                return False
        for place, entry in zip(self.places, entries, strict=True):
            if isinstance(entry, str):
                place.finish(self.stored[place.number])
                place.judge(taken=entry == "taken")
            else:
                inputs, outputs, seconds, estimated = entry[:4]
                place.before = before[place.number]
                place.cancel(Usage(input=inputs, output=outputs), seconds, reused=True, estimated=estimated)
        return True


def _in_wave(reply: Reply, wave: int) -> Reply:
    """The reply with its calls in this wave."""
    if not wave:
        return reply
    calls_in = [call.model_copy(update={"wave": wave}) for call in (reply.call, *reply.others)]
    return reply._replace(call=calls_in[0], others=tuple(calls_in[1:]))


def _rate(rollouts: Sequence[Rollout]) -> float | None:
    """Output tokens per second of finished calls; None when their durations are unknown."""
    known = [(rollout.usage.output, rollout.seconds) for rollout in rollouts if rollout.usage.output is not None]
    seconds = sum(each for _, each in known)
    return sum(output for output, _ in known) / seconds if seconds > 0 else None


def _spent(result: Result) -> Usage:
    """Tokens of a turn."""
    first, *more = [rollout.usage for rollout in result.rollouts]
    return sum(more, first)


def _share(usage: Usage, share: float) -> Usage:
    """The estimated cost of a call after this share of its duration: its whole prompt and that share of its output."""
    return Usage(input=usage.input, output=None if usage.output is None else math.floor(usage.output * share))
