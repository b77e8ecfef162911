"""Classify tickets: five drafts vote, and the winner's share of the votes measures the confidence in the label."""

from typing import Literal

import dspy

from examples import embedded
from pdr_dspy import SelfConsistency, evaluate

TICKETS = (
    ("The invoice of May is twice in my account.", "billing"),
    ("Nobody on our floor has a connection.", "network"),
    ("My key card stopped to open the garage.", "access"),
)


class Triage(dspy.Signature):
    """Say which team has to see the ticket. Billing: invoices, payments. Network: cables, Wi-Fi, connections. Access:
    keys, cards, doors, passwords."""

    ticket: str = dspy.InputField()
    team: Literal["billing", "network", "access"] = dspy.OutputField()


def main():
    """Print the label of each ticket with its share of the votes, then evaluate the program."""
    program = SelfConsistency(Triage, n=5, draft_tokens=96, temperature=0.8)
    for ticket, _ in TICKETS:
        prediction = program(ticket=ticket)
        votes = [draft.outputs.get("team") for draft in prediction.rounds[0].drafts]
        print(f"{prediction.team} {votes.count(prediction.team) / len(votes):.0%} {ticket}")
    examples = [dspy.Example(ticket=ticket, team=team).with_inputs("ticket") for ticket, team in TICKETS]
    report = evaluate(program, examples, lambda example, prediction: prediction.team == example.team)
    print(f"score {report.score:.2f}, 95 % interval {report.interval.low:.2f} to {report.interval.high:.2f}")


if __name__ == "__main__":
    with embedded():
        main()
