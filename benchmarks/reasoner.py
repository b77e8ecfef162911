"""A simulated reasoner: a small world of questions in which the score of every schedule is known.

It serves to measure a search, not to predict real models. One model of drafting, selecting, summarising and refining
has three forms: `World.reply` answers requests behind `testing.scripted_lm`, so the library's operators run on it;
`World.cell` runs a whole schedule on one question in plain Python; `World.truth` is its expectation over all questions.
The model follows figures of arXiv 2510.01123: a cap cuts long solutions (figure 4), wrong answers concentrate on a few
attractors, a refinement adopts plausible answers and is misled by an all-wrong workspace (figure 6), selection by
checking beats random selection (the distillation table), and rounds and width have diminishing returns (figure 1).
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import dspy
import numpy as np

from benchmarks.expectation import expected
from benchmarks.law import (
    CRITIQUE_LENGTH,
    CUT_LOSS,
    LEAST,
    RIGHT,
    SLIP,
    Floats,
    Plan,
    Questions,
    Traits,
    Truth,
    select_length,
    summary_length,
)
from benchmarks.texts import read_text
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts import render, roles
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.testing import Completion, ScriptedRequest, count_words

TASK = "question -> answer"
POPULATION = 2048
"""Number of questions that represent the population; their difficulties are quantiles of its distribution."""

NOTES = "Notes"
"""First word of a summary."""


class Cell(NamedTuple):
    """The result of one schedule on one question with one seed."""

    score: float
    sequential: int
    """B_seq, in tokens."""
    total: int
    """B_total, in tokens."""
    calls: tuple[tuple[str, int], ...]
    """Key and tokens of each call; equal keys are the same call, which a store has once."""
    answer: int = 0
    """0 is none."""


class _Draft(NamedTuple):
    answer: int
    tokens: int
    cut: bool
    key: str

    @property
    def block(self) -> int:
        """Tokens as a candidate, its heading included."""
        return self.tokens + (6 if self.cut else 3)


class _Shown(NamedTuple):
    """The input of a refinement."""

    key: str
    candidates: tuple[tuple[int, float], ...]
    """(answer, share of its solution that is included)."""
    tokens: int
    claims: tuple[tuple[int, int], ...] | None
    """(answer, credit) of a summary in place of candidates."""
    verdict: int
    """A critique's credit for the single solution; 50 without a critique."""


