"""Analyses that use the gold answer (figure 6): only right drafts, only wrong ones, or as many drawn at random."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.verifiers import RIGHT


async def oracle_correct(given: DistillerInput) -> Distilled:
    """Analysis: only solutions that the verifier accepts (figure 6). With none the next draft starts afresh."""
    return await _judged(given, right=True)


async def oracle_incorrect(given: DistillerInput) -> Distilled:
    """Analysis: only solutions that the verifier rejects (figure 6)."""
    return await _judged(given, right=False)


async def oracle_random(given: DistillerInput) -> Distilled:
    """Analysis, the control: as many solutions as `oracle_correct` would admit, drawn at random."""
    right, _ = await _split(given)
    workspaces = []
    for index in range(given.next_width):
        drawn = given.rng(f"oracle {index}").sample(list(given.drafts), min(len(right), given.k))
        workspaces.append(await given.admit(drawn))
    return Distilled(tuple(workspaces))


async def _split(given: DistillerInput) -> tuple[list[Draft], list[Draft]]:
    right: list[Draft] = []
    wrong: list[Draft] = []
    for draft in given.drafts:
        (right if await given.score(draft) >= RIGHT else wrong).append(draft)
    return right, wrong


async def _judged(given: DistillerInput, *, right: bool) -> Distilled:
    accepted, rejected = await _split(given)
    pool = accepted if right else rejected
    workspaces = []
    for index in range(given.next_width):
        drawn = given.rng(f"oracle {index}").sample(pool, min(len(pool), given.k))
        workspaces.append(await given.admit(drawn))
    return Distilled(tuple(workspaces))


ORACLE_CORRECT = Distiller("oracle_correct", oracle_correct, needs_gold=True)
ORACLE_INCORRECT = Distiller("oracle_incorrect", oracle_incorrect, needs_gold=True)
ORACLE_RANDOM = Distiller("oracle_random", oracle_random, needs_gold=True)
