"""The model being trained as a `dspy.LM` that batches the calls of all running episodes.

A program makes its calls one stage after the other. A batch is sent when every running episode waits for a call, so
that four episodes of three drafts, a distillation and a refinement make batches of 12, 4 and 4. Prompts and completions
are kept as token ids for the trainer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

import dspy
from dspy.lm15 import FinishReason, Message, Request, Response
from dspy.lm15 import Usage as ServedUsage

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError, PDRError
from pdr_dspy.training.types import Policy, Sampled

T = TypeVar("T")
DEFAULT_CAP = 1024
"""Output tokens of a call without a cap."""
_SETTLED = 5
"""Idle turns of the event loop after which all siblings have begun; fewer would only make smaller batches."""
_EPISODE: ContextVar[int | None] = ContextVar("pdr_dspy_episode", default=None)


class SampledCall(NamedTuple):
    """One call as token ids."""

    seed: int | None
    """The request's seed, which identifies the call within its episode. The policy draws from its own generator."""
    prompt_ids: list[int]
    sampled: Sampled


class PolicyLM(dspy.LM, calls.ServedModel):
    """A `dspy.LM` over a `Policy`. Use it for programs that run inside `together`.

    It serves requests of the library's operators without DSPy's history, callbacks and usage tracking, and other
    asynchronous calls of DSPy with them.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        template_options: Mapping[str, Any] | None = None,
        context_length: int | None = None,
        name: str = "policy/model",
    ) -> None:
        """
        Args:
            policy: the sampler. Its tokenizer's chat template renders the prompts; without a template a prompt is the
                texts of the messages, each followed by a blank line.
            template_options: arguments of the chat template, such as {"enable_thinking": False}.
            context_length: tokens that prompt and completion may take together; None if unknown.
            name: the model's name on ledgers.
        """
        super().__init__(name, engine=_Refusing(), async_engine=_Waiting(self), cache=False, num_retries=0)
        self.policy = policy
        self.context_length = context_length
        self.sampled_calls: dict[int, list[SampledCall]] = {}
        """The calls of each episode of the last `together`, in the order in which they were sampled."""
        self.batches: list[int] = []
        """Completions in each batch so far."""
        self._options = dict(template_options or {})
        self._waiting: list[_Call] = []
        self._inside = 0
        self._news = asyncio.Event()
        self.base: dspy.LM = _BaseLM(self)
        """The same model without its adapter, if the policy trains one; its calls are in the same batches and
        records."""

    async def capabilities(self) -> calls.Capabilities:
        """The context length, if known. The weights change from step to step, so only the object identifies it."""
        return calls.Capabilities(
            identity=self.model, known=False, context_length=self.context_length, counts_tokens=True
        )

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(self.policy.tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    async def acall(self, prompt: Any = None, **options: Any) -> Any:
        """Answer one request in the next batch."""
        with self.inside():
            if isinstance(prompt, Request):
                return await self.complete(prompt)
            return await super().acall(prompt, **options)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Around a call, which a batch may wait for."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._news.set()

    async def complete(self, request: Request, *, base: bool = False) -> Response:
        """Wait for the batch and return this request's completion, with `base` of the model without its adapter.

        Raises ConfigError outside of `together`.
        """
        episode = _EPISODE.get()
        if episode is None:
            raise ConfigError("`PolicyLM` answers only inside `await lm.together(episodes)`")
        config = request.config
        call = _Call(
            episode,
            config.seed,
            messages_of(request),
            config.max_tokens or DEFAULT_CAP,
            1.0 if config.temperature is None else config.temperature,
            base,
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(call)
        self._news.set()
        prompt_ids, sampled = await call.answer
        text = self.policy.tokenizer.decode(sampled.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text or " "),
            finish_reason=cast("FinishReason", sampled.finish),
            usage=ServedUsage(input_tokens=len(prompt_ids), output_tokens=len(sampled.ids)),
        )

    async def together(self, episodes: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run episodes concurrently, their calls in common batches, and return their results in order.

        The first error of an episode, or of the policy, cancels all of them and is raised.
        """
        self.sampled_calls = {number: [] for number in range(len(episodes))}
        self.batches = []
        self._waiting, self._inside, self._news = [], 0, asyncio.Event()
        tasks = [asyncio.ensure_future(_in_episode(number, run)) for number, run in enumerate(episodes)]
        for task in tasks:
            task.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                await self._settle()
                for task in tasks:
                    if task.done():
                        task.result()  # raises the task's error
                running = {number for number, task in enumerate(tasks) if not task.done()}
                if not running:
                    return [task.result() for task in tasks]
                # A call that is about to start may belong to this batch, and one that ends may start others.
                if self._inside == len(self._waiting) and running <= {call.episode for call in self._waiting}:
                    self._answer()
                else:
                    await self._news.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self) -> None:
        """Let all tasks run until none makes progress."""
        quiet = 0
        while quiet < _SETTLED:
            self._news.clear()
            await asyncio.sleep(0)
            quiet = 0 if self._news.is_set() else quiet + 1

    def _answer(self) -> None:
        """Sample completions for all waiting calls: one batch for each temperature, with and without the adapter."""
        waiting, self._waiting = sorted(self._waiting, key=lambda call: call.episode), []
        prompts: dict[str, list[int]] = {}
        for temperature, base in sorted({(call.temperature, call.base) for call in waiting}, reverse=True):
            batch = [call for call in waiting if (call.temperature, call.base) == (temperature, base)]
            for call in batch:
                if repr(call.messages) not in prompts:  # siblings share one prompt
                    ids = prompt_ids(self.policy.tokenizer, call.messages, **self._options)
                    prompts[repr(call.messages)] = ids
            ids = [list(prompts[repr(call.messages)]) for call in batch]
            caps = [call.cap for call in batch]
            sample = getattr(self.policy, "generate_base", self.policy.generate) if base else self.policy.generate
            sampled = sample(ids, caps, temperature)
            _check(sampled, caps)
            self.batches.append(len(batch))
            for call, own, completion in zip(batch, ids, sampled, strict=True):
                self.sampled_calls[call.episode].append(SampledCall(call.seed, own, completion))
                if not call.answer.done():
                    call.answer.set_result((own, completion))

    def __deepcopy__(self, memo: dict[int, Any]) -> PolicyLM:
        return self  # copies of a program sample from the same model

    def copy(self, **changes: Any) -> PolicyLM:
        """Return itself: DSPy changes only sampling settings on copies, and each request carries its own."""
        return self


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> list[int]:
    """The token ids of a prompt: the messages in the tokenizer's chat template, up to the beginning of the answer.

    Without a template it is the texts of the messages, each followed by a blank line. `options` go to the template.
    """
    if getattr(tokenizer, "chat_template", None):
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **options,
        )
    else:
        ids = tokenizer.encode("".join(f"{message['content']}\n\n" for message in messages))
    return [int(token) for token in ids]


