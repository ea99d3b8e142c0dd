import hashlib
import json
from pathlib import Path
from typing import cast

from training.reasoner.export import build_tokenizer, from_folder
from training.reasoner.sampling import sample
from training.reasoner.traces import prompt
from training.reasoner.vocabulary import encode
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from laconic.assets import reasoner_path
from laconic.problems import generate, is_correct

RECORDS = Path(__file__).parents[2] / "benchmarks" / "reasoner"


def test_the_bundled_model_is_small_grouped_and_knows_how_to_end():
    path = reasoner_path()
    assert sum(f.stat().st_size for f in path.iterdir()) < 12e6
    config = AutoConfig.from_pretrained(path)
    assert config.num_attention_heads > config.num_key_value_heads > 1
    assert config.max_position_embeddings >= 2048
    generation = GenerationConfig.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert generation.do_sample
    assert generation.temperature > 0
    assert generation.eos_token_id == tokenizer.eos_token_id == config.eos_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id == config.pad_token_id


def test_the_bundled_tokenizer_is_the_one_of_the_scripts():
    bundled = AutoTokenizer.from_pretrained(reasoner_path())
    assert bundled.get_vocab() == build_tokenizer().get_vocab()
    assert bundled.chat_template == build_tokenizer().chat_template


def test_the_bundled_model_solves_problems_that_it_was_not_trained_on():
    problems = generate(24, seed=11, level=5)
    texts = sample(from_folder(reasoner_path()), [encode(prompt(p.question)) for p in problems], 0, max_new_tokens=800)
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    solved = [is_correct(p, cast(str, tokenizer.decode(ids))) for p, ids in zip(problems, texts, strict=True)]
    assert sum(solved) >= 13


def test_the_recorded_figures_are_of_the_bundled_weights():
    weights = hashlib.sha256((reasoner_path() / "model.safetensors").read_bytes()).hexdigest()
    records = sorted(RECORDS.glob("heldout*.json"))
    assert records
    for record in records:
        assert json.loads(record.read_text())["weights_sha256"] == weights, record.name
