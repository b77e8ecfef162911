"""D^E: the model checks all solutions and picks k; one pick for all drafts of the next round, or one for each."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput, a_call_each, one_call
from pdr_dspy.operators.distillers.picking import picked, selections
from pdr_dspy.prompts.roles import Role


async def topk(given: DistillerInput) -> Distilled:
    """D^E, shared: the model checks all solutions and picks k, the same for all drafts of the next round."""
    order = given.shuffled("topk")
    (reply,) = await given.ask([{"candidates": await given.shown(order)}], selections(given.k, len(order)))
    chosen, made = picked(given, reply, order)
    return Distilled((await given.admit(chosen),) * given.next_width, made)


async def topk_per_sample(given: DistillerInput) -> Distilled:
    """D^E, per sample: one independent pick of k for each draft of the next round, each over its own order."""
    orders = [given.shuffled(f"topk {index}") for index in range(given.next_width)]
    shown = [{"candidates": await given.shown(order)} for order in orders]
    replies = await given.ask(shown, selections(given.k, len(given.drafts)))
    picks = [picked(given, reply, order) for reply, order in zip(replies, orders, strict=True)]
    workspaces = [await given.admit(chosen) for chosen, _ in picks]
    return Distilled(tuple(workspaces), tuple(call for _, made in picks for call in made))


TOPK = Distiller("topk", topk, role=Role.SELECT, calls=one_call, uses_k=True)
TOPK_PER_SAMPLE = Distiller("topk_per_sample", topk_per_sample, role=Role.SELECT, calls=a_call_each, uses_k=True)
