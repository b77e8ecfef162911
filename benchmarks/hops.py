"""A toy for `benchmarks.training`: follow a memorised map for K hops, in calls that may write 3.

The map is one random cycle through all states. A transformer of 200,000 parameters learns it in pretraining and
writes one hop a token, in lines that say for themselves what they are:

    Start: 17          reads  |17|hops 6|solve|              writes |from 0|90|41|8|71|3|answer: 64|<end>|
    Hops: 6
    Workspace: ...     reads  |17|hops 6|8|8|52|8|after 3|solve|  writes |from 3|71|3|answer: 64|<end>|

A short call ends after 3 hops, so that 6 hops need drafts, a workspace and a refinement that continues from it. Two
properties are built in, and must be stated with every figure of this toy: a tenth of the hops of the corpus are wrong,
and texts with notes continue from them a quarter of the time and start again otherwise. So the model knows the form of
a workspace and mostly ignores it; whether it uses it is decided by one token, the first line.

The library's prompts are sentences; this model reads 12 words. `HopsAdapter`, a `dspy.Adapter`, writes the same inputs
in the toy's words, and shows only the states of a workspace's furthest candidates (at most `NOTES` states; kappa is
therefore 4 tokens to this model, independent of the schedule).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STEP = 3
"""Hops that a short call may write."""
SHORT = 1 + STEP
"""Its cap in tokens: a line that says where it begins, then the hops."""
FURTHEST = 12
"""Most hops of a question."""
LONG = FURTHEST + 2
"""The cap in tokens of a call that may write every hop: a first line, the hops, the end."""
NOTES = 4
"""States that a workspace shows."""
PAD, END, SOLVE = "<pad>", "<end>", "solve\n"
PADDING, ENDING, SOLVING = 0, 1, 2
FROM = tuple(range(0, FURTHEST, STEP))
"""Hops after which a text may begin."""


class Follow(dspy.Signature):
    """Follow the map from the start for as many hops."""

    start: int = dspy.InputField()
    hops: int = dspy.InputField()
    answer: int = dspy.OutputField()


class Settings(NamedTuple):
    """Settings of a pretrained base."""

    states: int = 128
    width: int = 64
    layers: int = 4
    steps: int = 400
    batch: int = 128
    rate: float = 3e-3
    noted: float = 0.75
    """Share of the corpus's texts that show notes, if the question has enough hops."""
    wrong: float = 0.1
    """Share of the corpus's hops that are wrong."""
    reading: float = 0.25
    """Share of the corpus's texts with notes that continue from them."""
    furthest: int = FURTHEST
    """Most hops of a text of the corpus."""

    @property
    def held_out(self) -> int:
        """States that no training question starts from: a quarter."""
        return self.states // 4


class World:
    """The map, and the start states of training and test questions."""

    def __init__(self, settings: Settings, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(settings.states, generator=generator)
        self.settings, self.seed = settings, seed
        self.after = torch.empty_like(order)
        self.after[order] = order.roll(-1)
        mixed = torch.randperm(settings.states, generator=generator).tolist()
        self.test, self.train = sorted(mixed[: settings.held_out]), sorted(mixed[settings.held_out :])

    def answer(self, start: int, hops: int) -> int:
        """The state after `hops` hops from `start`."""
        state = torch.tensor(start)
        for _ in range(hops):
            state = self.after[state]
        return int(state)

    def examples(self, starts: Sequence[int], hops: Sequence[int]) -> list[dspy.Example]:
        """One question for each start and number of hops."""
        return [
            dspy.Example(start=start, hops=many, answer=self.answer(start, many)).with_inputs("start", "hops")
            for start in starts
            for many in hops
        ]


# --- words -----------------------------------------------------------------------------------------------------------


class Words:
    """Ids of the toy's words: every line of a text is one token."""

    def __init__(self, states: int) -> None:
        self.states = states
        self.lines = [PAD, END, SOLVE]  # in the order of their ids
        self.hops = self._add(f"hops {many}\n" for many in range(1, FURTHEST + 1)) - 1
        self.start = self._add(f"from {many}\n" for many in FROM)
        self.after = self._add(f"after {many}\n" for many in FROM)
        self.state = self._add(f"{state}\n" for state in range(states))
        self.answer = self._add(f"answer: {state}\n" for state in range(states))

    def _add(self, lines: Iterable[str]) -> int:
        first = len(self.lines)
        self.lines.extend(lines)
        return first


def tokenizer(states: int) -> PreTrainedTokenizerFast:
    """One token a line; the chat template is the last user message and the word `solve`."""
    words = Words(states)
    inner = Tokenizer(models.WordLevel({line: place for place, line in enumerate(words.lines)}, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "merged_with_previous")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template="{{ messages[-1]['content'] }}{% if add_generation_prompt %}solve\n{% endif %}",
    )


class HopsAdapter(dspy.Adapter):
    """The toy's form of a prompt: three or more words for a question, and the furthest states of a workspace."""

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A single user message."""
        lines = [f"{inputs['start']}\n", f"hops {inputs['hops']}\n", *noted(inputs.get("workspace") or "")]
        return [{"role": "user", "content": "".join(lines)}]

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return nothing, since the library parses `answer: 64` itself."""
        return {}


def noted(workspace: str) -> list[str]:
    """The lines that show a workspace: the number of hops of its furthest candidates, and their states."""
    places = [
        (int(start) + len(states), states[-1])
        for start, text in re.findall(r"^from (\d+)$((?:\n\d+$)*)", workspace, re.MULTILINE)
        if (states := text.split())
    ]
    furthest = max((place for place, _ in places), default=0)
    if furthest not in FROM[1:]:
        return []
    states = [f"{state}\n" for place, state in places if place == furthest]
    return [*states[:NOTES], f"after {furthest}\n"]


# --- pretraining -----------------------------------------------------------------------------------------------------


def base(settings: Settings, seed: int, cache: Path | None = None) -> LlamaForCausalLM:
    """A pretrained base, reproducible for the same settings, seed and library versions; stored in `cache` if given."""
    model = untrained(settings, seed)
    place = None
    if cache is not None:
        place = cache / f"base-{'-'.join(map(str, settings))}-{seed}.pt"
        if place.exists():
            model.load_state_dict(torch.load(place, weights_only=True))
            return model
    pretrain(model, settings, seed)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".part")
        torch.save(model.state_dict(), partial)
        partial.replace(place)
    return model


