"""The trainer's model as a policy that the rollout samples from: transformers' generate, or TRL's vLLM.

Collective generation (parameters sharded over processes, a vLLM server, vLLM over several devices) requires that all
processes call it equally often with equally many prompts, while rollouts differ in the number of calls that they need.
So the processes exchange the sizes of their batches before each call, pad shorter batches, and a process whose rollout
is done takes part with padding until all are done.

vLLM's sleep mode (`vllm_enable_sleep_mode`) releases the weights after every call and reloads them before the next; an
operator episode makes at least three calls. Leave it off if the memory allows.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from trl.models.utils import unwrap_model_for_generation

from pdr_dspy.errors import ConfigError
from pdr_dspy.training.types import Sampled

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer


_NAMES = signature(cast(Any, GenerationMixin).prepare_inputs_for_generation).parameters
_CACHE = "cache" if "cache" in _NAMES else "past_key_values"
"""What transformers calls the argument: until 5.23 the latter."""
_COPIED = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of a cache whose rows can be copied; the states of linear attention cannot."""


class TrainerPolicy:
    """A `Policy` over a TRL trainer.

    Args:
        trainer: the trainer whose current model is sampled; its tokenizer has the end-of-turn tokens.
        rows: largest batch of transformers' generate, in prompts; None for all at once. vLLM schedules by itself.
    """

    def __init__(self, trainer: GRPOTrainer, rows: int | None = None) -> None:
        self._trainer = trainer
        self._rows = rows
        self.calls = self.prompt_tokens = self.tokens = 0
        """Totals that this process has sampled, with untrained calls, without padding."""

    @property
    def tokenizer(self) -> Any:
        """The trainer's."""
        return self._trainer.processing_class

    @property
    def collective(self) -> bool:
        """Whether all processes must generate together."""
        trainer = self._trainer
        if trainer.use_vllm:
            return trainer.vllm_mode == "server" or trainer.vllm_tensor_parallel_size > 1
        return trainer.is_fsdp_enabled or trainer._dist.is_zero3

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """One completion for each prompt.

        Args:
            prompts: token ids, none empty.
            caps: the largest number of tokens of each completion, at least 1.
            temperature: 0 samples greedily (the log-probabilities are then those of temperature 1).

        Raises:
            ConfigError: an empty prompt, a cap below 1, or a negative temperature.
        """
        return self._counted(prompts, caps, temperature, base=False)

    def generate_base(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """As `generate`, by the model without its adapter; by the model itself if all its weights are trained."""
        return self._counted(prompts, caps, temperature, base=True)

    def _counted(self, prompts: list[list[int]], caps: list[int], temperature: float, *, base: bool) -> list[Sampled]:
        _check(prompts, caps, temperature)
        sampled = self._together(prompts, caps, temperature, base=base)
        self.calls += len(prompts)
        self.prompt_tokens += sum(map(len, prompts))
        self.tokens += sum(len(each.ids) for each in sampled)
        return sampled

    def accompany(self) -> None:
        """Take part in the collective generation of other processes after this one's rollout is done."""
        if self.collective:
            while self._together([], [], 1.0) is not None:
                pass

    def _together(self, prompts: list[list[int]], caps: list[int], temperature: float, *, base: bool = False) -> Any:
        """Completions for the prompts of this process; None if no process had prompts."""
        if not self.collective:
            return self._sampled(prompts, caps, temperature, base)
        by_cap = self._trainer.use_vllm  # vLLM takes one cap a call, transformers one for each row
        kinds = [(temperature, cap if by_cap else 0, base) for cap in caps]
        everyone: list[Counter[tuple[float, int, bool]]] = gather_object([Counter(kinds)])
        done: dict[int, Sampled] = {}
        for kind in sorted(set().union(*everyone)):
            mine = [i for i, own in enumerate(kinds) if own == kind]
            missing = max(counts[kind] for counts in everyone) - len(mine)
            padded = [prompts[i] for i in mine] + [[self._trainer.eos_token_ids[0]]] * missing
            limits = [caps[i] for i in mine] + [kind[1] or 1] * missing
            done |= zip(mine, self._sampled(padded, limits, kind[0], kind[2]), strict=False)
        return [done[i] for i in range(len(prompts))] if any(everyone) else None

    def _sampled(self, prompts: list[list[int]], caps: list[int], temperature: float, base: bool) -> list[Sampled]:
        if self._trainer.use_vllm:
            return self._by_vllm(prompts, caps, temperature)
        return self._by_transformers(prompts, caps, temperature, base=base)

    def _by_vllm(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        vllm: Any = self._trainer.vllm_generation
        before = vllm.temperature, vllm.max_completion_length
        done: dict[int, Sampled] = {}
        try:
            for cap in sorted(set(caps)):
                mine = [i for i, own in enumerate(caps) if own == cap]
                vllm.temperature, vllm.max_completion_length = temperature, cap
                _, ids, logprobs, _ = vllm.generate(prompts=[prompts[i] for i in mine], images=None, num_generations=1)
                for place, tokens, tops in zip(mine, ids, logprobs, strict=True):
                    values = [math.nan if top[0] is None else top[0] for top in tops]
                    done[place] = self._cut(list(tokens), values, cap)
        finally:
            vllm.temperature, vllm.max_completion_length = before
        return [done[i] for i in range(len(prompts))]

    def _by_transformers(
        self, prompts: list[list[int]], caps: list[int], temperature: float, *, base: bool = False
    ) -> list[Sampled]:
        trainer, args = self._trainer, cast(Any, self._trainer.args)
        settings = self._settings(max(caps), temperature)
        size = self._rows or len(prompts)
        order = range(len(prompts))
        if size < len(prompts):  # similar lengths share a batch, so that few rows wait for long ones
            order = sorted(order, key=lambda i: (caps[i], len(prompts[i])))
        done: dict[int, Sampled] = {}
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gather_deepspeed3_params=args.ds3_gather_for_generation,
                generation_kwargs=settings,  # else the model's own top-k or penalty replaces defaults
                gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
            _without_adapter(model) if base else nullcontext(),
        ):
            for start in range(0, len(prompts), size):
                part = list(order[start : start + size])
                sampled = self._batch(model, [prompts[i] for i in part], [caps[i] for i in part], settings)
                done |= zip(part, sampled, strict=True)
        return [done[i] for i in range(len(prompts))]

    def _batch(self, model: Any, prompts: list[list[int]], caps: list[int], settings: dict[str, Any]) -> list[Sampled]:
        device = self._trainer.accelerator.device
        width = max(map(len, prompts))
        pad = settings["pad_token_id"]
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        notes = _Notes(settings["temperature"])
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            **self._read(model, prompts, ids, mask),
            generation_config=GenerationConfig(**{**settings, "max_new_tokens": max(caps)}, disable_compile=True),
            logits_processor=LogitsProcessorList([notes]),
            stopping_criteria=StoppingCriteriaList([_Caps(width, torch.tensor(caps, device=device))]),
        )
        logps = notes.of(out, width).tolist()
        return [
            self._cut(tokens, values, cap)
            for tokens, values, cap in zip(out[:, width:].tolist(), logps, caps, strict=True)
        ]

    def _read(self, model: Any, prompts: list[list[int]], ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """For `generate`: the cache of all prompt tokens but the last, if that saves reading.

        The samples of a group and the drafts of an episode have one prompt, which is read once and its keys and values
        copied.
        """
        number: dict[tuple[int, ...], int] = {}
        row = [number.setdefault(tuple(prompt), len(number)) for prompt in prompts]
        special = cast(Any, self._trainer.args).cache_implementation is not None
        # Processes that generate together must call the model equally often, whatever prompts they have.
        if 2 * len(number) > len(prompts) or ids.shape[1] < 2 or special or self.collective:
            return {}
        cache = DynamicCache(config=model.config)
        if any(type(layer) not in _COPIED for layer in cache.layers):
            return {}
        first = torch.tensor([row.index(place) for place in range(len(number))], device=ids.device)
        seen = mask[first, :-1]
        places = (seen.cumsum(-1) - 1).clamp(min=0)
        decoder = model.get_decoder()  # no token is drawn here, so that no logits are needed
        decoder(input_ids=ids[first, :-1], attention_mask=seen, position_ids=places, **{_CACHE: cache})
        if cache.get_seq_length() != ids.shape[1] - 1:  # a model that keeps its state elsewhere
            return {}
        cache.batch_select_indices(torch.tensor(row, device=ids.device))
        return {_CACHE: cache}

    def _settings(self, cap: int, temperature: float) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "max_new_tokens": cap,
            "do_sample": temperature > 0,
            "temperature": temperature or 1.0,
            "top_p": 1.0,
            "top_k": 0 if temperature > 0 else None,
            "min_p": None,
            "repetition_penalty": 1.0,
            "pad_token_id": trainer._tokenizer.pad_token_id,
            "bos_token_id": trainer._tokenizer.bos_token_id,
            "eos_token_id": trainer.eos_token_ids,
            "cache_implementation": cast(Any, trainer.args).cache_implementation,
        }

    def _cut(self, tokens: list[int], logps: list[float], cap: int) -> Sampled:
        """The completion up to the cap and to the first end-of-turn token, inclusive."""
        ends = set(self._trainer.eos_token_ids)
        last = next((i for i, token in enumerate(tokens[:cap]) if token in ends), None)
        size = cap if last is None else last + 1
        return Sampled(tokens[:size], logps[:size], "length" if last is None else "stop")


