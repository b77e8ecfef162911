"""A picker that is trained: verdicts of who saw the gold answer, imitated without it; see plans/distiller.md.

    python -m studies.distiller                                  # 0.5B, sums; drafts by llama.cpp, training by torch
    python -m studies.distiller --task humaneval --api-base http://127.0.0.1:8000/v1 --weights FOLDER
    python -m studies.short_sums                                 # 135M, short sums: an hour
    python -m studies.residues                                   # the toy: a minute
    python -m studies.distiller --table                          # the page, of studies/picks alone

Drafts of training and held-out questions are made once, by the untouched model. The picks of the training questions are
exported with `pdr export-sft --what picks` and learnt with `pdr train --sft`, three seeds, each an adapter. On held-out
questions each picker picks one of the same drafts, in four orders. Every step resumes: the same command goes on.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

import dspy
import typer

from optimize.wheel_weights import SOURCES
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.ending import guarded
from pdr_dspy.cli.model_option import DEFAULT, Model
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation import evaluate, read_rows
from pdr_dspy.evaluation.statistics import paired, score_interval
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.serving.weights import locate
from pdr_dspy.verifiers import RIGHT, Verifier
from studies.study import ROOT, ApiBase, Embedded, RunDir, folder_name, shown
from studies.verification import OUT

PICKS = ROOT / "picks"
"""One file for each task and model: of each held-out question, what each picker scores."""
LEARNT, HELD_OUT = "train", "test"
ORDERS, MEASURED = 8, 4
"""Orders of the candidates in which a training question is learnt, and a held-out one measured."""
SEEDS = 3


@dataclass(frozen=True)
class Task:
    """What is drafted, and by which schedule."""

    name: str
    signature: type[dspy.Signature]
    schedule: Schedule
    """Of one pass."""
    learnt: Sequence[dspy.Example]
    held_out: Sequence[dspy.Example]
    """Shares no question with `learnt`."""
    verifier: Verifier
    width: int = 8

    @property
    def drafting(self) -> Operator:
        """The program whose drafts are picked from; its answer is their vote."""
        return Operator(self.signature, self.schedule.replace(widths=(self.width,), final="vote"))

    @property
    def picking(self) -> Operator:
        """The program whose select calls are learnt."""
        return Operator(self.signature, self.schedule.replace(widths=(self.width, 1), distiller="topk", k=1))


Serving = Callable[[], AbstractContextManager[Any]]
"""Inside, DSPy's LM is the model that drafts."""


def draft(task: Task, folder: Path, serving: Serving, *, in_flight: int) -> None:
    """Make the drafts that are missing."""
    for split, examples in ((LEARNT, task.learnt), (HELD_OUT, task.held_out)):
        place = folder / split
        if len(read_rows(place / "rows.jsonl")) < len(examples):
            with serving():
                evaluate(task.drafting, examples, task.verifier, run_dir=place, max_in_flight=in_flight)


def learn(task: Task, folder: Path, weights: str, *, seeds: int, settings: Mapping[str, Any]) -> list[Path]:
    """Train what is missing; returns the adapter of each seed.

    Args:
        task: its training questions have their drafts in `folder`.
        folder: of the study.
        weights: a model folder of transformers.
        seeds: adapters.
        settings: fields of `ImitationConfig`.
    """
    from pdr_dspy.training.config import ImitationConfig
    from pdr_dspy.training.export_picks import export_picks
    from pdr_dspy.training.export_sft import write
    from pdr_dspy.training.sft import imitate

    samples = folder / "picks.jsonl"
    if not samples.exists():
        found = export_picks(folder / LEARNT, task.picking, task.learnt, task.verifier, orders=ORDERS)
        write(samples, found.samples)
        write_whole(folder / "picks.json", json.dumps(found.counts))
    adapters = []
    for seed in range(seeds):
        place = folder / f"adapter-{seed}"
        imitate(samples, ImitationConfig(**{"model": weights, **settings, "seed": seed}), place)
        adapters.append(place / "adapter")
    return adapters


class Scored(NamedTuple):
    """A held-out question whose drafts leave something to pick."""

    question: str
    scores: dict[str, float]
    """By picker: whether its pick is right, the mean over the orders of the candidates."""


