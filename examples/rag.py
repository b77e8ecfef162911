"""Answer from documents: retrieve, draft concurrently, keep a draft whose quotation is in the documents."""

import dspy

from examples import embedded
from pdr_dspy import PDR
from pdr_dspy.verifiers.checks import as_check

DOCUMENTS = (
    "The pump of hall 3 was replaced in May 2024. Its seal is checked every 400 hours.",
    "Hall 2 has two compressors. The older one was built in 1998.",
    "Visitors sign in at the gate. Hall 3 is closed to visitors.",
)


def quoted(args, pred):
    """Whether the quotation is in the context, word for word."""
    found = len(pred.quotation) > 8 and pred.quotation in args["context"]
    return dspy.Prediction(score=float(found), feedback="The quotation must stand in the context word for word.")


class Rag(dspy.Module):
    """Retrieval by shared words, then PDR with the quotation as its check."""

    def __init__(self):
        super().__init__()
        settings = {"widths": (4, 1), "distiller": "checked", "keep": True, "stop_at": 1.0, "draft_tokens": 160}
        self.answer = PDR("context, question -> quotation, answer", kappa=512, k=2, check=as_check(quoted), **settings)

    def forward(self, question):
        words = set(question.lower().strip("?").split())
        ranked = sorted(DOCUMENTS, key=lambda text: -len(words & set(text.lower().split())))
        return self.answer(context="\n".join(ranked[:2]), question=question)


def main():
    """Ask one question, and print the answer with its quotation."""
    prediction = Rag()(question="How often is the seal of the pump in hall 3 checked?")
    print(prediction.answer, f"({prediction.quotation})", prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
