"""The toy of `studies.distiller`, `python -m studies.residues`: which of four numbers has the wanted remainder?

Drafts are made by chance, a third of them right, and the picker is a transformer of 100,000 random weights that has
learnt nothing: what a number's remainder is, it can only know from the picks that it imitates. So the toy shows whether
the machinery learns (export, adapter, held-out picks), and nothing about any model.

    Remainder: 2                         reads  |1) 17|2) 4|3) 9|4) 20|remainder 2|   writes |Selected: [4]|<end>|
    Candidate 1:
    answer: 17 ...

Every line is one token, so that the model sees 30 x 4 candidates and three remainders as words of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import dspy
import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pdr_dspy.cli.ending import guarded
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import Score
from studies import distiller
from studies.study import RunDir

NUMBERS, WIDTH, REMAINDERS = 30, 4, 3
PAD, END = "<pad>", "<end>"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
SETTINGS = {
    "steps": 400,
    "batch": 32,
    "learning_rate": 5e-3,
    "lora": {"rank": 16, "alpha": 32},
    "save_every": 400,
}
"""Of the training; found by hand on other questions than those of `task`."""


class Residue(dspy.Signature):
    """Name a number with this remainder on division by three."""

    remainder: int = dspy.InputField()
    number_of_question: int = dspy.InputField()
    answer: int = dspy.OutputField()


class Remainder:
    """Right for every number with the remainder."""

    grades_drafts = True

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        answer = prediction.get("answer")
        return Score(float(answer is not None and int(answer) % REMAINDERS == example.remainder))

    def check_gold(self, example: dspy.Example) -> None:
        """There is no gold answer, but a question."""

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "Remainder"}


class Words(dspy.Adapter):
    """The toy's form of a prompt."""

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A single user message."""
        lines = distiller.numbered(str(inputs.get("candidates", "")))
        return [{"role": "user", "content": f"{lines}remainder {inputs['remainder']}\n"}]

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return nothing, since the library parses `answer: 17` itself."""
        return {}


def questions(count: int, first: int) -> list[dspy.Example]:
    """Numbered questions; each has drafts of its own."""
    return [
        dspy.Example(remainder=n % REMAINDERS, number_of_question=n, id=f"{n:04}").with_inputs(
            "remainder", "number_of_question"
        )
        for n in range(first, first + count)
    ]


def task(learnt: int = 240, held_out: int = 120, first: int = 10_000) -> distiller.Task:
    """The toy's task."""
    schedule = Schedule(widths=(1,), kappa=256, draft_tokens=16, temperature=1.0)
    known, others = questions(learnt, first), questions(held_out, first + learnt)
    return distiller.Task("residues", Residue, schedule, known, others, Remainder(), WIDTH)


@contextmanager
def drafter() -> Iterator[None]:
    """Inside, DSPy's model names numbers by chance."""

    def reply(request: ScriptedRequest) -> str:
        return f"answer: {random.Random(request.seed).randrange(NUMBERS)}"

    with dspy.context(lm=scripted_lm(reply, model="scripted/chance"), adapter=Words()):
        yield


def untrained(folder: Path, seed: int = 0) -> str:
    """A folder with a random model; returns its path."""
    lines = [PAD, END, *(f"remainder {r}\n" for r in range(REMAINDERS))]
    lines += [f"{place}) {number}\n" for place in range(1, WIDTH + 1) for number in range(NUMBERS)]
    lines += [f"Selected: [{place}]" for place in range(1, WIDTH + 1)]
    inner = Tokenizer(models.WordLevel({line: place for place, line in enumerate(lines)}, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "merged_with_previous")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(lines),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                initializer_range=0.2,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=None,
            )
        )
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def study(folder: Path, *, seeds: int = distiller.SEEDS, place: Path | None = None, **sizes: int) -> Path:
    """The study on the toy, whose prompts are the toy's words throughout."""
    base = folder / "base"
    weights = str(base) if (base / "config.json").exists() else untrained(base)
    settings = {**SETTINGS, **{key: sizes.pop(key) for key in ("steps",) if key in sizes}}
    with dspy.context(adapter=Words()):
        return distiller.run(
            task(**sizes), folder, weights, drafter, model="toy", seeds=seeds, settings=settings, place=place
        )


@guarded
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Adapters.")] = distiller.SEEDS,
    run_dir: RunDir = None,
) -> None:
    """Run what is missing, and write the scores to studies/picks and the page to docs/results."""
    study(run_dir or Path("runs/studies/distiller-residues-toy"), seeds=seeds)
    print(distiller.write_page())


if __name__ == "__main__":
    typer.run(main)
