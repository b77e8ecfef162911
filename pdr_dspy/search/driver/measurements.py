"""The measurements of a search: answers the plan's requests from the journal, otherwise by running programs.

The rows of all programs of a request on one (question, repeat) are one entry of the journal. A search that was killed
runs the pairs again that have no entry; their finished calls are in the store, and are not paid for again.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import dspy
from pydantic import BaseModel, ValidationError

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import EndpointError, PDRError, StoreError
from pdr_dspy.evaluation.drafts import drafts_in, pass_prompt
from pdr_dspy.evaluation.executors import Executor, Local, Rows, RowSettings
from pdr_dspy.evaluation.failures import FirstFailures
from pdr_dspy.evaluation.records import Row, lean
from pdr_dspy.evaluation.texts import TEXTS, Room, TextFile
from pdr_dspy.operators.nested import served_in
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.driver.journal import Journal
from pdr_dspy.search.racing.cost_model import Profile, Tally
from pdr_dspy.search.racing.requests import Cell, Measure, Pair, Stage
from pdr_dspy.search.replays import Order
from pdr_dspy.search.space.candidate import Candidate, program_with
from pdr_dspy.verifiers.base import Verifier

FINAL_SEED = 15_485_863
"""Added to the search's seed for the finalists: none of its samples were used in choosing them."""
CONFIRMATION_SEED = 104_729
"""Added to the search's seed for the confirmation."""
SEEDS = {Stage.RACE: 0, Stage.FINAL: FINAL_SEED, Stage.CONFIRM: CONFIRMATION_SEED}
ATTEMPTS = 3
"""How often a unit is run before a failure of the server counts as the program's; before the last time the server must
have answered another request."""
PROBES = 3
"""Other questions that a server is tried with before it counts as down: a single one may be too much for it."""

MOST_FAILED = 8
"""Questions in a row on which every program fails before a search stops."""

UNCONNECTED = re.compile(
    r"no server answers at|connect call failed|connection refused|failed to connect", re.IGNORECASE
)
"""How the errors of `connect`, dspy.LM and the operating system say that nothing listens at an address."""

OnRow = Callable[[Stage, Row, int, int], None]
"""Called with each row, the number of finished pairs of the request, and their total."""


