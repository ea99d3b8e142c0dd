"""RPC under transformers' own `generate`: two more lines than without it."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import laconic
from laconic.assets import reasoner_path
from laconic.problems import generate, is_correct


def main() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(reasoner_path()).eval()  # any decoder of transformers will do
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    problem = generate(1, level=6)[0]
    chat = [{"role": "user", "content": problem.question}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    # This model's traces are a few hundred tokens, so the interval is short; RPC() itself has the published 4096.
    with laconic.compress(model, laconic.RPC(interval=128, ratio=4, window=32)) as run:
        out = model.generate(**inputs, max_new_tokens=1024)

    prompt = inputs["input_ids"].shape[1]
    text = tokenizer.decode(out[0, prompt:], skip_special_tokens=True)
    stats = run.stats
    print(text[-80:])
    print("right" if is_correct(problem, text) else f"wrong: it is {problem.answer}")
    print(f"{prompt} prompt and {out.shape[1] - prompt} generated tokens; {stats.compressions} compressions")
    print(f"evicted {stats.evicted} tokens, {stats.live_kv_tokens} held at the end ({stats.live_kv_bytes:,} bytes)")


if __name__ == "__main__":
    main()
