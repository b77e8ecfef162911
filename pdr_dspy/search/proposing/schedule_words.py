"""A schedule in plain words, for a writer of instructions who does not know this library."""

from __future__ import annotations

from pdr_dspy.operators.schedule import Schedule


def in_words(schedule: Schedule) -> str:
    """What a run does, round by round, one line for each: how many drafts there are and how long they may be, what the
    next round reads of them, whether results of the check are shown, and which draft is the answer."""
    first = schedule.widths[0]
    many = f"{first} drafts side by side; none sees another. Each has" if first > 1 else "one draft, of"
    lines = [f"Round 1: {many} at most {schedule.draft_tokens} tokens."]
    for number in range(1, schedule.rounds):
        lines += _between(schedule, number)
        width = schedule.widths[number]
        many = f"{width} drafts, which read the workspace. Each has" if width > 1 else "one draft, which reads it, of"
        lines.append(f"Round {number + 1}: {many} at most {schedule.refine_cap} tokens.")
    lines.append(_answer(schedule))
    if schedule.stop_at is not None:
        lines.append(f"A draft whose check gives at least {schedule.stop_at:g} of 1 ends the run, and is the answer.")
    return "\n".join(lines)


def _between(schedule: Schedule, number: int) -> list[str]:
    """What stands between round `number` and the next."""
    width, then, name = schedule.widths[number - 1], schedule.widths[number], schedule.distiller
    k = min(schedule.k, width)
    these = f"{k} of the {width} solutions" if schedule.distill_by.uses_k else "the solutions"
    whose = "the same for all drafts" if then > 1 else ""
    if name == "summary":
        cap = min(schedule.kappa, schedule.distill_cap)
        made = f"notes of at most {cap} tokens, which a call writes after reading all {width} drafts; no draft is shown"
    elif name == "topk":
        made = f"{these}, whole, picked by a call that reads all of them"
    elif name == "topk_per_sample":
        made, whose = f"{these}, whole, picked by a call that reads all of them", "each draft has its own" * (then > 1)
    elif name == "random_k":
        made, whose = f"{these}, whole, drawn at random", "each draft has its own" * (then > 1)
    elif name == "checked":
        made = f"the {k} different solutions of the {width} that the check scored highest, whole"
    elif name == "last":
        made = "the last solution, whole"
    elif schedule.distill_by.role is not None:
        made = f"what a call makes of all {width} drafts"
    else:
        made = f"taken from the {width} drafts ({schedule.distill_by.description})"
    parts = [f"The workspace is {made}", whose, f"cut to {schedule.kappa} tokens if it is longer" * (name != "summary")]
    line = ", ".join(part for part in parts if part) + "."
    if schedule.tally and not schedule.distill_by.chain:
        line += " It begins with how often each answer came up."
    if schedule.check is not None:
        shown = "Whoever reads a solution" if name != "summary" else "The call that writes the notes"
        line += f" {shown} also reads the result of an automatic check of it, which does not know the right answer."
    critique = "A call lists the flaws of that solution, and the next draft reads the list too."
    return [line, critique] if schedule.critique else [line]


def _answer(schedule: Schedule) -> str:
    last = schedule.widths[-1]
    how = {
        "refine": "the draft of the last round",
        "vote": f"the most common answer of the {last} drafts of the last round",
        "medoid": f"the draft of the last round ({last}) whose answer is most like the others'",
        "weighted": f"the answer of the last round's {last} drafts with the most votes, weighted by an automatic check",
        "best": f"the draft of the last round ({last}) that an automatic check scores highest",
    }[schedule.final if last > 1 else "refine"]
    kept = ", unless the check scores a draft of an earlier round higher" if schedule.keep else ""
    return f"The answer is {how}{kept}."
