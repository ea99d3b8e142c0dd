"""The LLM judge against one plain forward pass a pair, and what its tokens come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from laconic.errors import LaconicError
from laconic.judges.adapters import LoRA
from laconic.judges.llm import LLMJudge
from laconic.judges.prompts import LLMJudgeSettings
from laconic.judges.registry import open_judge
from laconic.prune.judge import Excerpt, judge_pairs
from tests.engines.hf.families import FAMILIES
from tests.judges.models import (
    TEMPLATE,
    WORDS,
    byte_tokenizer,
    excerpt,
    llama,
    random_excerpts,
    word_tokenizer,
)

Pair = tuple[Excerpt, Excerpt]


def judge(model: Any = None, tokenizer: Any = None, excerpt: str | None = None, **settings: Any) -> LLMJudge:
    tokenizer = tokenizer or word_tokenizer()
    model = model if model is not None else llama(len(tokenizer))
    return LLMJudge(model, tokenizer, LLMJudgeSettings(**{"template": TEMPLATE, **settings}), excerpt)


def one_by_one(asked: LLMJudge, pairs: list[Pair]) -> list[float]:
    """Each pair's prompt alone through the model, and the softmax over its two answers' logits."""
    tokenizer: Any = asked.tokenizer
    same, different = (tokenizer.convert_tokens_to_ids(w) for w in (asked.settings.same, asked.settings.different))
    found = []
    for a, b in pairs:
        content = TEMPLATE.format(question=a.question, first=a.text, second=b.text)
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        with torch.inference_mode():
            logits = asked.model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1]
        found.append(float(logits[[same, different]].softmax(-1)[0]))
    return found


def all_pairs(excerpts: list[Excerpt]) -> list[Pair]:
    return [(a, b) for a in excerpts for b in excerpts if a is not b]


def length(a: Excerpt, b: Excerpt) -> int:
    return len(a.text.split()) + len(b.text.split()) + 6  # <u> q0 A: B: ? <a>


@pytest.mark.parametrize("batch_tokens", [1, 90, 100_000])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_any_batch_says_what_each_pair_alone_says(batch_tokens: int, share_prefix: bool) -> None:
    asked = judge(batch_tokens=batch_tokens, share_prefix=share_prefix)
    pairs = all_pairs(random_excerpts(6))
    found = judge_pairs(asked, pairs)
    assert found == pytest.approx(one_by_one(asked, pairs), abs=1e-5)
    assert max(found) - min(found) > 0.05  # it isn't one number for all


@pytest.mark.parametrize("family", ["qwen3", "qwen3-moe", "gemma3", "mistral", "gpt-oss"])
def test_families_and_their_caches(family: str) -> None:
    """Prompts longer than the sliding windows of 16, filled up and behind shared prefixes."""
    kind, config = FAMILIES[family]
    torch.manual_seed(1)
    words = [*WORDS, *(f"w{i}" for i in range(96 - len(WORDS)))]
    asked = judge(kind(config()).eval(), word_tokenizer(words))
    pairs = all_pairs(random_excerpts(4, longest=40, seed=2))
    assert judge_pairs(asked, pairs) == pytest.approx(one_by_one(asked, pairs), abs=1e-4)
    assert asked.cost.tokens < sum(length(a, b) for a, b in pairs)  # prefixes were shared


def test_a_model_that_gives_the_logits_of_all_places_will_do() -> None:
    class Whole(GPT2LMHeadModel):
        def forward(self, input_ids: Any, use_cache: Any = None) -> Any:
            return super().forward(input_ids=input_ids, use_cache=use_cache)

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3)
    asked = judge(Whole(config).eval())
    pairs = all_pairs(random_excerpts(5))
    assert judge_pairs(asked, pairs) == pytest.approx(one_by_one(asked, pairs), abs=1e-5)


def test_bytes_and_plain_text() -> None:
    tokenizer = byte_tokenizer(chat=None)
    asked = judge(tokenizer=tokenizer, same="Y", different="N")
    a, b = excerpt("a", "x = ä"), excerpt("b", "x = 3")
    ids = tokenizer("q0 A: x = ä B: x = 3 ?\n\nReply:")["input_ids"]
    with torch.inference_mode():
        logits = asked.model(torch.tensor([ids])).logits[0, -1]
    expected = logits[tokenizer.convert_tokens_to_ids(["Y", "N"])].softmax(-1)[0]
    assert judge_pairs(asked, [(a, b)]) == pytest.approx([float(expected)], abs=1e-6)
    assert asked.cost.tokens == len(ids)


def test_both_orders() -> None:
    pairs = all_pairs(random_excerpts(5))
    once, both = judge(share_prefix=False), judge(both_orders=True, share_prefix=False)
    there, back = judge_pairs(once, pairs), judge_pairs(once, [(b, a) for a, b in pairs])
    assert there != pytest.approx(back, abs=1e-3)
    found = judge_pairs(both, pairs)
    assert found == pytest.approx([(p + q) / 2 for p, q in zip(there, back, strict=True)], abs=1e-6)
    assert found == pytest.approx(judge_pairs(both, [(b, a) for a, b in pairs]), abs=1e-6)
    assert both.cost.tokens == 2 * once.cost.tokens


def test_the_bill() -> None:
    first, second, *others = random_excerpts(6)
    long = excerpt("long", " ".join("abcdefgh" * 4))
    alone = judge(share_prefix=False)
    pairs = [(long, other) for other in others] + [(first, second)]
    judge_pairs(alone, pairs)
    whole = sum(length(a, b) for a, b in pairs)
    assert (alone.cost.tokens, alone.cost.pairs, alone.cost.excerpts) == (whole, len(pairs), len(others) + 3)
    assert alone.cost.seconds > 0
    shared = judge()
    judge_pairs(shared, pairs)
    prefix = 4 + 32  # <u> q0 A: ... B:, and what the others happen to begin with alike is longer still
    assert whole - shared.cost.tokens >= (len(others) - 1) * prefix
    judge_pairs(shared, [])
    assert shared.cost.pairs == len(pairs)


def test_an_overlong_excerpt_is_refused_or_cut() -> None:
    tokenizer = word_tokenizer()
    pairs = [(excerpt("a", "a " * 40), excerpt("b", "b"))]
    with pytest.raises(LaconicError, match="takes 47 tokens; its limit is 32"):
        judge_pairs(judge(llama(len(tokenizer), context=32), tokenizer), pairs)
    with pytest.raises(LaconicError, match="its limit is 20"):
        judge_pairs(judge(tokenizer=tokenizer, max_tokens=20), pairs)
    asked = judge(llama(len(tokenizer), context=32), tokenizer, overlong="cut")
    assert 0 < judge_pairs(asked, pairs)[0] < 1
    assert asked.cost.tokens <= 32


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ((excerpt("a", "a"), excerpt("b", "b", "q1")), "'a' and 'b' are of different problems"),
        ((excerpt("a", ""), excerpt("b", "b")), "trace 'a' has no text"),
        ((excerpt("a", "a", kind="words:9"), excerpt("b", "b")), "trained for excerpts tokens:4, not words:9"),
    ],
)
def test_refuses_pairs(pair: Pair, said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        judge_pairs(judge(excerpt="tokens:4"), [pair])


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 1.5}, {"dropout": 1}])
def test_refuses_adapters(settings: dict[str, Any]) -> None:
    with pytest.raises(LaconicError, match=f"{next(iter(settings))} is"):
        LoRA(**settings)


# ---- loading ----------------------------------------------------------------------------------------------------------


def test_a_judge_from_the_hub_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published judge's name goes to transformers as it is; its words and template are settings."""
    seen = []

    def load(name: str, dtype: str, device: str) -> Any:
        seen.append((name, dtype, device))
        return llama(len(WORDS)), word_tokenizer()

    monkeypatch.setattr("laconic.judges.llm.load", load)
    settings = LLMJudgeSettings(template=TEMPLATE, same="same", different="No")
    asked = LLMJudge.from_pretrained("THU-KEG/DeepPrune-Judge-4B", settings, "words:25", "cpu", "bfloat16")
    assert seen == [("THU-KEG/DeepPrune-Judge-4B", "bfloat16", "cpu")]
    assert (asked.base, asked.excerpt, WORDS[asked.prompts.same]) == ("THU-KEG/DeepPrune-Judge-4B", "words:25", "same")


