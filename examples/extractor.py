"""Extract a pydantic model: the model's validation is the check, and the next draft reads its faults."""

import dspy
from pydantic import BaseModel, Field, model_validator

from examples import embedded
from pdr_dspy import SR
from pdr_dspy.verifiers.checks import SchemaCheck


class Line(BaseModel):
    """One item of the invoice."""

    what: str
    price: int = Field(ge=0)


class Invoice(BaseModel):
    """An invoice whose lines add up."""

    number: str = Field(pattern=r"^[A-Z]\d+$")
    lines: list[Line]
    total: int


class Consistent(Invoice):
    """The invoice with the constraint that the check validates."""

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
    """Run at most three rounds; the first invoice that adds up ends the run."""
    program = SR(Extract, rounds=3, check=SchemaCheck(Consistent, field="invoice"), keep=True, stop_at=1.0, kappa=512)
    prediction = program(text="Invoice A17: two chairs 120, a table 230. To pay: 350 euros.")
    print(prediction.invoice.model_dump_json(), prediction.stop, prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