class World:
    """`questions` questions drawn from a population by `seed`, and a model that answers them.

    >>> world = World(3, 30)
    >>> world.cell(Candidate(Schedule(widths=(8, 4, 1)), {}), question=0, run_seed=0).total
    >>> world.truth(Candidate(Schedule(widths=(8, 4, 1)), {})).score
    """

    def __init__(self, seed: int, questions: int, traits: Traits | None = None) -> None:
        """`traits` are drawn from the seed if they are None."""
        self.seed = seed
        self.traits = Traits.drawn(seed) if traits is None else traits
        rng = np.random.default_rng([seed, 1])
        self.questions = _questions(rng, rng.standard_normal(questions), self.traits)
        self.population = _questions(
            np.random.default_rng([seed, 2]),
            np.array([NormalDist().inv_cdf((i + 0.5) / POPULATION) for i in range(POPULATION)]),
            self.traits,
        )
        self._rows = [
            (float(d), list(map(float, p)), list(map(float, a)), list(map(float, g)))
            for d, p, a, g in zip(*self.questions, strict=True)
        ]
        self._plans: dict[tuple[Schedule, tuple[tuple[str, str], ...]], Plan] = {}
        self._latest: tuple[Candidate | None, Any] = (None, None)
        self._drafts: dict[tuple[int, int, str], list[_Draft]] = {}
        self.truths: dict[tuple[str, int], Truth] = {}
        """Cache of `truth`; worlds that differ only in their number of questions may share it."""

    def example(self, question: int) -> dspy.Example:
        """A question of this world for the library: inputs `question`, gold `answer`."""
        return dspy.Example(question=_text(question), answer=str(RIGHT)).with_inputs("question")

    # --- one schedule on one question ---

    def cell(self, candidate: Candidate, question: int, run_seed: int, *, last: int = 1) -> Cell:
        """Run a candidate on one question of this world, as the library's operators do, without texts. Where the last
        round is one refinement, `last` of them are drawn: the score is their mean, the costs are those of one."""
        plan = self.plan(candidate)
        schedule = plan.schedule
        place = f"{self.seed}|{question}|{run_seed}"
        calls: list[tuple[str, int]] = []
        sequential = 0
        more = 0
        """Tokens of further refinements."""
        done: list[list[_Draft]] = []
        shown: list[_Shown] = []
        for number, width in enumerate(schedule.widths, start=1):
            if not shown:
                drafts = self._first(plan, question, run_seed, width)
                spent = [plan.prompts[Role.DRAFT] + draft.tokens for draft in drafts]
            else:
                if width == 1 and number == schedule.rounds:
                    shown *= last
                drafts = [self._refined(plan, question, place, number, i, reads) for i, reads in enumerate(shown)]
                prompt = plan.prompts[Role.REFINE]
                spent = [prompt + reads.tokens + draft.tokens for reads, draft in zip(shown, drafts, strict=True)]
                more = sum(spent[width:])
            calls.extend(zip([draft.key for draft in drafts], spent, strict=True))
            sequential += max(spent[:width])
            done.append(drafts)
            if number < schedule.rounds:
                before = len(calls)
                shown = self._distil(plan, question, place, number, drafts, calls)
                sequential += max((tokens for _, tokens in calls[before:]), default=0)
        ends = [[draft] for draft in done[-1]] if more else done[-1:]
        answers = [_plurality([*done[:-1], end]) for end in ends]
        total = sum(tokens for _, tokens in calls) - more
        return Cell(answers.count(RIGHT) / len(answers), sequential, total, tuple(calls), answers[0])

    def plan(self, candidate: Candidate) -> Plan:
        """Caps, prompts and effects of a candidate."""
        if candidate is self._latest[0]:  # hashing a schedule costs more than a draft
            return self._latest[1]
        schedule = candidate.schedule
        texts = candidate.instructions
        name = (schedule, tuple(sorted(texts.items())))  # a frozen model is hashable
        found = self._plans.get(name)
        if found is None:
            own = {Role.DRAFT: schedule.draft_tokens, Role.REFINE: schedule.refine_cap}
            caps = {role: own.get(role, schedule.distill_cap) + schedule.thinking_tokens for role in Role}
            shape = (schedule.k, schedule.distiller == "last", schedule.critique)
            prompts = {role: _prompt_tokens(role, *shape, texts.get(role)) for role in Role}
            effects = {role: effect(texts.get(role), schedule) for role in Role}
            own_shape = {Role.SELECT: shape[:1], Role.REFINE: shape[1:]}
            stamps = {
                role: f"/{caps[role]}/{schedule.temperature}/{own_shape.get(role, '')}/{texts.get(role)}"
                for role in Role
            }
            found = self._plans[name] = Plan(schedule, caps, prompts, effects, stamps)
        self._latest = (candidate, found)
        return found

    def _distil(
        self,
        plan: Plan,
        question: int,
        place: str,
        number: int,
        drafts: Sequence[_Draft],
        calls: list[tuple[str, int]],
    ) -> list[_Shown]:
        """The input of each draft of the next round; the distillation's calls are added to `calls`."""
        schedule = plan.schedule
        width, kappa = schedule.widths[number], schedule.kappa
        name = schedule.distiller
        read = f"{name}|" + "".join(draft.key for draft in drafts)

        def call(role: Role, index: int, length: float, tokens: int) -> tuple[str, tuple[int, ...], int, bool]:
            key, h = _latent(f"{place}|{role}|{number}|{index}|{read}")
            wanted = round(length * math.exp(0.3 * _normals()[h[3] >> 4])) + 4
            made = min(wanted, plan.caps[role])
            key += plan.stamps[role]
            calls.append((key, plan.prompts[role] + tokens + made))
            return key, h, made, wanted > made

        if name == "last":
            (draft,) = drafts
            size, share = draft.tokens, 1.0
            if size > kappa:
                size, share = kappa - 4, (kappa - 9) / size
            key, verdict, made = "", 50, 0
            if schedule.critique:
                key, h, made, cut = call(Role.CRITIQUE, 0, CRITIQUE_LENGTH, size)
                verdict = 50 if cut else self._verdict(question, draft.answer, share, h, plan.effects[Role.CRITIQUE])
            key = f"{draft.key}|{size}|{key}"
            return [_Shown(key, ((draft.answer, share),), size + made, None, verdict)]
        everything = sum(draft.block for draft in drafts)
        if name == "summary":
            key, h, made, _ = call(Role.DISTILL, 0, summary_length(len(drafts)), everything)
            answers = [(draft.answer, 1.0) for draft in drafts]
            kept = min(made, kappa)
            claims = self._claims(question, answers, h, plan.effects[Role.DISTILL])[: (kept - 1) // 4]
            return [_Shown(f"{key}|{kept}", (), kept, tuple(claims), 50)] * width
        if name == "random_k":
            picks = []
            for index in range(width):
                _, h = _latent(f"{place}|random|{number}|{index}|{read}")
                picks.append(sorted(range(len(drafts)), key=h.__getitem__)[: schedule.k])
        else:
            picks = []
            for index in range(width if name == "topk_per_sample" else 1):
                _, h, _, cut = call(Role.SELECT, index, select_length(len(drafts)), everything)
                answers = [draft.answer for draft in drafts]
                picks.append(
                    sorted(range(len(drafts)), key=h[8:].__getitem__)[: schedule.k]
                    if cut  # a truncated selection is replaced by a random one
                    else self._select(question, answers, schedule.k, h, plan.effects[Role.SELECT])
                )
        shown = [_admit([drafts[place] for place in pick], kappa) for pick in picks]
        return shown if len(shown) == width else shown * width

    # --- the model ---

    def _first(self, plan: Plan, question: int, run_seed: int, width: int) -> list[_Draft]:
        """The first-round drafts, which every schedule with the same cap, temperature and instruction shares."""
        stamp, cap = plan.stamps[Role.DRAFT], plan.caps[Role.DRAFT]
        made = self._drafts.setdefault((question, run_seed, stamp), [])
        for index in range(len(made), width):
            key, h = _latent(f"{self.seed}|{question}|{run_seed}|draft|1|{index}")
            answer = self._afresh(question, h, plan.schedule.temperature, plan.effects[Role.DRAFT])
            made.append(_ended(answer, self._length(question, h, Role.DRAFT), cap, key + stamp))
        return made[:width]

    def _refined(self, plan: Plan, question: int, place: str, number: int, index: int, reads: _Shown) -> _Draft:
        key, h = _latent(f"{place}|refine|{number}|{index}|{reads.key}")
        shift = plan.effects[Role.REFINE]
        answer = self._adopted(question, reads, h, shift) or self._afresh(question, h, plan.schedule.temperature, shift)
        length = self._length(question, h, Role.REFINE)
        return _ended(answer, length, plan.caps[Role.REFINE], key + plan.stamps[Role.REFINE])

    def _length(self, question: int, h: Sequence[int], role: Role) -> int:
        traits = self.traits
        middle = traits.length + traits.stretch * self._rows[question][0]
        if role is Role.REFINE:
            middle += math.log(traits.shorter)
        return int(math.exp(middle + traits.scatter * _normals()[h[3] >> 4])) + LEAST

    def _afresh(self, question: int, h: Sequence[int], temperature: float, shift: float) -> int:
        difficulty, _, attraction, greedy = self._rows[question]
        right, which = (h[1] + 0.5) / 65536, (h[2] + 0.5) / 65536
        if temperature < 1 and (h[4] + 0.5) / 65536 < (1 - temperature) ** 2:
            right, which = greedy
        logit = self.traits.ability - self.traits.spread * difficulty + shift - _heat(temperature)
        if right * (1 + math.exp(-logit)) < 1:
            return RIGHT
        for code, share in enumerate(attraction, start=2):
            which -= share
            if which < 0:
                return code
        return SLIP + h[5]

    def _adopted(self, question: int, reads: _Shown, h: Sequence[int], shift: float) -> int:
        """The answer that a refinement adopts from its workspace; 0 if it starts again."""
        sight = self.traits.sight * (1 + shift / 2)
        if reads.claims is None:
            scores = self._scores(question, reads.candidates, h[8:], sight)
            if reads.verdict != 50 and reads.candidates[0][0]:
                scores[reads.candidates[0][0]] += (reads.verdict - 50) / 8
        else:
            scores = {}
            for place, (answer, credit) in enumerate(reads.claims):
                scores[answer] = (credit - 50) / 8 + self._looks(
                    question, answer, sight * self.traits.brief, h[8 + place]
                )
        fresh = math.exp(self.traits.afresh)
        weights = [(answer, math.exp(score)) for answer, score in scores.items()]
        left = (h[0] + 0.5) / 65536 * (fresh + sum(weight for _, weight in weights))
        for answer, weight in weights:
            left -= weight
            if left < 0:
                return answer
        return 0

    def _scores(
        self, question: int, candidates: Sequence[tuple[int, float]], h: Sequence[int], sight: float
    ) -> dict[int, float]:
        """Log weight of each answer after reading candidates, given as (answer, share of its solution included)."""
        sight /= 1 + self.traits.crowd * (len(candidates) - 1)
        scores: dict[int, float] = {}
        for (answer, share), noise in zip(candidates, h, strict=False):
            if answer:
                seen = self.traits.vote + self._looks(question, answer, sight * share, noise)
                scores[answer] = scores.get(answer, 0.0) + seen
        return scores

    def _looks(self, question: int, answer: int, sight: float, noise: int) -> float:
        """The evidence for one candidate: the log-likelihood ratio of a signal with unit noise."""
        signal = (0.5 if answer == RIGHT else -0.5) * sight + _normals()[noise >> 4]
        if answer < SLIP:
            signal += self._rows[question][1][answer - 1]
        return sight * signal

    def _select(self, question: int, answers: Sequence[int], k: int, h: Sequence[int], shift: float) -> list[int]:
        sight = self.traits.sight * (1 + shift) / (1 + self.traits.crowd * (len(answers) - 1))
        looks = [
            self._looks(question, answer, sight, noise) if answer else -99.0
            for answer, noise in zip(answers, h[8:], strict=False)
        ]
        return sorted(range(len(answers)), key=looks.__getitem__, reverse=True)[:k]

    def _claims(
        self, question: int, candidates: Sequence[tuple[int, float]], h: Sequence[int], shift: float
    ) -> list[tuple[int, int]]:
        """The credit, 0 to 99, that a summary gives each answer, the best first."""
        scores = self._scores(question, candidates, h[8:], self.traits.sight * (1 + shift))
        credits = ((answer, _credit(score * self.traits.notes)) for answer, score in scores.items())
        return sorted(credits, key=lambda claim: (-claim[1], claim[0]))[:6]

    def _verdict(self, question: int, answer: int, share: float, h: Sequence[int], shift: float) -> int:
        return _credit(self._looks(question, answer, self.traits.sight * (1 + shift) * share, h[8])) if answer else 50

    # --- the same behind a language model ---

    def reply(self, request: ScriptedRequest) -> Completion:
        """Answer a request of the library's operators over `example(...)`; see `testing.scripted_lm`."""
        user = request.user
        question = int(re.findall(r"Puzzle (\d+)", user)[0])
        role = _role(user)
        digest = hashlib.blake2b(user.encode(), digest_size=8).hexdigest()
        _, h = _latent(f"{self.seed}|{question}|{request.seed}|{role}|{digest}")
        shift = 0.0 if any(text in request.system for text in _OWN) else effect(request.system.strip())
        body = user.partition("Candidates:" if "Candidates:" in user else "Workspace:")[2]
        body = re.split(r"\n\n(?:Flaws found:|Write the steps first|End with|Reply with the text)", body)[0].strip()
        blocks = re.split(r"Candidate \d+(?: \(unfinished\))?:\n", body)
        candidates = [_parsed(block) for block in (blocks[1:] or blocks)]
        noise = math.exp(0.3 * _normals()[h[3] >> 4])
        if role is Role.SELECT:
            k = int(re.findall(r"pick the (\d+)|$", request.system)[0] or 2)
            picked = self._select(question, [answer for answer, _ in candidates], k, h, shift)
            numbers = ", ".join(str(place + 1) for place in picked)
            spare = round(select_length(len(candidates)) * noise) + 4 - (2 * len(picked) + 3)
            return Completion(f"{_filler(spare)}\nSelected: [{numbers}]")
        if role is Role.CRITIQUE:
            verdict = self._verdict(question, *candidates[0], h, shift)
            return Completion(f"{_filler(round(CRITIQUE_LENGTH * noise) + 2)}\nVerdict {verdict}")
        if role is Role.DISTILL:
            claims = self._claims(question, candidates, h, shift)
            said = "\n".join(f"Claim {answer} credit {credit}" for answer, credit in claims)
            spare = round(summary_length(len(candidates)) * noise) + 3 - 4 * len(claims)
            return Completion(f"{NOTES}\n{said}\n{_filler(spare)}")
        answer = 0
        if role is Role.REFINE:
            found = re.findall(r"Claim (\d+) credit (\d+)", body)
            claims = tuple((int(a), int(c)) for a, c in found) if body.startswith(NOTES) else None
            verdict = int(re.findall(r"Verdict (\d+)|$", user)[0] or 50)
            answer = self._adopted(question, _Shown("", tuple(candidates), 0, claims, verdict), h, shift)
        if not answer:
            temperature = 1.0 if request.temperature is None else request.temperature
            answer = self._afresh(question, h, temperature, shift)
        length = self._length(question, h, role)
        return Completion(f"{_filler(length - 7)}\n{length} words in all\nAnswer: {answer}")

    # --- its expectation ---

    def truth(self, candidate: Candidate, samples: int = 8) -> Truth:
        """Expected score and tokens over all questions and seeds: an infinite held-out population.

        It uses `samples` runs of each of 2,048 questions whose difficulties are evenly spaced quantiles; the last
        draft's probability of being right is summed, not drawn. At 8 runs the standard error is below 0.1 points. The
        drafts of a vote are drawn: it gets twice as many runs, and has a standard error of 0.2 points.
        """
        key = (candidate.key, samples)
        if key not in self.truths:
            runs = samples * (1 if candidate.schedule.final == "refine" or samples == 1 else 2)
            self.truths[key] = self._expected(candidate, self.population, runs)
        return self.truths[key]

    def cost(self, candidate: Candidate) -> tuple[float, float]:
        """Expected B_seq and B_total to about 1 %, in a millisecond."""
        few = Questions(*(part[::16] for part in self.population))
        rough = self._expected(candidate, few, 1)
        return rough.sequential, rough.total

    def truth_on(self, candidate: Candidate, samples: int = 400) -> Truth:
        """Expected score and tokens over the seeds, on this world's own questions."""
        return self._expected(candidate, self.questions, samples)

    def _expected(self, candidate: Candidate, questions: Questions, samples: int) -> Truth:
        return expected(self.traits, self.plan(candidate), questions, samples, self.seed)


def effect(instruction: str | None, schedule: Schedule | None = None) -> float:
    """The effect of an instruction, from -0.3 to 0.3 logits, determined by its text; 0 for the program's own. One of
    `benchmarks.texts` says its effect itself, and the schedule for which it is written."""
    if instruction is None:
        return 0.0
    if (written := read_text(instruction)) is not None:
        return written.effect(schedule)
    digest = hashlib.blake2b(instruction.strip().encode(), digest_size=4).digest()
    return 0.6 * (int.from_bytes(digest, "big") / 2**32 - 0.5)


def _questions(rng: np.random.Generator, difficulty: Floats, traits: Traits) -> Questions:
    count = len(difficulty)
    first = rng.uniform(0.3, 0.75, count)
    rest = 1 - first
    attraction = np.stack([first, 0.5 * rest, 0.25 * rest], axis=1)
    plausible = traits.glare * rng.standard_normal((count, 4))
    return Questions(difficulty, plausible, attraction, rng.random((count, 2)))


def _heat(temperature: float) -> float:
    """Logits lost to sampling away from the best temperature."""
    return 0.6 * (temperature - 0.8) ** 2


def _credit(score: float) -> int:
    return max(0, min(99, round(50 + 8 * score)))


def _ended(answer: int, length: int, cap: int, key: str) -> _Draft:
    """A draft at its end or its cap; a truncated draft has no answer."""
    return _Draft(answer, length, False, key) if length <= cap else _Draft(0, cap, True, key)


def _admit(drafts: Sequence[_Draft], kappa: int) -> _Shown:
    """A workspace of these solutions; long ones are cut to what kappa leaves, as `workspace.fit` does."""
    key = "".join(draft.key for draft in drafts)
    sizes = [draft.block for draft in drafts]
    if sum(sizes) <= kappa:
        return _Shown(key, tuple((draft.answer, 1.0) for draft in drafts), sum(sizes), None, 50)
    level = level_of(sizes, kappa)
    candidates = []
    tokens = 0
    for draft, size in zip(drafts, sizes, strict=True):
        share = 1.0 if size <= level else max(level - CUT_LOSS - size + draft.tokens - 4, 0) / draft.tokens
        candidates.append((draft.answer, share))
        tokens += size if size <= level else level - 4
    return _Shown(f"{key}|{kappa}", tuple(candidates), tokens, None, 50)


def level_of(sizes: Sequence[int], kappa: int) -> int:
    """The size above which blocks are cut so that all fit into kappa tokens."""
    left = kappa - 2 * len(sizes)
    for position, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - position)
        if size > share:
            return max(share, 1)
        left -= size
    return max(left, 1)


