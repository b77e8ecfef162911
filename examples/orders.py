"""A list of pydantic models with partial credit: each item of the order that is right counts its share."""

import dspy
from pydantic import BaseModel, Field

from examples import embedded
from pdr_dspy import PDR, evaluate


class Item(BaseModel):
    """One kind of thing."""

    name: str
    count: int = Field(ge=1)


class Order(dspy.Signature):
    """List what is ordered, names in the singular."""

    message: str = dspy.InputField()
    ordered: list[Item] = dspy.OutputField()


ORDERS = (
    ("Two black pens and five envelopes, please.", {"black pen": 2, "envelope": 5}),
    ("I need 3 chairs.", {"chair": 3}),
    ("One lamp, 4 bulbs and a desk.", {"lamp": 1, "bulb": 4, "desk": 1}),
)


def score(example, prediction, trace=None):
    """Return the items that are right, as a fraction of those that are in the order or in the answer."""
    gold = {item.name.lower(): item.count for item in example.ordered}
    found = {item.name.lower(): item.count for item in prediction.ordered}
    return sum(found.get(name) == count for name, count in gold.items()) / len(gold.keys() | found.keys())


def main():
    """Print the score of each order, and of all of them."""
    program = PDR(Order, widths=(3, 1), distiller="random_k", k=2, kappa=256, draft_tokens=128)
    examples = [
        dspy.Example(message=text, ordered=[Item(name=name, count=count) for name, count in items.items()])
        for text, items in ORDERS
    ]
    report = evaluate(program, [example.with_inputs("message") for example in examples], score)
    for row in report.rows:
        print(f"{row.score:.2f} {row.answer}")
    print(f"score {report.score:.2f}")


if __name__ == "__main__":
    with embedded():
        main()
