"""The LLM judge over servers with OpenAI's API: what `judges.llm` reads from logits, these tell as log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from laconic.engines.openai.asking import AT_ONCE, Asker, RefusedError, key_of
from laconic.engines.openai.endpoints import Endpoints
from laconic.engines.openai.protocol import MOST_LOGPROBS, first_logprobs
from laconic.errors import EngineError
from laconic.judges.counted import CountedJudge
from laconic.judges.prompts import LLMJudgeSettings, check_excerpt, check_one_problem
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine

NOT_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
TOLD = ("chat_template_kwargs", "enable_thinking")  # what a server names that takes no such argument


class RemoteLLMJudge(CountedJudge):
    """P(same) from a language model behind one server or several: of the probabilities of its first token, those of the two
    answer words, as DeepPrune's judge is asked (arXiv 2510.08483).

    urls: addresses, separated by commas. model: as the servers call it; None: the one that they serve. settings: see
    LLMJudgeSettings; those of prompts' lengths and batches are the server's matter. The key is that of the environment variable
    LACONIC_JUDGE_API_KEY, else of OPENAI_API_KEY. at_once: requests at a time.

    A server tells the likeliest 20 tokens: a word that is not among them is taken to be as likely as the least of them. Tokens
    are counted as the servers do. Raises InputError for an address that is none, a server that can't be reached or doesn't know
    the model, or an excerpt without text; EngineError where servers fail for good, tell no log-probabilities, or their model
    answers with neither word.
    """

    name = "llm"

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str | None = None,
        settings: LLMJudgeSettings | None = None,
        excerpt: str | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        super().__init__()
        self.excerpt = excerpt
        self.settings = settings if settings is not None else LLMJudgeSettings()
        self.asker = Asker(Endpoints(urls), key_of("LACONIC_JUDGE_API_KEY", "OPENAI_API_KEY"), at_once)
        self._silenced: Mapping[str, Any] = NOT_THINKING
        """Tells servers not to think; one that doesn't know how to be told refuses it once."""
        self.model = self.asker.find_model(model).name

    @classmethod
    def parse(cls, place: str, settings: LLMJudgeSettings | None = None, excerpt: str | None = None) -> RemoteLLMJudge:
        """`openai:URL[,URL...][#MODEL]`."""
        urls, _, model = place.removeprefix("openai:").partition("#")
        return cls(urls, model or None, settings, excerpt)

    def identity(self) -> dict[str, Any]:
        """See CountedJudge. A server doesn't tell which weights its model has."""
        return {"model": self.model, "settings": asdict(self.settings)}

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[Excerpt]:
        for excerpt in excerpts:
            check_excerpt(excerpt, self.excerpt)
        return list(excerpts)

    def _compare(self, pairs: Sequence[tuple[Excerpt, Excerpt]]) -> list[float]:
        for a, b in pairs:
            check_one_problem(a, b)
        asked = [*pairs, *((b, a) for a, b in pairs)] if self.settings.both_orders else list(pairs)
        answers = self._ask([self._body(a, b) for a, b in asked])
        found = [self._probability(answer) for answer in answers]
        if self.settings.both_orders:
            found = [(one + other) / 2 for one, other in zip(found[: len(pairs)], found[len(pairs) :], strict=True)]
        return found

    def _body(self, a: Excerpt, b: Excerpt) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.settings.message(a.question, a.text, b.text)}],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": MOST_LOGPROBS,
        }

    def _ask(self, bodies: Sequence[dict[str, Any]]) -> list[Mapping[str, Any]]:
        try:
            return self.asker.ask_all([("/chat/completions", {**body, **self._silenced}) for body in bodies])
        except RefusedError as error:
            if self._silenced and error.status == 400 and any(name in error.text for name in TOLD):
                self._silenced = {}
                return self._ask(bodies)
            raise EngineError(f"the judge can't be asked: {error}") from error
        except EngineError as error:
            raise EngineError(f"the judge can't be asked: {error}") from error

    def _probability(self, answer: Mapping[str, Any]) -> float:
        """Of "same"; what was read is counted."""
        told = first_logprobs(answer, 1)
        if not told:
            raise EngineError(
                "the judge's server tells no log-probabilities of its first token; use one that does (vLLM, laconic's own, "
                "llama.cpp)"
            )
        usage = answer.get("usage")
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        self.cost.tokens += read if isinstance(read, int) else 0
        return agreement(told[0], self.settings.same, self.settings.different)


def agreement(top: Sequence[tuple[str, float]], same: str, different: str) -> float:
    """P(same), of the likeliest first tokens with their log-probabilities. Raises EngineError where neither word is among them.

    Tokens that are a word but for blanks around it count together; a word that isn't there is as likely as the least token.
    """
    mass = {same: 0.0, different: 0.0}
    for token, logprob in top:
        word = token.strip()
        if word in mass:
            mass[word] += math.exp(logprob)
    if not any(mass.values()):
        likeliest = max(top, key=lambda each: each[1])[0] if top else ""
        raise EngineError(
            f"the judge's model answers with neither {same!r} nor {different!r}: its likeliest first token is {likeliest!r}; "
            "use another model, or other words (settings same and different)"
        )
    least = math.exp(min(logprob for _, logprob in top))
    yes, no = (mass[word] or least for word in (same, different))
    return yes / (yes + no)