def _plurality(rounds: Sequence[Sequence[_Draft]]) -> int:
    """The plurality of the latest round with an answer, as in `operators.plurality`. A last round of one draft is that
    draft's answer."""
    for drafts in reversed(rounds):
        answers = [draft.answer for draft in drafts if draft.answer]
        if answers:
            votes = Counter(answers)
            return max(answers, key=votes.__getitem__)
    return 0


def _latent(name: str) -> tuple[str, tuple[int, ...]]:
    """A key and 32 random numbers of 16 bits, fixed by a name."""
    digest = hashlib.blake2b(name.encode()).digest()
    return digest[:9].hex(), struct.unpack("<32H", digest)


@functools.lru_cache(maxsize=1)
def _normals() -> list[float]:
    """The standard normal distribution at 4,096 evenly spaced levels."""
    normal = NormalDist()
    return [normal.inv_cdf((i + 0.5) / 4096) for i in range(4096)]


# --- texts ---

_OWN = (roles.DRAFT, roles.REFINE, roles.REVISE, roles.DISTILL, roles.CRITIQUE)
_LINE = "then one more case holds as it must"


def _text(question: int) -> str:
    return f"Puzzle {question}: which value is it?"


def _filler(tokens: int) -> str:
    """Filler text of `tokens` words, eight on a line."""
    lines, rest = divmod(max(tokens, 0), 8)
    return "\n".join([_LINE] * lines + ([" ".join(_LINE.split()[:rest])] if rest else []))


def _role(user: str) -> Role:
    free = "Reply with the text alone." in user
    if "Candidates:" in user:
        return Role.DISTILL if free else Role.SELECT
    if "Workspace:" in user:
        return Role.CRITIQUE if free else Role.REFINE
    return Role.DRAFT


def _parsed(block: str) -> tuple[int, float]:
    """The answer of a solution, and the share of the solution that is included."""
    answer = re.search(r"Answer: (\d+)", block)
    whole = re.search(r"(\d+) words in all", block)
    if answer is None or whole is None:
        return 0, 1.0
    return int(answer[1]), min(1.0, count_words(block.replace("[...]", "")) / int(whole[1]))


@functools.lru_cache(maxsize=1024)
def _prompt_tokens(role: Role, k: int, last: bool, critique: bool, instruction: str | None) -> int:
    """Tokens of a role's prompt, candidates and workspace left out."""
    signature = roles.derive(roles.check_task(TASK), role, k=k, last=last, critique=critique)
    if instruction is not None:
        signature = signature.with_instructions(instruction)
    inputs = dict.fromkeys(signature.input_fields, "") | {"question": _text(10)}
    return sum(count_words(str(message["content"])) for message in render(signature, [], inputs))
