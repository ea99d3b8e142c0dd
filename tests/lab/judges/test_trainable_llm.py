"""The LLM judge as what is trained: its losses, its adapters, and what is saved of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.judges.models import (
    TEMPLATE,
    WORDS,
    llama,
    readable_pairs,
    word_tokenizer,
)

from laconic.errors import LaconicError
from laconic.judges.adapters import LoRA
from laconic.judges.prompts import LLMJudgeSettings
from laconic.lab.judges.scoring import auroc
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.trainable import TrainableLLMJudge
from laconic.lab.judges.training import fit, predict
from laconic.prune.judge import judge_pairs


def judge(**settings: Any) -> TrainableLLMJudge:
    tokenizer = word_tokenizer()
    return TrainableLLMJudge(llama(len(tokenizer)), tokenizer, LLMJudgeSettings(**{"template": TEMPLATE, **settings}))


def test_loss_logits_are_the_odds_of_what_compare_says() -> None:
    pairs = readable_pairs(3, seed=0)
    for both_orders in (False, True):
        asked = judge(both_orders=both_orders, batch_tokens=100)
        said = judge_pairs(
            asked, [(pairs.excerpts[i], pairs.excerpts[j]) for i, j in zip(pairs.left, pairs.right, strict=True)]
        )
        logits = asked.tune().train(False).loss_logits(pairs)
        assert logits.requires_grad
        torch.testing.assert_close(logits.detach().sigmoid(), torch.tensor(said), rtol=0, atol=1e-5)
        torch.testing.assert_close(predict(asked, pairs), logits.detach(), rtol=0, atol=1e-4)


def test_half_of_the_pairs_are_turned_round_in_training() -> None:
    pairs = readable_pairs(4, seed=0)
    asked = judge().tune()
    straight, turned = asked.train(False).loss_logits(pairs), asked.train(True).loss_logits(pairs)
    changed = (straight - turned).abs() > 1e-4
    assert 0.25 < changed.float().mean() < 0.75
    torch.testing.assert_close(asked.loss_logits(pairs), turned)  # the same ones every time


@pytest.mark.parametrize("lora", [None, LoRA(rank=8, alpha=16, dropout=0.0)], ids=["all weights", "LoRA"])
def test_tuning_learns_what_the_texts_tell(lora: LoRA | None, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(len(WORDS)).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    asked = TrainableLLMJudge.from_pretrained(base, LLMJudgeSettings(template=TEMPLATE), "tokens:4")
    test = readable_pairs(8, seed=3)
    before = auroc(predict(asked, test), test.same)
    settings = TrainSettings(epochs=3, batch=24, by_problem=False, oversample=1, rate=3e-3, patience=0)
    fit(asked.tune(lora), readable_pairs(24, seed=1), readable_pairs(4, seed=2), settings)
    logits = predict(asked, test)
    assert before < 0.8
    assert auroc(logits, test.same) > 0.95
    check_saved(asked, logits, tmp_path, lora)


def check_saved(asked: TrainableLLMJudge, logits: torch.Tensor, tmp_path: Path, lora: LoRA | None) -> None:
    """What was saved says the same, of itself and in another judge, and knows what it was trained for."""
    saved = tmp_path / "saved"
    saved.mkdir()
    asked.save(saved)
    test = readable_pairs(8, seed=3)
    again = TrainableLLMJudge.from_pretrained(saved)
    assert (again.settings, again.excerpt, again.base) == (asked.settings, "tokens:4", str(tmp_path / "base"))
    assert torch.equal(predict(again, test), logits)
    other = TrainableLLMJudge.from_pretrained(tmp_path / "base", asked.settings).tune(lora)
    assert not torch.equal(predict(other, test), logits)
    assert torch.equal(predict(other.load(saved), test), logits)
    assert (saved / "adapter_model.safetensors").exists() == (lora is not None)

    faster = TrainableLLMJudge.from_pretrained(saved, LLMJudgeSettings(template=TEMPLATE, batch_tokens=64))
    assert faster.settings.batch_tokens == 64
    with pytest.raises(LaconicError, match="judge's same is 'Yes', not 'No'"):
        TrainableLLMJudge.from_pretrained(saved, LLMJudgeSettings(template=TEMPLATE, same="No", different="Yes"))
    with pytest.raises(LaconicError, match="trained for excerpts tokens:4, not words:25"):
        TrainableLLMJudge.from_pretrained(saved, excerpt="words:25")
    with pytest.raises(LaconicError, match=r"holds one with .*; expected an LLM judge with LoRA\(rank=3"):
        TrainableLLMJudge.from_pretrained(tmp_path / "base", asked.settings).tune(LoRA(rank=3)).load(saved)
    if lora is not None:
        with pytest.raises(LaconicError, match="it can't be tuned with all weights now"):
            again.tune()


def test_an_adapter_trains_nothing_else_and_recomputing_changes_nothing() -> None:
    pairs = readable_pairs(2, seed=0)
    gradients, forwards = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        asked = judge().tune(LoRA(rank=2, alpha=2, dropout=0.0), recompute).train()
        assert all(parameter.requires_grad for parameter in asked.parameters())
        trained = sum(parameter.numel() for parameter in asked.parameters())
        assert 0 < trained < 0.2 * sum(parameter.numel() for parameter in asked.model.parameters())
        calls: list[str] = []
        for name, module in asked.model.named_modules():
            if name.endswith("layers.0.mlp.act_fn"):
                module.register_forward_hook(lambda *_, calls=calls: calls.append("forward"))
        asked.loss_logits(pairs).square().sum().backward()
        forwards.append(len(calls))
        gradients.append([parameter.grad for parameter in asked.parameters()])
        frozen = {name for name, p in asked.model.named_parameters() if p.grad is None}
        assert {name for name, _ in asked.model.named_parameters() if "lora_" not in name} == frozen
    assert forwards[1] == 2 * forwards[0] > 0
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_refuses_to_train_what_is_not_being_tuned() -> None:
    with pytest.raises(LaconicError, match="not being tuned; call tune"):
        judge().parameters()


def test_refuses_lora_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LaconicError, match=r"needs the package peft: install laconic-llm\[train\]"):
        judge().tune(LoRA())


def test_an_adapter_s_weights_must_be_there(tmp_path: Path) -> None:
    llama(len(WORDS)).save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    asked = TrainableLLMJudge.from_pretrained(tmp_path / "base", LLMJudgeSettings(template=TEMPLATE)).tune(LoRA(rank=2))
    (tmp_path / "saved").mkdir()
    asked.save(tmp_path / "saved")
    (tmp_path / "saved" / "adapter_model.safetensors").unlink()
    with pytest.raises(LaconicError, match=r"has no adapter_model.safetensors"):
        TrainableLLMJudge.from_pretrained(tmp_path / "saved")


def saved_adapter(directory: Path, base: Any) -> None:
    tokenizer = word_tokenizer()
    TrainableLLMJudge(base, tokenizer, LLMJudgeSettings(template=TEMPLATE)).tune(LoRA(rank=2)).save(directory)


@pytest.mark.parametrize("fault", ["cut", "width", "layers"])
def test_an_adapter_that_does_not_fit_its_base_is_one_sentence(fault: str, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    saved_adapter(tmp_path, llama(len(WORDS)))
    config = llama(len(WORDS)).config
    if fault == "cut":
        file = tmp_path / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:50])
    elif fault == "width":
        config.hidden_size = 64
        config.head_dim = 16
    else:
        config.num_hidden_layers = 3
    other = TrainableLLMJudge(LlamaForCausalLM(config), word_tokenizer(), LLMJudgeSettings(template=TEMPLATE))
    with pytest.raises(LaconicError, match=r"adapter .*(can't be put into its base|is of another base)"):
        other.tune(LoRA(rank=2)).load(tmp_path)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["all weights", "LoRA"])
def test_a_training_goes_on_with_its_own_base_only(lora: LoRA | None, tmp_path: Path) -> None:
    pairs, settings = readable_pairs(4, seed=0), TrainSettings(epochs=1, batch=16, by_problem=False, rate=1e-3)

    def train(seed: int) -> None:
        tokenizer = word_tokenizer()
        model = TrainableLLMJudge(llama(len(tokenizer), seed=seed), tokenizer, LLMJudgeSettings(template=TEMPLATE))
        fit(model.tune(lora), pairs, pairs, settings, tmp_path)

    train(0)
    train(0)
    with pytest.raises(LaconicError, match=r"holds another training \(base was"):
        train(1)
