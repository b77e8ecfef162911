"""The model being trained as a `dspy.LM`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import pytest
from dspy import lm15

from pdr_dspy.errors import ConfigError, PDRError
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.training.policy_lm import PolicyLM, messages_of, prompt_ids
from pdr_dspy.training.types import Sampled
from tests.support.scripted_policy import END, Characters, ScriptedPolicy


def answering(text: str) -> ScriptedPolicy:
    return ScriptedPolicy(lambda prompt, number: text)


def run(lm: PolicyLM, program: dspy.Module, times: int, **inputs: Any) -> list[Any]:
    on = program.deepcopy()
    on.set_lm(lm)

    def episode(seed: int) -> Callable[[], Awaitable[Any]]:
        return lambda: on.acall(seed=seed, **(inputs or {"question": "1 + 1?"}))

    return asyncio.run(lm.together([episode(seed) for seed in range(times)]))


def test_calls_of_all_episodes_become_one_batch() -> None:
    policy = answering("Answer: 2")
    lm = PolicyLM(policy)
    done = run(lm, PDR("question -> answer", widths=(3, 1), distiller="summary"), 4)
    assert policy.batches == lm.batches == [12, 4, 4]
    assert [prediction.answer for prediction in done] == ["2"] * 4
    assert all(len(lm.sampled_calls[episode]) == 5 for episode in range(4))


def test_episodes_of_different_lengths_wait_for_nobody_who_is_done() -> None:
    policy = answering("Answer: 2")
    lm = PolicyLM(policy)
    programs = [LongCoT("question -> answer"), PDR("question -> answer", widths=(2, 1), distiller="topk", k=1)]
    for program in programs:
        program.set_lm(lm)
    one, two = programs
    asyncio.run(lm.together([lambda: one.acall(question="q"), lambda: two.acall(question="q")]))
    assert policy.batches == [3, 1, 1]


def test_ledger_and_record_have_the_same_tokens() -> None:
    lm = PolicyLM(ScriptedPolicy(lambda prompt, number: f"Answer: {number}"))
    (prediction,) = run(lm, PDR("question -> answer", widths=(3, 1), distiller="random_k"), 1)
    by_seed = {asked.seed: asked for asked in lm.sampled_calls[0]}
    assert len(by_seed) == 4
    for call in prediction.ledger.calls:
        asked = by_seed[call.seed]
        assert (call.usage.input, call.usage.output) == (len(asked.prompt_ids), len(asked.sampled.ids))
        assert asked.sampled.ids[-1] == END
    assert prediction.ledger.exact


def test_caps_are_those_of_the_schedule_and_a_cut_completion_says_so() -> None:
    policy = answering("Answer: 12345")
    program = PDR(
        "question -> answer", widths=(2, 1), distiller="summary", draft_tokens=7, distill_tokens=50, refine_tokens=90
    )
    lm = PolicyLM(policy)
    (prediction,) = run(lm, program, 1)
    assert [caps for _, caps, _ in policy.sent] == [[7, 7], [50], [90]]
    assert [call.truncated for call in prediction.ledger.calls] == [True, True, False, False]
    assert [asked.sampled.finish for asked in lm.sampled_calls[0]] == ["length", "length", "stop", "stop"]


def test_temperatures_are_batches_of_their_own() -> None:
    policy = answering("Answer: 2")
    lm = PolicyLM(policy)
    cold = PDR("question -> answer", widths=(2, 1), distiller="summary", distill_temperature=0.0)
    cold.set_lm(lm)
    asyncio.run(lm.together([lambda: cold.acall(question="q")]))
    assert [temperature for _, _, temperature in policy.sent] == [1.0, 0.0, 1.0]

    async def two() -> None:
        warm, cool = (LongCoT("question -> answer", temperature=t) for t in (1.0, 0.5))
        warm.set_lm(lm)
        cool.set_lm(lm)
        await lm.together([lambda: cool.acall(question="q"), lambda: warm.acall(question="q")])

    policy.sent.clear()
    asyncio.run(two())
    assert [(len(texts), temperature) for texts, _, temperature in policy.sent] == [(1, 1.0), (1, 0.5)]


def test_a_step_that_takes_its_time_off_the_loop_is_waited_for() -> None:
    policy = answering("Answer: 2")
    lm = PolicyLM(policy)
    program = LongCoT("question -> answer")
    program.set_lm(lm)

    async def slow() -> Any:
        await asyncio.to_thread(sum, range(1000))
        return await program.acall(question="q")

    asyncio.run(lm.together([slow, lambda: program.acall(question="q")]))
    assert policy.batches == [2]


def test_plain_dspy_predictors_are_served_too() -> None:
    policy = answering("[[ ## answer ## ]]\n2\n\n[[ ## completed ## ]]")
    lm = PolicyLM(policy)
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    (prediction,) = asyncio.run(lm.together([lambda: program.acall(question="q")]))
    assert prediction.answer == "2"
    assert policy.batches == [1]


def test_an_error_of_an_episode_or_of_the_policy_ends_all() -> None:
    async def wrong() -> None:
        raise KeyError("mine")

    lm = PolicyLM(answering("Answer: 2"))
    program = LongCoT("question -> answer")
    program.set_lm(lm)
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(lm.together([wrong, lambda: program.acall(question="q")]))

    def burst(prompt: str, number: int) -> str:
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError, match="out of memory"):
        run(PolicyLM(ScriptedPolicy(burst)), program, 2)


class Sloppy(ScriptedPolicy):
    def __init__(self, spoil: Callable[[list[Sampled]], list[Sampled]]) -> None:
        super().__init__(lambda prompt, number: "Answer: 2")
        self.spoil = spoil

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        return self.spoil(super().generate(prompts, caps, temperature))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda sampled: sampled[1:], "returned 1 completions for 2 prompts"),
        (lambda sampled: [Sampled([], [], "stop")] * 2, "returned 0 tokens for a cap of 1024"),
        (lambda sampled: [Sampled([1] * 1025, [0.0] * 1025, "stop")] * 2, "returned 1025 tokens for a cap of 1024"),
        (lambda sampled: [Sampled([1, 2], [0.0], "stop")] * 2, "1 log-probabilities for 2 tokens"),
    ],
)
def test_a_policy_that_breaks_its_contract_is_reported(spoil: Any, sentence: str) -> None:
    with pytest.raises(PDRError, match=sentence):
        run(PolicyLM(Sloppy(spoil)), LongCoT("question -> answer"), 2)


def test_it_answers_inside_alone() -> None:
    lm = PolicyLM(answering("Answer: 2"))
    program = LongCoT("question -> answer")
    program.set_lm(lm)
    with pytest.raises(ConfigError, match="together"):
        asyncio.run(program.acall(question="q"))
    predictor = dspy.Predict("question -> answer")
    predictor.set_lm(lm)
    with pytest.raises(Exception, match="asynchronous calls only"):
        predictor(question="q")


def test_copies_of_a_program_keep_the_model() -> None:
    lm = PolicyLM(answering("Answer: 2"))
    program = LongCoT("question -> answer")
    program.set_lm(lm)
    assert program.deepcopy().predictors()[0].lm is lm
    assert lm.copy(temperature=0.5) is lm


def test_without_a_template_a_prompt_is_the_texts() -> None:
    messages = [{"role": "system", "content": "Solve."}, {"role": "user", "content": "1 + 1?"}]
    tokenizer = Characters()
    assert tokenizer.decode(prompt_ids(tokenizer, messages)) == "Solve.\n\n1 + 1?\n\n"


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if extra %}{{ extra }}{% endif %}"
)


@pytest.mark.slow
def test_with_a_template_a_prompt_is_what_a_server_would_make() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    letters = {chr(code): code for code in range(32, 127)} | {"<end>": 0}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token=" "))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", pad_token="<end>", chat_template=TEMPLATE
    )
    messages = [{"role": "user", "content": "hi"}]
    ids = prompt_ids(tokenizer, messages, extra="!")
    assert tokenizer.decode(ids) == "<user>hi<end><assistant>!"
    assert all(type(token) is int for token in ids)

    policy = answering("x")
    policy.tokenizer = tokenizer
    policy.generate = lambda prompts, caps, temperature: [  # type: ignore[method-assign]
        Sampled([*(letters[c] for c in "Answer: 2"), 0], [0.0] * 10, "stop") for _ in prompts
    ]
    lm = PolicyLM(policy, template_options={"extra": "?"})
    (prediction,) = run(lm, LongCoT("question -> answer"), 1)
    assert prediction.answer == "2"
    assert prediction.solution == "Answer: 2"
    assert tokenizer.decode(lm.sampled_calls[0][0].prompt_ids).endswith("<end><assistant>?")


def test_a_known_context_is_held() -> None:
    with pytest.raises(ConfigError, match="context is 300"):
        run(PolicyLM(answering("Answer: 2"), context_length=300), LongCoT("question -> answer", draft_tokens=299), 1)


def test_messages_of_a_request_are_its_texts() -> None:
    from dspy.lm15 import request_from_openai_chat

    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "U"}, {"type": "text", "text": "V"}]},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "W"},
    ]
    found = messages_of(request_from_openai_chat({"model": "x/y", "messages": messages}))
    assert found == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "UV"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "W"},
    ]


def test_a_policy_reads_text_alone() -> None:
    image = lm15.Message.user([lm15.TextPart("What is it?"), lm15.ImagePart(url="https://example.org/x.png")])
    with pytest.raises(ConfigError, match=r"a policy is trained on text only.*image parts"):
        messages_of(lm15.Request(model="m", messages=(image,)))
