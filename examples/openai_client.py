"""A vote through OpenAI's own client: `laconic serve` in one terminal, `python examples/openai_client.py` in another.

    python examples/openai_client.py [http://127.0.0.1:8000/v1]

Needs the package openai. What is laconic's own travels in the field `laconic`, of the request and of the answer.
"""

import sys

from openai import OpenAI

from laconic.problems import generate


def main(url: str = "http://127.0.0.1:8000/v1") -> None:
    client = OpenAI(base_url=url, api_key="none")  # a server with a key wants that
    problem = generate(1, seed=1, level=6)[0]
    model = client.models.list().data[0].id
    asked = {"model": model, "messages": [{"role": "user", "content": problem.question}], "seed": 0}

    one = client.chat.completions.create(**asked)
    print(f"one trace: {one.choices[0].message.content.strip()}, {one.usage.completion_tokens} tokens")

    # A vote: its stream tells how it stands, as reasoning, and then the winner's thinking and answer.
    settings = {"laconic": {"strategy": "self-consistency", "n": 8, "compress": "rpc:interval=128,ratio=4,window=32"}}
    answer, report = "", None
    for chunk in client.chat.completions.create(**asked, stream=True, extra_body=settings):
        report = getattr(chunk, "laconic", None) or report
        if chunk.choices:
            answer += chunk.choices[0].delta.content or ""
    votes = ", ".join(f"{vote['answer']} ({vote['weight']:g})" for vote in report["votes"])
    print(f"eight traces: {answer.strip()}, votes {votes}; right is {problem.answer}")

    # Clients that can set nothing but a model's name put it there.
    named = client.chat.completions.create(**(asked | {"model": f"{model}:priced-vote-8"}))
    print(
        f"by the model's name: {named.choices[0].message.content.strip()}, {len(named.laconic['traces'])} traces at most"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