class Measurements:
    """The rows of a search's programs, by stage."""

    def __init__(
        self,
        student: dspy.Module,
        verifier: Verifier,
        sets: Mapping[Stage, Sequence[tuple[str, dspy.Example]]],
        *,
        journal: Journal,
        store: Rollouts,
        seed: int,
        max_in_flight: int,
        confirmed_in: str = "confirm",
        on_row: OnRow | None = None,
        texts_in: Room | None = None,
        executor: Executor | None = None,
    ) -> None:
        """
        Args:
            student: runs unchanged under the number 0; candidates are applied to copies of it.
            verifier: returns a score in [0, 1].
            sets: (id, example) of each question of each stage.
            journal: of the search; has finished measurements.
            store: of the calls.
            seed: of the search.
            max_in_flight: maximum requests in flight, of each process that runs rows.
            confirmed_in: a name for the held-out questions: a later confirmation of the search may use others.
            on_row: called after every row that was run.
            texts_in: where the texts of rows are kept for people to read; None keeps none.
            executor: where rows are run; None is this process.
        """
        self.executor = Local() if executor is None else executor
        self.student = student
        self.verifier = verifier
        self.sets = sets
        self.journal = journal
        self.store = store
        self.seed = seed
        self.max_in_flight = max_in_flight
        self.confirmed_in = confirmed_in
        self.on_row = on_row
        self.texts_in = texts_in
        self.rows: dict[tuple[Stage, int, Pair], Row] = {}
        """All measurements so far."""
        self._by_arm: dict[tuple[Stage, int], dict[Pair, Row]] = {}
        self._taken: set[str] = set()
        """Entries of the journal whose rows are known."""
        self._tally = Tally()
        self.order = Order()
        """The order of the operators' calls in all rows so far."""
        self._programs: dict[int, dspy.Module] = {0: student}
        self.first_failures = FirstFailures()
        self._held: dict[str, tuple[Measure, Pair, dict[int, Row]]] = {}
        """Units since the last answer in which every program failed: not in the journal before another one answers."""

    def measure(self, request: Measure) -> dict[tuple[int, Pair], Cell]:
        """All cells of a request: from the journal, or run now and put there.

        Raises:
            EndpointError: the model server is down; finished measurements are kept.
            ExecutorError: the executor's processes are gone; the same.
            StoreError: journal or store cannot be used.
        """
        missing = self.missing(request)
        if missing:
            event_loop.run(lambda: self._run(request, missing))
        return self._cells(request)

    def known(self, request: Measure) -> dict[tuple[int, Pair], Cell] | None:
        """The cells of a request if all of them are in the journal; None, at no cost, if some are not."""
        return None if self.missing(request) else self._cells(request)

    def missing(self, request: Measure) -> list[Pair]:
        """The pairs of a request that are not in the journal, at no cost; those that are in it are read."""
        missing = []
        for pair in request.pairs:
            name = self._name(request, pair)
            if name in self._taken:
                continue
            if (text := self.journal.get(name)) is None:
                missing.append(pair)
            else:
                self._take(request, pair, name, _rows_in(name, text))
        return missing

    def _cells(self, request: Measure) -> dict[tuple[int, Pair], Cell]:
        return {
            (arm, pair): cell(self.rows[request.stage, arm, pair], arm, pair)
            for arm in request.arms
            for pair in request.pairs
        }

    async def _run(self, request: Measure, missing: Sequence[Pair]) -> None:
        """Run all programs of a request on the missing pairs, and put each pair's rows into the journal."""
        queue = deque(missing)
        done = len(request.pairs) - len(missing)
        side_by_side = self.executor.side_by_side(max(1, -(-self.max_in_flight // len(request.arms))))
        how = RowSettings(seed=self.seed + SEEDS[request.stage], in_flight=self.max_in_flight, sharing=True)
        texts = self._text_files(request)

        async def serve() -> None:
            nonlocal done
            while queue:
                pair = queue.popleft()
                rows = await self._unit(request.stage, runners, pair)
                if all(row.failure is not None for row in rows.values()):
                    await self._hold(request, pair, rows)
                    done += 1
                    continue
                await self._release()
                await self._record(request, pair, self._name(request, pair), rows)
                done += 1
                if self.on_row is not None:
                    for row in rows.values():
                        self.on_row(request.stage, row, done, len(request.pairs))

        with calls.session(store=self.store, in_flight=asyncio.Semaphore(self.max_in_flight)):
            await asyncio.to_thread(self.store.refresh)  # other searches may share the store
            runners: dict[int, Rows] = {}
            try:
                # The widest starts first: its drafts are one request, which the others join.
                for arm, candidate in sorted(request.arms.items(), key=lambda one: -one[1].schedule.widths[0]):
                    keep = texts[arm].keep if arm in texts else None
                    program = self._program(arm, candidate)
                    runners[arm] = self.executor.rows(program, self.verifier, how, on_texts=keep)
                await calls.together(serve() for _ in range(min(side_by_side, len(queue))))
                if self._held and not self.rows and not await self._student_answers(request.stage):
                    raise self._nothing_answers()
                await self._release()
            finally:
                for runner in runners.values():
                    runner.close()
                for file in texts.values():
                    file.close()

    async def _hold(self, request: Measure, pair: Pair, rows: dict[int, Row]) -> None:
        """Keep a unit without an answer out of the journal. Raises PDRError for the `MOST_FAILED`th in a row."""
        self._held[self._name(request, pair)] = (request, pair, rows)
        if len(self._held) < MOST_FAILED:
            return
        if not await self._student_answers(request.stage):
            raise self._nothing_answers()
        await self._release()  # the programs' own fault

    async def _student_answers(self, stage: Stage) -> bool:
        """Whether the student has an answer to one of the first questions."""
        return await self._any_run(stage, range(len(self.sets[stage])), lambda row: row.error is None)

    async def _any_run(self, stage: Stage, places: Iterable[int], shows: Callable[[Row], bool]) -> bool:
        """Whether a run of the student on one of the first `PROBES` of these questions `shows` it; nothing is recorded,
        and nothing comes from the store."""
        with calls.session(store=None):
            runner = self.executor.rows(self.student, self.verifier, RowSettings(seed=self.seed, threads=1))
            try:
                for place in islice(places, PROBES):
                    name, example = self.sets[stage][place]
                    if shows(await runner.row(example, name, 0)):
                        return True
            finally:
                runner.close()
        return False

    def _nothing_answers(self) -> PDRError:
        _, _, rows = next(reversed(self._held.values()))
        why = next(iter(rows.values())).failure or ""
        return PDRError(
            f"the search stopped: every program failed on {len(self._held)} questions in a row, the last: {why}; "
            f"{_remedy(why)}"
        )

    async def _release(self) -> None:
        """Put the units that were held into the journal: the fault is theirs, since another one has an answer."""
        held, self._held = self._held, {}
        for name, (request, pair, rows) in held.items():
            await self._record(request, pair, name, rows)

    async def _record(self, request: Measure, pair: Pair, name: str, rows: dict[int, Row]) -> None:
        """Put a unit into the journal. An entry says that its calls are finished: they are on the disk before it is."""
        await asyncio.to_thread(self.store.sync)
        self.journal.put(name, _Unit(rows=rows).model_dump_json(exclude_defaults=True))
        self._take(request, pair, name, rows)

    def _text_files(self, request: Measure) -> dict[int, TextFile]:
        """The files for the texts of each program of a request: beside the rows that are written when the search
        ends."""
        room = self.texts_in
        if room is None:
            return {}
        places = {arm: place_of(request.stage, arm, self.confirmed_in) for arm in request.arms}
        return {arm: TextFile(room.folder / place / TEXTS, room) for arm, place in places.items()}

    def _program(self, arm: int, candidate: Candidate) -> dspy.Module:
        if arm not in self._programs:
            self._programs[arm] = program_with(self.student, candidate)
        return self._programs[arm]

    async def _unit(self, stage: Stage, runners: Mapping[int, Rows], pair: Pair) -> dict[int, Row]:
        """Run all programs of a request on one pair; again after a failure of the server, since results are stored."""
        name, example = self.sets[stage][pair.question]
        rows: dict[int, Row] = {}
        for attempt in range(ATTEMPTS):
            again = [arm for arm in runners if arm not in rows or transient(rows[arm])]
            if not again:
                break
            if attempt == ATTEMPTS - 1:
                await self._probe(stage, pair.question, rows[again[0]])
            found = await asyncio.gather(*(runners[arm].row(example, name, pair.repeat) for arm in again))
            for arm, row in zip(again, found, strict=True):
                self.first_failures.see(row)
                rows[arm] = await self._as_one_run(row)
        return rows

    async def _probe(self, stage: Stage, failing: int, row: Row) -> None:
        """Run the student on other questions, without recording the results, until the server answers; raise
        EndpointError if it does not.

        Otherwise failures of a dead server would be recorded permanently as failures of the programs.
        """
        answered = {
            pair.question for (where, _, pair), known in self.rows.items() if where is stage and not known.failure
        }
        others = [place for place in range(len(self.sets[stage])) if place != failing]
        others.sort(key=lambda place: place not in answered)
        if await self._any_run(stage, others, _answered):
            return
        why = row.failure or ""
        raise EndpointError(
            f"the search stopped: the server answers nothing, the last it said is: {why}; {_remedy(why)}"
        )

    async def _as_one_run(self, row: Row) -> Row:
        """A row with the cost of the program itself, independent of which calls were in the store."""
        predictors = self.student.predictors()
        with calls.session(serves=served_in(self.student)):
            once = bool(predictors) and (await calls.capabilities(calls.serving(predictors[0]))).prompt_once
        ledger = Ledger(calls=row.calls)
        costs = {"total": ledger.as_one_run(prompt_once=once), "cost": ledger.cost_as_one_run(prompt_once=once)}
        return row.model_copy(update=costs)

    def _take(self, request: Measure, pair: Pair, name: str, rows: Mapping[int, Row]) -> None:
        """Know the rows of an entry. Raises StoreError for one of another search."""
        missing = [arm for arm in request.arms if arm not in rows]
        if missing:
            raise _foreign(name, f"it has no rows of program {missing[0]}")
        self._taken.add(name)
        for arm in request.arms:
            if (request.stage, arm, pair) not in self.rows:
                self._tally.add(rows[arm])
                self.order.add(rows[arm])
            self.rows[request.stage, arm, pair] = lean(rows[arm])
            self._by_arm.setdefault((request.stage, arm), {})[pair] = rows[arm]

    def _prefix(self, request: Measure) -> str:
        if request.stage is Stage.RACE:
            return f"{request.stage}/{request.cohort:03d}/"
        # A longer search may end with other finalists: they are measured again together, from the store.
        place = self.confirmed_in if request.stage is Stage.CONFIRM else f"{request.stage}/{request.cohort:03d}"
        return f"{place}-{'-'.join(map(str, request.arms))}/"

    def _name(self, request: Measure, pair: Pair) -> str:
        return f"{self._prefix(request)}{pair.question:05d}-{pair.repeat:03d}"

    def profile(self) -> Profile:
        """The measured costs of each phase's calls so far."""
        return self._tally.profile()

    def rows_of(self, stage: Stage, arm: int) -> list[Row]:
        """The rows of one program in one stage, by repeat and id."""
        found = self._by_arm.get((stage, arm), {})
        return sorted(found.values(), key=lambda row: (row.repeat, row.id))

    def call_keys(self) -> set[str]:
        """The keys of all calls in the journal, including those of entries that were not read before.

        Raises StoreError for an entry of another search.
        """
        rows = [row for own in self._by_arm.values() for row in own.values()]
        for stage in Stage:
            for name in self.journal.names(f"{stage}/"):
                if name not in self._taken and (text := self.journal.get(name)) is not None:
                    rows += _rows_in(name, text).values()
        return {call.key for row in rows for call in row.calls}


def place_of(stage: Stage, number: int, confirmed_in: str) -> str:
    """The place of a trial's rows of one stage within a run folder."""
    if stage is Stage.CONFIRM:
        return f"{confirmed_in}/{f'{number:04d}' if number else 'student'}"
    return f"{'trials' if stage is Stage.RACE else 'final'}/{number:04d}"


class _Unit(BaseModel):
    """An entry of the journal: the rows of all programs of a request on one pair, by their numbers."""

    rows: dict[int, Row]


def _rows_in(name: str, text: str) -> dict[int, Row]:
    try:
        return _Unit.model_validate_json(text).rows
    except ValidationError as error:
        raise _foreign(name, " ".join(str(error).split())) from error


def _remedy(why: str) -> str:
    """What to do about a search that stopped, given the error of its last row."""
    kept = "what is finished is kept in the `run_dir`, if there is one: the same command resumes from there"
    if UNCONNECTED.search(why):
        return f"the server is not running at that address: start it; {kept}"
    return f"mend the verifier; {kept}" if "(raised by the verifier" in why else kept


def _foreign(name: str, why: str) -> StoreError:
    return StoreError(f"the journal's entry {name!r} is not of this search ({why}); use another `run_dir`")


def transient(row: Row) -> bool:
    """Whether a run failed because of the server: another attempt may succeed."""
    return row.failure is not None and any(call.finish == "error" for call in row.calls)


def _answered(row: Row) -> bool:
    """Whether the server is there: one that answers drafts and refuses later rounds is, too."""
    return not transient(row) or any(
        call.finish not in ("error", "cancelled") and not call.reused for call in row.calls
    )


def cell(row: Row, arm: int, pair: Pair) -> Cell:
    """A row as the plan sees it. A cancelled call counts as another call than the finished one, and one that a replay
    leaves out again was not paid for again."""
    made = tuple(
        ((call.key or f"{arm}/{pair.question}/{pair.repeat}/{place}") + "/cancelled" * call.cancelled, call.tokens)
        for place, call in enumerate(row.calls)
        if call.sent and not (call.cancelled and call.reused)
    )
    cost = 0.0 if not row.calls else row.cost  # the run failed before its first call
    failed, one_pass, drafts = row.failure is not None, pass_prompt(row), drafts_in(row)
    return Cell(row.score, row.sequential, row.total, failed, made, cost, one_pass, drafts)
