"""Repair a function: the examples in its docstring run in a sandbox, and the next draft reads the failing ones.

Needs `pip install "pdr-dspy[code]"`; without a sandbox no program is run.
"""

import dspy

from examples import embedded
from pdr_dspy import PDR
from pdr_dspy.verifiers.checks import CodeCheck

TASK = '''def median(values):
    """The middle of the sorted values, or the mean of the two in the middle.

    >>> median([3, 1, 2])
    2
    >>> median([4, 1, 3, 2])
    2.5
    """
'''
BROKEN = "def median(values):\n    return sorted(values)[len(values) // 2]\n"


class Repair(dspy.Signature):
    """The code does not do what the task says. Write the whole function anew, without its docstring."""

    prompt: str = dspy.InputField(desc="the task")
    broken: str = dspy.InputField()
    code: dspy.Code = dspy.OutputField()


def main():
    """Draft four repairs; if none passes, up to two more rounds read the failing examples."""
    program = PDR(
        Repair, widths=(4, 2, 1), distiller="checked", k=2, kappa=768, draft_tokens=256, keep=True, stop_at=1.0,
        check=CodeCheck(),
    )  # fmt: skip
    prediction = program(prompt=TASK, broken=BROKEN)
    for number, round_ in enumerate(prediction.rounds, 1):
        print(f"round {number}: checks", [draft.score for draft in round_.drafts])
    print(prediction.code.code, prediction.stop, prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