def measure(task: Task, folder: Path, weights: str, adapters: Sequence[Path]) -> list[Scored]:
    """What any draft, the vote, the base and each adapter score on held-out questions; what was measured is kept."""
    from pdr_dspy.training.export_picks import asked_picks

    asked = asked_picks(folder / HELD_OUT, task.picking, task.held_out, task.verifier, orders=MEASURED)
    if not asked:
        raise ConfigError(
            f"no held-out question of {task.name} has both right and wrong drafts: there is nothing to pick"
        )
    rows = read_rows(folder / HELD_OUT / "rows.jsonl")
    found: dict[str, dict[str, list[float]]] = {}
    for each in asked:
        own = found.setdefault(each.id, {})
        own.setdefault("any draft", []).append(len(each.right) / len(each.replies))
        own.setdefault("vote", []).append(float(rows[each.id, each.repeat].score >= RIGHT))
    for name, adapter in {"base": None, **{f"trained {n}": path for n, path in enumerate(adapters)}}.items():
        kept = folder / f"measured-{folder_name(name)}.json"
        if not kept.exists():
            model, tokenizer = loaded(weights, adapter)
            right = []
            for each in asked:
                likely = chances(model, tokenizer, each.messages, each.replies)
                right.append(float(likely.index(max(likely)) + 1 in each.right))
            del model
            gc.collect()
            write_whole(kept, json.dumps(right))
        for each, score in zip(asked, json.loads(kept.read_text()), strict=True):
            found[each.id].setdefault(name, []).append(score)
    return [Scored(name, {key: fmean(values) for key, values in own.items()}) for name, own in found.items()]


def loaded(weights: str, adapter: Path | None) -> tuple[Any, Any]:
    """The model, with an adapter if one is given, and its tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype="float32")
    model = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    return model.eval(), AutoTokenizer.from_pretrained(weights)


def chances(
    model: Any, tokenizer: Any, messages: Sequence[Mapping[str, str]], replies: Sequence[str]
) -> tuple[float, ...]:
    """The probability of each reply when a server holds the completion to them: that of the token in which they differ.

    Raises ConfigError if the replies do not differ in one token at the same place.
    """
    import torch

    from pdr_dspy.training.sft import tokenized

    read = [tokenized(tokenizer, [*messages, {"role": "assistant", "content": reply}]) for reply in replies]
    start = read[0].prompt
    answers = [each.ids[start:] for each in read]
    place = next((n for n, tokens in enumerate(zip(*answers, strict=False)) if len(set(tokens)) > 1), None)
    if place is None or len({answer[place] for answer in answers}) < len(answers):
        raise ConfigError(f"the replies {replies[0]!r} to {replies[-1]!r} do not differ in one token")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([read[0].ids[: start + place]]), logits_to_keep=1).logits[0, -1]
    return tuple(logits[[answer[place] for answer in answers]].double().softmax(-1).tolist())


def numbered(candidates: str) -> str:
    """The candidates of a select call whose answers are numbers, as short lines: `1) 17`."""
    found = re.findall(r"^Candidate (\d+):\n(?:answer: )?(-?\d+)", candidates, re.MULTILINE)
    return "".join(f"{place}) {number}\n" for place, number in found)


def as_folder(weights: Path, folder: Path) -> str:
    """Weights as a model folder of transformers: a GGUF file is read into one, which needs the package gguf."""
    if weights.is_dir():
        return str(weights)
    made = folder / "base"
    if not (made / "config.json").exists():
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError(
                f"torch reads {weights} with the package gguf: `pip install gguf`, or give a model folder"
            )
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
        if getattr(model, "hf_quantizer", None) is not None:  # from 5.24 on, which refuses to save what it read
            model.hf_quantizer.remove_quantization_config(model)
        AutoTokenizer.from_pretrained(**where).save_pretrained(str(made))
        model.save_pretrained(str(made))
    return str(made)


def write_scores(name: str, scored: Sequence[Scored], about: Mapping[str, Any], place: Path | None = None) -> Path:
    """The scores as one file; its first line says what was run."""
    path = (place or PICKS) / f"{folder_name(name)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(about)), *(json.dumps(each._asdict()) for each in scored)]
    write_whole(path, "".join(f"{line}\n" for line in lines))
    return path


def read_scores(path: Path) -> tuple[dict[str, Any], list[Scored]]:
    """What was run, and its scores."""
    first, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return first, [Scored(**line) for line in lines]


def table(path: Path) -> str:
    """What each picker scores, as Markdown; the adapters' mean over seeds for each question."""
    about, scored = read_scores(path)
    trained = sorted({key for each in scored for key in each.scores if key.startswith("trained ")})
    pickers: dict[str, list[float]] = {
        name: [each.scores[name] for each in scored] for name in ("any draft", "vote", "base")
    }
    pickers["trained"] = [fmean(each.scores[name] for name in trained) for each in scored]
    text = "| pick | score | minus any draft | minus vote | minus base |\n|---|--:|--:|--:|--:|\n"
    for name, scores in pickers.items():
        low, high = score_interval(scores)
        others = (
            "" if name == other else shown(paired(scores, pickers[other])) for other in ("any draft", "vote", "base")
        )
        cells = [f"{fmean(scores):.3f} [{low:.2f}, {high:.2f}]", *others]
        text += f"| {name} | {' | '.join(cells)} |\n"
    each_seed = ", ".join(f"{fmean(one.scores[name] for one in scored):.3f}" for name in trained)
    facts = "; ".join(f"{key}: {value}" for key, value in about.items())
    head = f"{len(scored)} held-out questions with right and wrong drafts. {facts}."
    return f"{head}\n\n{text}\nTrained, by seed: {each_seed}.\n"