def test_a_file_says_which_model_is_asked_and_how(tmp_path: Path) -> None:
    llama(len(WORDS)).save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"base": str(tmp_path / "base"), "settings": {"template": TEMPLATE, "same": "same"}}))
    asked: Any = open_judge(f"llm:{file}", device="cpu")
    assert (asked.settings.template, asked.settings.same, asked.excerpt) == (TEMPLATE, "same", None)
    pairs = all_pairs(random_excerpts(3))
    assert judge_pairs(asked, pairs) == pytest.approx(judge_pairs(judge(same="same"), pairs), abs=1e-6)
    file.write_text(json.dumps({"base": "x", "same": "Yes"}))
    with pytest.raises(LaconicError, match="it has same"):
        open_judge(f"llm:{file}")
    with pytest.raises(LaconicError, match=r"There is no file .*other.json"):
        LLMJudge.from_pretrained(tmp_path / "other.json")


def test_refuses_directories_that_hold_no_judge(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="there is no model at"):
        LLMJudge.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "judge.json").write_text("[]")
    with pytest.raises(LaconicError, match="is not an LLM judge's"):
        LLMJudge.from_pretrained(tmp_path)
    record: dict[str, Any] = {"kind": "encoder", "settings": {}, "excerpt": None, "base": "x", "lora": None}
    (tmp_path / "judge.json").write_text(json.dumps(record))
    with pytest.raises(LaconicError, match="its kind is not llm"):
        LLMJudge.from_pretrained(tmp_path)
    (tmp_path / "judge.json").unlink()
    with pytest.raises(LaconicError, match="holds no LLM judge; expected an LLM judge with all weights"):
        judge().load(tmp_path)
