"""Small language models and tokenizers for judges, made on the spot, and traces whose answers their texts tell."""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from laconic.lab.judges.pairs import Pairs
from laconic.prune.judge import Excerpt

CHAT = "{% for message in messages %}<u> {{ message['content'] }} {% endfor %}<a>"
MARKS = ["<pad>", "<unk>", "<u>", "<a>"]
WORDS = [*MARKS, "Yes", "No", "A:", "B:", "?", "Reply:", "[...]", "same", "q0", "q1", "q2", "q3", *"abcdefgh"]
TEMPLATE = "{question} A: {first} B: {second} ?"


def word_tokenizer(words: list[str] = WORDS, chat: str | None = CHAT) -> Any:
    """One word a token."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(backend, chat)


def byte_tokenizer(chat: str | None = CHAT) -> Any:
    """One byte a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*MARKS, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _wrapped(backend, chat)


def _wrapped(backend: Tokenizer, chat: str | None) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=["<u>", "<a>"]
    )
    tokenizer.chat_template = chat
    return tokenizer


def llama(vocabulary: int, context: int = 512, seed: int = 0) -> LlamaForCausalLM:
    """A small random Llama, its weights large enough to tell inputs apart."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def excerpt(trace_id: str, text: str, question: str = "q0", kind: str = "tokens:4") -> Excerpt:
    return Excerpt(trace_id, kind, question, (1,), (2,), text)


def random_excerpts(count: int, longest: int = 30, seed: int = 0) -> list[Excerpt]:
    rng = random.Random(seed)
    return [excerpt(f"t{i}", " ".join(rng.choices("abcdefgh", k=rng.randrange(1, longest)))) for i in range(count)]


def readable_pairs(problems: int, seed: int, traces: int = 6) -> Pairs:
    """All pairs of traces that end in a or b, their answer, which a reader finds behind other letters."""
    rng = random.Random(seed)
    excerpts: list[Excerpt] = []
    columns = []
    answers: list[str | None] = []
    for problem in range(problems):
        first = len(excerpts)
        for i in range(traces):
            answer = rng.choice("ab")
            answers.append(answer)
            filler = rng.choices("cdefgh", k=rng.randrange(3))
            excerpts.append(excerpt(f"p{problem}-{i}", " ".join([*filler, answer]), f"q{problem % 4}"))
        for i in range(first, len(excerpts)):
            columns += [(j, i, answers[i] == answers[j], problem) for j in range(first, i)]
    left, right, same, problem_of = (torch.tensor(column) for column in zip(*columns, strict=True))
    names = tuple(f"p{i}" for i in range(problems))
    return Pairs(tuple(excerpts), left, right, same, problem_of, names, tuple(answers))
