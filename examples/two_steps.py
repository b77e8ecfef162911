"""A module of two steps, each with a schedule of its own: one draft for the facts, four and a refinement to decide."""

from typing import Literal

import dspy

from examples import embedded
from pdr_dspy import PDR, LongCoT, evaluate

MESSAGES = (
    ("The invoice of May is twice in my account. I wrote about it twice already!", "billing"),
    ("The app crashes when I open the camera.", "bug"),
    ("It would be nice to have a dark mode.", "wish"),
)


class Decide(dspy.Signature):
    """Sort the message by the facts in it."""

    message: str = dspy.InputField()
    facts: str = dspy.InputField()
    category: Literal["billing", "bug", "wish"] = dspy.OutputField()


class Sorter(dspy.Module):
    """Says what happened, and then where the message goes."""

    def __init__(self):
        super().__init__()
        self.read = LongCoT("message -> facts", draft_tokens=96)
        self.decide = PDR(Decide, widths=(4, 1), distiller="random_k", k=2, kappa=256, draft_tokens=96)

    def forward(self, message):
        """Run both steps, and keep the facts beside the category."""
        facts = self.read(message=message).facts
        return dspy.Prediction(facts=facts, category=self.decide(message=message, facts=facts).category)


def main():
    """Print the category of each message; the tokens are those of both steps."""
    examples = [dspy.Example(message=text, category=category).with_inputs("message") for text, category in MESSAGES]
    report = evaluate(Sorter(), examples, lambda example, prediction: prediction.category == example.category)
    for row in report.rows:
        print(f"{row.score:.0f} {row.answer} {row.sent} calls")
    print(f"score {report.score:.2f}, {report.total:.0f} tokens a message")


if __name__ == "__main__":
    with embedded():
        main()