HEAD = """# A distiller that is trained

An adapter that learnt to pick one of the drafts, from picks that saw the gold answer, and picks without it; on held-out
questions with something to pick. Plan: `studies/plans/distiller.md`. Repeat: `python -m studies.distiller`. Intervals
are 95 % over questions.
"""
NOTES = {
    "residues-toy": (
        "The toy of `studies/residues.py`: which of four numbers, drawn by chance, has the wanted remainder? "
        "The base is a transformer of 100,000 random weights: its picks are chance, and what the adapters know is from "
        "the picks alone. It shows that the machinery learns, and says nothing about a language model. Repeat: "
        "`python -m studies.residues`."
    ),
    "short-sums-smollm2-135m": (
        "SmolLM2-135M, after a warm-up that taught it to add two-digit numbers, picks one of its own four answers. "
        "Repeat: `python -m studies.short_sums`."
    ),
}
"""What a reader must know of a file of scores."""


def page() -> str:
    """Of all files of scores."""
    text = HEAD
    for path in sorted(PICKS.glob("*.jsonl")):
        note = f"{NOTES[path.stem]}\n\n" if path.stem in NOTES else ""
        text += f"\n## {path.stem}\n\n{note}{table(path)}"
    return text


def write_page() -> Path:
    """The page, in docs/results."""
    write_whole(OUT / "distiller.md", page())
    return OUT / "distiller.md"


def run(
    task: Task,
    folder: Path,
    weights: str,
    serving: Serving,
    *,
    model: str,
    seeds: int = SEEDS,
    settings: Mapping[str, Any] | None = None,
    in_flight: int = 8,
    place: Path | None = None,
) -> Path:
    """Everything that is missing; returns the file of scores."""
    draft(task, folder, serving, in_flight=in_flight)
    adapters = learn(task, folder, weights, seeds=seeds, settings=settings or {})
    scored = measure(task, folder, weights, adapters)
    results = [json.loads((adapter.parent / "result.json").read_text()) for adapter in adapters]
    about = {
        "questions": len(task.held_out),
        "learnt from": f"{len(task.learnt)} questions, {results[0]['samples']} picks",
        "steps of each seed": results[0]["steps"],
        "seconds of training": round(sum(result["seconds"] for result in results)),
        "peak memory in MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return write_scores(f"{task.name}-{model}", scored, about, place)


def sums(limit: int | None) -> Task:
    """Sums and differences of three two-digit numbers."""
    from programs import arithmetic
    from studies.arithmetic import BASE

    learnt, held_out = (arithmetic.data(split, limit=limit) for split in (LEARNT, HELD_OUT))
    return Task("arithmetic", arithmetic.Arithmetic, BASE, learnt, held_out, arithmetic.verifier())


def code(limit: int | None) -> Task:
    """HumanEval without its check."""
    from programs import humaneval
    from studies.humaneval import BASE

    learnt, held_out = (humaneval.data(split, limit=limit) for split in (LEARNT, HELD_OUT))
    return Task("humaneval", humaneval.Complete, BASE, learnt, held_out, humaneval.verifier())


TASKS = {"arithmetic": sums, "humaneval": code}


def settings_of(path: Path | None) -> dict[str, Any]:
    """The fields of `ImitationConfig` in a JSON file."""
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


@guarded
def main(
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")] = "arithmetic",
    embedded: Embedded = DEFAULT,
    api_base: ApiBase = None,
    weights: Annotated[
        Path | None, typer.Option(help="What torch trains: a model folder or a GGUF file; the embedded model's.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file of training settings, such as steps.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each part.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Adapters.")] = SEEDS,
    run_dir: RunDir = None,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing: write the page.")] = False,
) -> None:
    """Run what is missing, and write the scores to studies/picks and the page to docs/results."""
    if not only_table:
        folder = run_dir or Path("runs/studies") / f"distiller-{task}-{folder_name(embedded)}"
        if task not in TASKS:
            raise ConfigError(f"`--task {task}` must be {' or '.join(TASKS)}")
        made = TASKS[task](limit)
        server = Model(api_base=api_base) if api_base else Model(embedded=embedded, sources=SOURCES)
        base = as_folder(weights or locate(embedded, sources=SOURCES), folder)

        def serving() -> AbstractContextManager[Any]:
            return server.serving(made.drafting.schedule, Display())

        name = embedded if weights is None else weights.stem
        run(made, folder, base, serving, model=name, seeds=seeds, settings=settings_of(config))
    print(write_page())


if __name__ == "__main__":
    typer.run(main)
