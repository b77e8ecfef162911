"""Extract a pydantic model: the model's own validation is the check, and its faults are what the next draft reads."""

import dspy
from pydantic import BaseModel, Field, model_validator

from examples import embedded
from pdr_dspy import SR
from pdr_dspy.verifiers.checks import SchemaCheck


class Line(BaseModel):
    """One thing that was bought."""

    what: str
    price: int = Field(ge=0)


class Invoice(BaseModel):
    """An invoice whose lines add up."""

    number: str = Field(pattern=r"^[A-Z]\d+$")
    lines: list[Line]
    total: int


class Consistent(Invoice):
    """The same, as the check wants it."""

    @model_validator(mode="after")
    def _adds_up(self):
        if (lines := sum(line.price for line in self.lines)) != self.total:
            raise ValueError(f"the lines add up to {lines} and the total is {self.total}")
        return self


class Extract(dspy.Signature):
    """Read the invoice."""

    text: str = dspy.InputField()
    invoice: Invoice = dspy.OutputField()


def main():
    """Three rounds at most; the first invoice that adds up ends them."""
    program = SR(Extract, rounds=3, check=SchemaCheck(Consistent, field="invoice"), keep=True, stop_at=1.0, kappa=512)
    prediction = program(text="Invoice A17: two chairs 120, a table 230. To pay: 350 euros.")
    print(prediction.invoice.model_dump_json(), prediction.stop, prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