def _check(prompts: list[list[int]], caps: list[int], temperature: float) -> None:
    """Raise ConfigError for prompts that cannot be sampled from."""
    if len(prompts) != len(caps) or not prompts or not all(prompts) or min(caps) < 1 or temperature < 0:
        raise ConfigError(
            "`generate(prompts, caps, temperature)` needs at least one prompt, no empty prompt, as many caps of at "
            f"least 1, and a temperature of at least 0; got {len(prompts)} prompts "
            f"({sum(not prompt for prompt in prompts)} empty), {len(caps)} caps from {min(caps, default=0)} and "
            f"temperature {temperature}"
        )


def _without_adapter(model: Any) -> Any:
    """Inside, the model computes without its adapter; nothing changes for one whose own weights are trained."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


class _Caps(StoppingCriteria):
    """Ends each row at its own cap."""

    def __init__(self, prompt: int, caps: Tensor) -> None:
        self._prompt, self._caps = prompt, caps

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        return input_ids.shape[1] - self._prompt >= self._caps


class _Notes(LogitsProcessor):
    """Records the log-probability of each sampled token; holds the distribution of one step at a time.

    A custom processor runs before the temperature is applied and before the token is drawn, so it reads the token one
    step later.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._last: Tensor | None = None
        self._seen: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: Any) -> Any:  # type: ignore[override]
        self._note(input_ids)
        self._last = (scores / self._temperature).log_softmax(-1)
        return scores

    def of(self, out: Tensor, prompt: int) -> Tensor:
        """The log-probability of every token of `out` after the prompt, (rows, tokens)."""
        if len(self._seen) < out.shape[1] - prompt:
            self._note(out)
        return torch.stack(self._seen[: out.shape[1] - prompt], dim=1)

    def _note(self, ids: Tensor) -> None:
        if self._last is not None:
            self._seen.append(self._last.gather(1, ids[:, -1:])[:, 0])