def untrained(settings: Settings, seed: int) -> LlamaForCausalLM:
    """The model before training."""
    words = Words(settings.states)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words.lines),
                hidden_size=settings.width,
                intermediate_size=2 * settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                pad_token_id=PADDING,
                eos_token_id=ENDING,
                bos_token_id=None,
                tie_word_embeddings=False,
            )
        )


def pretrain(model: LlamaForCausalLM, settings: Settings, seed: int) -> list[float]:
    """Learn the corpus; returns the loss (nats a token) of each step."""
    world = World(settings, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps, pct_start=0.1)
    losses = []
    for _ in range(settings.steps):
        ids, mask = corpus(world, settings.batch, generator)
        logits = model(input_ids=ids[:, :-1]).logits
        loss = cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def corpus(world: World, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` texts, padded on the right, and the mask of their learned tokens, those after `solve`."""
    settings, words = world.settings, Words(world.settings.states)
    furthest = settings.furthest

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    start, hops = integers(0, settings.states, count), integers(1, furthest + 1, count)
    true = [start]
    for _ in range(furthest):
        true.append(world.after[true[-1]])
    place = STEP * integers(1, -(-furthest // STEP), count)
    shown = (uniform(count) < settings.noted) & (place < hops)
    reached = torch.stack(true)[place, torch.arange(count)]
    # A candidate's state is right if none of its hops was wrong.
    stands = uniform(count, NOTES) < ((1 - settings.wrong) ** place)[:, None]
    notes = torch.where(stands, reached[:, None], integers(0, settings.states, count, NOTES))
    given = integers(1, NOTES + 1, count)
    common = torch.stack([notes[:, :many].mode(dim=1).values for many in range(1, NOTES + 1)])
    reads = shown & (uniform(count) < settings.reading)
    begins = torch.where(reads, place, 0)
    state = torch.where(reads, common[given - 1, torch.arange(count)], start)
    written = []
    for hop in range(furthest):
        slips = uniform(count) < settings.wrong
        state = torch.where(slips, integers(0, settings.states, count), world.after[state])
        last = begins + hop + 1 == hops
        word = torch.where(last, words.answer + state, words.state + state)
        word = torch.where(begins + hop == hops, ENDING, word)
        written.append(torch.where(begins + hop > hops, PADDING, word))
    written.append(torch.where(begins + furthest == hops, ENDING, PADDING))
    body = torch.cat([(words.start + begins // STEP)[:, None], torch.stack(written, dim=1)], dim=1)
    asked = torch.stack([words.state + start, words.hops + hops], dim=1)
    place_word = (words.after + place // STEP)[:, None]
    solve = torch.full((count, 1), SOLVING)
    ids = torch.full((count, asked.shape[1] + NOTES + 2 + body.shape[1]), PADDING)
    for many in range(NOTES + 1):
        own = torch.where(shown, given, 0) == many
        told = [words.state + notes[:, :many], place_word] if many else []
        text = torch.cat([asked, *told, solve, body], dim=1)[own]
        ids[own, : text.shape[1]] = text
    mask = (ids != PADDING) & (ids != SOLVING) & ((ids == SOLVING).cumsum(dim=1) == 1)
    return ids, mask