def messages_of(request: Request) -> list[dict[str, str]]:
    """The chat messages of a request. Raises ConfigError for one with images or other attachments."""

    def text(parts: Any) -> str:
        odd = () if isinstance(parts, str) else [part.type for part in parts if part.type not in ("text", "thinking")]
        if odd:
            raise ConfigError(f"a policy is trained on text only, but a prompt of the program has {odd[0]} parts")
        return parts if isinstance(parts, str) else "".join(part.text for part in parts if part.type == "text")

    system = [{"role": "system", "content": text(request.system)}] if request.system else []
    return system + [{"role": message.role, "content": text(message.parts)} for message in request.messages]


class _Call(NamedTuple):
    episode: int
    seed: int | None
    messages: list[dict[str, str]]
    cap: int
    temperature: float
    base: bool
    """Whether the model answers without its adapter."""
    answer: asyncio.Future[tuple[list[int], Sampled]]


async def _in_episode(number: int, run: Callable[[], Awaitable[T]]) -> T:
    _EPISODE.set(number)
    with calls.session(store=None):  # with a store, an episode could wait for another's equal call and stall the batch
        return await run()


def _check(sampled: Sequence[Sampled], caps: Sequence[int]) -> None:
    """Raise PDRError unless the policy returned one valid completion for each prompt."""
    if len(sampled) != len(caps):
        raise PDRError(f"`Policy.generate(prompts)` returned {len(sampled)} completions for {len(caps)} prompts")
    for completion, cap in zip(sampled, caps, strict=True):
        if not 1 <= len(completion.ids) <= cap:
            raise PDRError(
                f"`Policy.generate(caps)` returned {len(completion.ids)} tokens for a cap of {cap}; return at least "
                "one, the end-of-turn token included, and at most the cap"
            )
        if len(completion.logprobs) != len(completion.ids):
            raise PDRError(
                f"`Policy.generate` returned {len(completion.logprobs)} log-probabilities for "
                f"{len(completion.ids)} tokens; return one for each"
            )


class _BaseLM(dspy.LM, calls.ServedModel):
    """A policy's model without its adapter, in the batches of the policy's own LM."""

    def __init__(self, of: PolicyLM) -> None:
        super().__init__(
            f"{of.model}:base", engine=_Refusing(), async_engine=_Waiting(self), cache=False, num_retries=0
        )
        self.of = of

    async def capabilities(self) -> calls.Capabilities:
        """Those of the policy."""
        return replace(await self.of.capabilities(), identity=self.model)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """As the policy counts them."""
        return await self.of.count_tokens(texts)

    async def acall(self, prompt: Any = None, **options: Any) -> Any:
        """Answer one request in the next batch."""
        with self.of.inside():
            if isinstance(prompt, Request):
                return await self.complete(prompt)
            return await super().acall(prompt, **options)

    async def complete(self, request: Request) -> Response:
        """As `PolicyLM.complete`."""
        return await self.of.complete(request, base=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> _BaseLM:
        return self

    def copy(self, **changes: Any) -> _BaseLM:
        """Return itself, as `PolicyLM` does."""
        return self


class _Waiting:
    """DSPy's asynchronous engine: passes requests to its LM."""

    def __init__(self, lm: PolicyLM | _BaseLM) -> None:
        self.lm = lm

    async def complete(self, request: Request) -> Response:
        return await self.lm.complete(request)

    async def aclose(self) -> None:
        """Does nothing: there is no connection to close."""


class _Refusing:
    """DSPy's synchronous engine, which would block the loop that makes the batches."""

    def complete(self, request: Request) -> Response:
        raise ConfigError("`PolicyLM` answers asynchronous calls only: `await program.acall(...)`")

    def close(self) -> None:
        """Does nothing: there is no connection to close."""
