"""A folder with a tiny random language model whose tokens are letters, digits and signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = 1
"""The token that ends a turn."""


def letters_model(folder: Path, template: str) -> Path:
    """Write the model, with this chat template, and return its folder."""
    letters = ["<pad>", "<end>", *map(chr, range(32, 127)), "\n"]
    inner = Tokenizer(WordLevel({letter: place for place, letter in enumerate(letters)}, unk_token=" "))
    inner.pre_tokenizer = Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", chat_template=template
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=None, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    cast(Any, LlamaForCausalLM(config)).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
