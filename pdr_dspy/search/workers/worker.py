"""One worker of a search: answers the plan's requests from the board if possible, otherwise by running programs.

Any number of workers run the same plan over one board and one rollout store. Each reads the measurements of the others;
a measurement that no worker holds is claimed, made and put on the board. If a worker dies, its claims are released, and
its finished calls are in the store: they are not paid for again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import dspy
from pydantic import BaseModel, ValidationError

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import EndpointError, StoreError
from pdr_dspy.evaluation.executors.base import Executor, Local, Rows
from pdr_dspy.evaluation.failures import FirstFailures
from pdr_dspy.evaluation.records import Row, lean
from pdr_dspy.evaluation.texts import TEXTS, Room, TextFile
from pdr_dspy.operators.nested import served_in
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.racing.cost_model import Profile, Tally
from pdr_dspy.search.racing.plan import Cell, Measure, Pair, Stage
from pdr_dspy.search.space.candidate import Candidate, program_with
from pdr_dspy.search.workers.coordination import Board
from pdr_dspy.search.workers.documents import Claim
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

OnRow = Callable[[Stage, Row, int, int], None]
"""Called with each row, the number of finished pairs of the request, and their total."""


class Worker:
    """Measures programs for a plan."""

    def __init__(
        self,
        student: dspy.Module,
        verifier: Verifier,
        sets: Mapping[Stage, Sequence[tuple[str, dspy.Example]]],
        *,
        board: Board,
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
            board: shares measurements.
            store: of the calls.
            seed: of the search.
            max_in_flight: maximum requests in flight, of this worker.
            confirmed_in: a name for the held-out questions: a later confirmation of the search may use others.
            on_row: called after every row that this worker ran.
            texts_in: where the texts of this worker's rows are kept for people to read; None keeps none.
            executor: where rows are run; None is this process.
        """
        self.executor = Local() if executor is None else executor
        self.student = student
        self.verifier = verifier
        self.sets = sets
        self.board = board
        self.store = store
        self.seed = seed
        self.max_in_flight = max_in_flight
        self.confirmed_in = confirmed_in
        self.on_row = on_row
        self.texts_in = texts_in
        self.rows: dict[tuple[Stage, int, Pair], Row] = {}
        """All measurements so far, by any worker."""
        self._by_arm: dict[tuple[Stage, int], dict[Pair, Row]] = {}
        self._taken: set[str] = set()
        """Documents that were read."""
        self._tally = Tally()
        self._programs: dict[int, dspy.Module] = {0: student}
        self.first_failures = FirstFailures()
        self.made = 0
        """Runs made by this worker."""

    def measure(self, request: Measure) -> dict[tuple[int, Pair], Cell]:
        """All cells of a request, once every one of them is on the board.

        Raises:
            EndpointError: the model server is down; finished measurements are kept.
            StoreError: board or store cannot be used.
        """
        return event_loop.run(lambda: self._measure(request))

    def known(self, request: Measure) -> dict[tuple[int, Pair], Cell] | None:
        """The cells of a request if all of them are on the board; None, at no cost, if some are not."""
        return None if self.missing(request) else self._cells(request)

    def missing(self, request: Measure) -> list[Pair]:
        """The pairs of a request that are not on the board, at no cost; those on the board are read."""
        there = self.board.read(self._prefix(request))
        names = {self._name(request, pair): pair for pair in request.pairs}
        for name in names.keys() & there.keys():
            self.take(request, names[name], there[name], name)
        return [pair for name, pair in names.items() if name not in there]

    def _cells(self, request: Measure) -> dict[tuple[int, Pair], Cell]:
        return {
            (arm, pair): cell(self.rows[request.stage, arm, pair], arm, pair)
            for arm in request.arms
            for pair in request.pairs
        }

    async def _measure(self, request: Measure) -> dict[tuple[int, Pair], Cell]:
        names = {self._name(request, pair): pair for pair in request.pairs}
        done: dict[str, Pair] = {}
        with calls.session(store=self.store, in_flight=asyncio.Semaphore(self.max_in_flight)):
            while True:
                there = await asyncio.to_thread(self.board.read, self._prefix(request))
                for name, text in there.items():
                    if name in names and name not in done:
                        self.take(request, names[name], text, name)
                        done[name] = names[name]
                missing = [name for name in names if name not in done]
                if not missing:
                    break
                if not await self._fill(request, {name: names[name] for name in missing}, len(done)):
                    await asyncio.to_thread(self.board.wait, 1.0)
        return self._cells(request)

    async def _fill(self, request: Measure, missing: Mapping[str, Pair], done: int) -> bool:
        """Run the units that no worker holds; return whether there were any."""
        queue = deque(missing.items())
        # Enough units to fill the connections, and no more: the rest is for other workers.
        side_by_side = self.executor.side_by_side(max(1, -(-self.max_in_flight // (4 * len(request.arms)))))
        texts = self._text_files(request)
        runners = {
            arm: self.executor.rows(
                self._program(arm, candidate),
                self.verifier,
                seed=self.seed + SEEDS[request.stage],
                on_texts=texts[arm].keep if arm in texts else None,
                in_flight=self.max_in_flight,
                sharing=True,
            )
            for arm, candidate in request.arms.items()
        }
        count = [done, 0]

        async def serve() -> None:
            while queue:
                name, pair = queue.popleft()
                claim = await self._claim(name)
                if claim is None:
                    continue
                with claim:
                    # Calls paid for by others are not paid for again, nor those of an earlier holder of this claim that
                    # died.
                    await asyncio.to_thread(self.store.refresh)
                    rows = await self._unit(request.stage, runners, pair)
                    text = _Unit(rows=rows).model_dump_json(exclude_defaults=True)
                    if await asyncio.to_thread(self._publish, name, text) == text:
                        self._have(request, pair, name, rows)
                count[0] += 1
                count[1] += 1
                if self.on_row is not None:
                    for row in rows.values():
                        self.on_row(request.stage, row, count[0], len(request.pairs))

        try:
            await calls.together(serve() for _ in range(min(side_by_side, len(queue))))
        finally:
            for runner in runners.values():
                runner.close()
            for file in texts.values():
                file.close()
        return count[1] > 0

    def _text_files(self, request: Measure) -> dict[int, TextFile]:
        """The files for the texts of each program of a request: beside the rows that are written when the search
        ends."""
        room = self.texts_in
        if room is None:
            return {}
        places = {arm: place_of(request.stage, arm, self.confirmed_in) for arm in request.arms}
        return {arm: TextFile(room.folder / place / TEXTS, room) for arm, place in places.items()}

    async def _claim(self, name: str) -> Claim | None:
        """Claim a document. A claim granted after a cancellation is released, since no other code would."""
        asked = asyncio.ensure_future(asyncio.to_thread(self.board.claim, name))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_given_back)
            raise

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
                self.made += 1
        return rows

    async def _probe(self, stage: Stage, failing: int, row: Row) -> None:
        """Run the student on other questions, without recording the results, until the server answers; raise
        EndpointError if it does not.

        Otherwise failures of a dead server would be recorded permanently as failures of the programs.
        """
        answered = {
            pair.question for (where, _, pair), known in self.rows.items() if where is stage and not known.error
        }
        others = [place for place in range(len(self.sets[stage])) if place != failing]
        with calls.session(store=None):
            runner = self.executor.rows(self.student, self.verifier, seed=self.seed, threads=1)
            try:
                for place in sorted(others, key=lambda place: place not in answered)[:PROBES]:
                    name, example = self.sets[stage][place]
                    if not transient(await runner.row(example, name, 0)):
                        return
            finally:
                runner.close()
        raise EndpointError(
            f"the search stopped: the server answers nothing, the last it said is: {row.error}; what is finished is "
            "kept, the same command resumes"
        )

    async def _as_one_run(self, row: Row) -> Row:
        """A row with the cost of the program itself, independent of which calls were in the store."""
        predictors = self.student.predictors()
        with calls.session(serves=served_in(self.student)):
            once = bool(predictors) and (await calls.capabilities(calls.serving(predictors[0]))).prompt_once
        ledger = Ledger(calls=row.calls)
        costs = {"total": ledger.as_one_run(prompt_once=once), "cost": ledger.cost_as_one_run(prompt_once=once)}
        return row.model_copy(update=costs)

    def _publish(self, name: str, text: str) -> str:
        """Put a document on the board, after syncing its calls to the disk: the document states that they are
        finished."""
        self.store.sync()
        return self.board.put(name, text)

    def take(self, request: Measure, pair: Pair, text: str, name: str) -> None:
        """Read a document of the board. Raises StoreError for one of another search."""
        if name in self._taken:
            return
        found = _rows_in(name, text)
        missing = [arm for arm in request.arms if arm not in found]
        if missing:
            raise _foreign(name, f"it has no rows of program {missing[0]}")
        self._have(request, pair, name, {arm: found[arm] for arm in request.arms})

    def _have(self, request: Measure, pair: Pair, name: str, rows: Mapping[int, Row]) -> None:
        self._taken.add(name)
        for arm, row in rows.items():
            if (request.stage, arm, pair) not in self.rows:
                self._tally.add(row)
            self.rows[request.stage, arm, pair] = lean(row)
            self._by_arm.setdefault((request.stage, arm), {})[pair] = row

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
        """The keys of all calls in the board's documents, including those that were not read before.

        Raises StoreError for a document of another search.
        """
        rows = [row for own in self._by_arm.values() for row in own.values()]
        for stage in Stage:
            for name, text in self.board.read(f"{stage}/").items():
                if name not in self._taken:
                    rows += _rows_in(name, text).values()
        return {call.key for row in rows for call in row.calls}


def place_of(stage: Stage, number: int, confirmed_in: str) -> str:
    """The place of a trial's rows of one stage within a run folder."""
    if stage is Stage.CONFIRM:
        return f"{confirmed_in}/{f'{number:04d}' if number else 'student'}"
    return f"{'trials' if stage is Stage.RACE else 'final'}/{number:04d}"


def _given_back(asked: asyncio.Future[Claim | None]) -> None:
    claim = None if asked.cancelled() or asked.exception() is not None else asked.result()
    if claim is not None:
        claim.release()


class _Unit(BaseModel):
    """A document: the rows of all programs of a request on one pair, by their numbers."""

    rows: dict[int, Row]


def _rows_in(name: str, text: str) -> dict[int, Row]:
    try:
        return _Unit.model_validate_json(text).rows
    except ValidationError as error:
        raise _foreign(name, " ".join(str(error).split())) from error


def _foreign(name: str, why: str) -> StoreError:
    return StoreError(f"the board's document {name!r} is not of this search ({why}); use another run")


def transient(row: Row) -> bool:
    """Whether a run failed because of the server: another attempt may succeed."""
    return row.error is not None and any(call.finish == "error" for call in row.calls)


def cell(row: Row, arm: int, pair: Pair) -> Cell:
    """A row as the plan sees it. A cancelled call counts as another call than the finished one, and one that a replay
    leaves out again was not paid for again."""
    made = tuple(
        ((call.key or f"{arm}/{pair.question}/{pair.repeat}/{place}") + "/cancelled" * call.cancelled, call.tokens)
        for place, call in enumerate(row.calls)
        if not (call.cancelled and call.reused)
    )
    cost = 0.0 if not row.calls else row.cost  # the run failed before its first call
    return Cell(row.score, row.sequential, row.total, row.error is not None, made, cost)
