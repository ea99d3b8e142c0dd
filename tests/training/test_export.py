import pytest
import torch
from training.reasoner.evaluate import Settings, bootstrap, evaluate, summarise, vote
from training.reasoner.export import export, from_folder
from training.reasoner.model import Shape, Student
from training.reasoner.sampling import sample
from training.reasoner.traces import prompt
from training.reasoner.vocabulary import EOS, IDS, encode
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, GenerationConfig

from laconic.problems import generate

SHAPE = Shape(width=32, layers=2, heads=4, kv_heads=2, head_width=8, hidden=48)


@pytest.fixture(scope="module")
def student():
    made = Student(SHAPE, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # a student whose blocks do something, and who does not end at once
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return made.eval()


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported")
    export(student, path, temperature=0.9)
    return path


@pytest.fixture(scope="module")
def prompts():
    return [encode(prompt(p.question)) for p in (*generate(2, level=2), *generate(2, level=7))]


def test_transformers_computes_what_the_student_computed(student, folder, prompts):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for ids in prompts:
            x = torch.tensor([ids])
            assert torch.allclose(model(x).logits, student(x), atol=2e-4)
            assert torch.allclose(model(x).logits, from_folder(folder)(x), atol=2e-4)


def test_the_chat_template_makes_the_prompt_that_was_trained_on(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problem = generate(1)[0]
    messages = [{"role": "user", "content": problem.question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == prompt(problem.question)
    assert text.endswith("<think>")
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert isinstance(encoded, BatchEncoding)
    ids = encoded["input_ids"]
    assert ids == encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id == IDS["<pad>"]
    assert tokenizer.eos_token_id == IDS["<eos>"]
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "fine ."}], tokenize=False)
    assert isinstance(whole, str)
    assert whole.endswith("<|assistant|> fine . <eos>")


def test_the_generation_config_carries_the_temperature(folder):
    config = GenerationConfig.from_pretrained(folder)
    assert (config.do_sample, config.temperature, config.top_k) == (True, 0.9, 0)
    assert config.eos_token_id == IDS[EOS]


def test_the_sampler_writes_what_generate_writes(folder, prompts):
    model = AutoModelForCausalLM.from_pretrained(folder)
    ours = sample(from_folder(folder), prompts, temperature=0, max_new_tokens=40)
    for ids, new in zip(prompts, ours, strict=True):
        x = torch.tensor([ids])
        mask = torch.ones_like(x)
        # transformers types generate by a protocol that none of its models meets in mypy's eyes
        theirs = model.generate(x, attention_mask=mask, do_sample=False, max_new_tokens=40)  # type: ignore[misc]
        assert theirs[0, len(ids) :].tolist() == new
    assert len({tuple(new) for new in ours}) > 1


def test_the_sampler_draws_from_the_model_s_distribution(student, prompts):
    rows = 4000
    drawn = [new[0] for new in sample(student, [prompts[0]] * rows, temperature=0.7, max_new_tokens=1)]
    with torch.no_grad():
        expected = (student(torch.tensor([prompts[0]]))[0, -1] / 0.7).softmax(-1)
    top = expected.topk(5).indices.tolist()
    for token in top:
        assert abs(drawn.count(token) / rows - expected[token].item()) < 0.03


def test_sampling_is_decided_by_its_seed(student, prompts):
    first = sample(student, prompts, temperature=1.0, seed=1, max_new_tokens=20)
    assert first == sample(student, prompts, temperature=1.0, seed=1, max_new_tokens=20)
    assert first != sample(student, prompts, temperature=1.0, seed=2, max_new_tokens=20)


def test_evaluation_runs_and_counts(student):
    record = evaluate(student, Settings(problems=3, samples=4, max_new_tokens=12))
    assert record["no_answer"] == 1.0  # twelve tokens of noise hold no answer
    assert record["pass@1"] == 0.0
    assert record["length"]["p99"] <= 12
    assert [len(group) for group in record["answers"]] == [4, 4, 4]


def test_figures_are_what_their_names_say():
    record = summarise([["1", "1", "2", None], ["3", "3", "3", "3"]], ["1", "4"])
    assert record["pass@1"] == 0.25
    assert record["cons@4"] == 0.5
    assert record["no_answer"] == 0.125
    assert record["equal_pairs"] == round((1 + 6) / 12, 4)
    assert vote([None, "2", "3", "3"]) == "3"
    assert vote([None]) is None
    low, high = bootstrap([0.0, 1.0] * 50)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65


def test_settings_and_shapes_check_themselves():
    with pytest.raises(ValueError, match=r"Settings\.samples"):
        Settings(samples=0)
    with pytest.raises(ValueError, match=r"Shape\.heads"):
        Shape(heads=5, kv_heads=2)
