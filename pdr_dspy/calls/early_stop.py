"""A stage of calls that may end before all of them are there: the others are cancelled, and their connections closed.

The calls go out as single requests, never as one request for n completions, of which none could be cancelled alone.

What is in the store counts as if it were asked now. Where the rule looks at the answers alone, in the order of the
indices, stored drafts are there at once, and nothing is sent when they decide. Where it looks at who is done first, a
stored draft arrives after the seconds that it once took; when all are stored nothing is waited for. How a stage ended
is itself kept in the store, so that a replay takes the same drafts and costs the same.
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
    """Of each call; its index is its position here."""
    places: Sequence[int]
    """Where in the stage each call stands, from 0."""


Ends = Callable[[Sequence[Reply | None]], Awaitable[tuple[int, ...] | None]]
"""Given the reply at each place, None where there is none yet: the places to go on with, or None to wait for more. When
every reply is there it must decide."""
Examine = Callable[[int, Reply], Awaitable[Any]]
"""What is done with the reply at a place before `Ends` is shown it, such as checking it. Replies are examined side by
side, and while others are still written; what is under way when the stage ends is cancelled."""


async def ask_until(
    parts: Sequence[Part],
    ends: Ends,
    *,
    rule: str,
    in_order: bool,
    first_wave: int | None = None,
    examine: Examine | None = None,
) -> list[Reply]:
    """Make the calls of a stage side by side until `ends` has enough; return a reply for each place.

    `Call.fate` says of each whether the stage went on with it. A call that was cancelled has the finish "cancelled" and
    an estimate of what it cost. Failures are recorded, as by `calls.ask`, never raised; StoreError is.

    Args:
        parts: who is asked what; their places are 0 to n - 1, each once.
        ends: the rule.
        rule: names the rule and its settings, so that stages under different rules are kept apart in the store.
        in_order: the rule does not look at the order in which calls end.
        first_wave: the calls at the first so many places are made first, and the others only when the rule has not
            enough of those: a second wave, which waits for the first (`Call.wave`). None makes all of them at once.
        examine: what comes before the rule; None is nothing. Replays of a stage that ended before do not examine.
    """
    now = calls.current()
    places: list[_Place] = []
    for part in parts:
        lm, jobs = await calls.prepare(part.predictor, part.inputs, site=part.site, sampling=part.sampling)
        for index, (place, job) in enumerate(zip(part.places, jobs, strict=True)):
            wave = int(first_wave is not None and place >= first_wave)
            places.append(_Place(place, part, lm, index, job, wave))
    places.sort(key=lambda place: place.number)
    if any(place.job.fallback is not None for place in places):
        rule = f"{rule} json_fallback"  # more drafts answer, and so it may end elsewhere
    key = address({"stage": [place.job.key for place in places], "rule": rule})
    stage = _Stage(places, ends, examine, now, in_order, key)
    await stage.run()
    for place in places:
        assert place.reply is not None
        place.reply = _in_wave(place.reply, place.wave)
        calls.tell(place.part.predictor, place.part.inputs[place.index], place.reply, now)
    return [place.reply for place in places if place.reply is not None]


class _Place:
    """One call of a stage, as far as it has come."""

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
        """When its latest request went out, after its wait for a place in flight."""
        self.ended = 0.0
        self.before: list[tuple[Job, Result]] = []
        """Requests of its turn that have ended, when another one followed."""
        self.ready = False
        """Whether the rule may look at its reply."""

    def finish(self, result: Result) -> None:
        self.result = result
        self.reply = calls.reply_of(self.part.predictor, self.lm, self.job, result)

    def judge(self, *, taken: bool) -> None:
        """Write down whether the stage went on with it."""
        assert self.reply is not None
        fate = {"fate": "taken" if taken else "left"}
        others = tuple(other.model_copy(update=fate) for other in self.reply.others)
        self.reply = self.reply._replace(call=self.reply.call.model_copy(update=fate), others=others)

    def cancel(self, usage: Usage, seconds: float, *, reused: bool, estimated: bool = True) -> None:
        """Leave it unfinished, with what its latest request cost until then."""
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
        """How long a finished call took when it was made."""
        assert self.result is not None
        return self.result.took


class _Stage:
    """Runs the calls of a stage until its rule has enough."""

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
        if record is not None and self._as_before(record.text):
            return
        for wave in sorted({place.wave for place in self.places}):
            if self.taken is None:
                await self._make([place for place in self.places if place.wave == wave])
        await self._settle()
        if self.sent:
            await self._keep()

    async def _make(self, wave: Sequence[_Place]) -> None:
        """The calls of a wave: those in the store first where that changes nothing, then the missing ones."""
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
        """Look at stored calls one after the other, as they once ended, until the rule has enough; they are examined
        side by side."""
        arriving = {number: self._arriving(number) for number in numbers} if self.examine is not None else {}
        try:
            for number in numbers:
                if self.taken is not None:
                    break
                if number in arriving:
                    await arriving[number]
                else:
                    self.places[number].finish(self.stored[number])
                await self._look(self.places[number])
        finally:
            for task in arriving.values():
                task.cancel()
            await asyncio.gather(*arriving.values(), return_exceptions=True)
        for number in arriving:
            if not self.places[number].ready:  # the rule had enough without it
                self.places[number].result = self.places[number].reply = None

    def _arriving(self, number: int) -> asyncio.Task[None]:
        """A stored call that comes now."""
        self.places[number].finish(self.stored[number])
        return asyncio.ensure_future(self._examined(self.places[number]))

    async def _examined(self, place: _Place) -> None:
        if self.examine is not None and place.reply is not None:
            await self.examine(place.number, place.reply)

    async def _look(self, place: _Place) -> None:
        place.ready = True
        if self.taken is None:
            self.taken = await self.ends([one.reply if one.ready else None for one in self.places])

    async def _send(self, missing: Sequence[_Place], waiting: list[int]) -> None:
        """Ask for what is missing, until the rule has enough; then close what still runs."""
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
                        await self._look(self.places[number])
                    else:
                        task = self._arriving(number)
                        tasks[task] = self.places[number]
                        running.add(task)
                    continue
                left = self.stored[waiting[0]].took - elapsed if waiting else None
                done, running = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: tasks[task].number):
                    task.result()  # raises what it raised
                    await self._look(tasks[task])
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # one that ended at that moment has its reply; raises what it raised

    async def _answered(self, place: _Place) -> None:
        """Ask, and examine what came."""
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
        """Say of each call what became of it, and what those that did not finish cost."""
        assert self.taken is not None
        for number in self.taken:
            self.places[number].judge(taken=True)
        rate = _rate([rollout for place in self.places for rollout in place.rollouts])
        for place in self.places:
            old = self.stored.get(place.number)
            if place.number in self.taken:
                continue
            if place.wave >= self.waves:  # nobody waited for its wave
                place.cancel(Usage(input=0, output=0), 0.0, reused=False, estimated=False)
                continue
            longest = max(taken.seconds for taken in self._taken() if taken.wave == place.wave)
            if old is not None and old.took > longest:  # it would have run no longer than the others
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
        """Tokens of the prompt of a call: as reported of a finished sibling, else as they can be counted."""
        job = place.latest
        siblings = [other.rollouts[:1] for other in self.places if other.job.prompt == job.prompt]
        said = [rollout.usage.input or 0 for first in siblings for rollout in first]
        if max(said, default=0) > 0:
            return max(said)
        prompt = prompt_text(job.messages)
        (counted,), _ = await dispatch.count_tokens(place.lm, [prompt])
        return counted

    # --- the record of how it ended ---

    async def _keep(self) -> None:
        """Only of a stage without failures: a failed call is asked again next time, and its stage runs again."""
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

    def _as_before(self, text: str) -> bool:
        """Take the calls as the record says; False, and nothing done, when what it names is not in the store."""
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
    """Output tokens a second of finished calls; None when their seconds are not known."""
    known = [(rollout.usage.output, rollout.seconds) for rollout in rollouts if rollout.usage.output is not None]
    seconds = sum(each for _, each in known)
    return sum(output for output, _ in known) / seconds if seconds > 0 else None


def _spent(result: Result) -> Usage:
    """Tokens of a turn."""
    first, *more = [rollout.usage for rollout in result.rollouts]
    return sum(more, first)


def _share(usage: Usage, share: float) -> Usage:
    """What a call had cost when this share of its time was over: its whole prompt, and a part of its output."""
    return Usage(input=usage.input, output=None if usage.output is None else math.floor(usage.output * share))
