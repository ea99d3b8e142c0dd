"""From a checkpoint to a folder that transformers loads: weights, config, tokenizer with its chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.reasoner.model import EMBEDDING, Shape, Student
from training.reasoner.vocabulary import ASSISTANT, EOS, IDS, PAD, THINK, TOKENS, UNK, USER

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    f"{{{{- ' {ASSISTANT} ' + message['content'] + ' {EOS}' }}}}"
    "{%- else %}"
    f"{{{{- ('' if loop.first else ' ') + '{USER} ' + message['content'] }}}}"
    "{%- endif %}"
    "{%- endfor %}"
    f"{{%- if add_generation_prompt %}}{{{{- ' {ASSISTANT} {THINK}' }}}}{{%- endif %}}"
)
MAX_POSITIONS = 4096
MAX_NEW_TOKENS = 1024


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words between blanks are tokens; decoding puts the blanks back."""
    backend = Tokenizer(models.WordLevel(vocab=dict(IDS), unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    return tokenizer


def config_of(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
        dtype="float32",
    )


def to_llama(student: Student) -> LlamaForCausalLM:
    """The same function as an ordinary Llama: the embedding's components are folded into one table."""
    model = LlamaForCausalLM(config_of(student.shape))
    weights = {f"model.{k}": v for k, v in student.state_dict().items() if k not in EMBEDDING}
    weights["model.embed_tokens.weight"] = weights["lm_head.weight"] = student.embedding().detach().clone()
    model.load_state_dict(weights)
    return model.eval()


def export(student: Student, folder: Path, temperature: float, top_p: float = 1.0) -> None:
    """Writes the folder; ``temperature`` and ``top_p`` are what its generation config samples at."""
    folder.mkdir(parents=True, exist_ok=True)
    model = to_llama(student)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=top_p,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    build_tokenizer().save_pretrained(folder)


def load_student(checkpoint: Path, shape: Shape) -> Student:
    """The student of a training checkpoint."""
    student = Student(shape)
    student.load_state_dict(torch.load(checkpoint, weights_only=False)["student"])
    return student.eval()


def from_folder(folder: Path) -> Student:
    """An exported folder as a student again: the whole table is its free part."""
    config = AutoConfig.from_pretrained(folder)
    shape = Shape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=config.head_dim,
        hidden=config.intermediate_size,
        theta=config.rope_parameters["rope_theta"],
        epsilon=config.rms_norm_eps,
    )
    stored = {k.removeprefix("model."): v for k, v in load_file(folder / "model.safetensors").items()}
    table = stored.pop("embed_tokens.weight")
    stored.pop("lm_head.weight", None)
    student = Student(shape)
    zeros = {name: torch.zeros_like(getattr(student, name)) for name in EMBEDDING}
    student.load_state_dict(stored | zeros | {"free": table})
    return student.eval()
