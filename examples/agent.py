"""An agent whose final answer is refined: ReAct calls the tools once, and several drafts read its observations."""

import dspy
from dspy.utils.exceptions import AdapterParseError

from examples import embedded
from pdr_dspy import PDR

STOCK = {"bolt": 40, "nut": 25, "washer": 12}


def stock(part: str) -> str:
    """How many pieces of a part are in stock."""
    return f"{STOCK[part]} pieces" if part in STOCK else f"no such part; there are {', '.join(STOCK)}"


class Agent(dspy.Module):
    """ReAct for the tool calls; PDR over its observations for the answer."""

    def __init__(self):
        super().__init__()
        self.react = dspy.ReAct("question -> answer", tools=[stock], max_iters=4)  # type: ignore[arg-type]
        self.answer = PDR(
            "question, observations -> answer: int", widths=(4, 1), distiller="random_k", k=2, tally=True, kappa=320,
            draft_tokens=96,
        )  # fmt: skip

    def forward(self, question):
        found = self.react(question=question).trajectory
        observations = [f"{name}: {value}" for name, value in found.items() if name.startswith(("tool", "observation"))]
        return self.answer(question=question, observations="\n".join(observations))


def main():
    """Ask one question; the ledger is of the drafts and the refinement. Calling tools takes a model of some size."""
    try:
        prediction = Agent()(question="How many bolts and washers are in stock together?")
    except AdapterParseError as error:
        print(f"The model wrote no tool call that can be read; a larger one will, see examples/__init__.py.\n{error}")
    else:
        print(prediction.answer, prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
