"""laconic as a custom model of lighteval: the file that `lighteval custom` is given.

lighteval makes an object of the one class in it that derives from LightevalModel, and passes on nothing but a name: that holds
the model's arguments too (`parse_arguments`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lighteval.models.abstract_model import LightevalModel
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.prompt_manager import PromptManager
from tqdm import tqdm

from laconic.cli.messages import print_to_stderr
from laconic.errors import InputError
from laconic.lab.harness.arguments import parse_arguments, read_arguments
from laconic.lab.harness.generation import TaskGeneration
from laconic.lab.harness.model import HarnessModel, HarnessPrompt
from laconic.lab.harness.run import HarnessAnswer

UNKNOWN_CONTEXT = 1 << 20  # tokens; of a server that doesn't tell


class _NoCache:
    """Where lighteval would keep answers from run to run, by the model's name, which doesn't tell weights apart: none."""

    def _init_registry(self, registry: Any) -> None:
        pass


class LaconicLightevalModel(LightevalModel):
    """Answers generative tasks by laconic's engines, policies and votes; a model with a chat template is asked through it.

    config: lighteval's, whose `model_name` is NAME,key=value,... (`ModelArguments`). Raises InputError as `read_arguments` and
    HarnessModel.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.model = HarnessModel(read_arguments(parse_arguments(config.model_name)))
        self._cache = _NoCache()
        self._chat = bool(self.model.template) or self.model.remote
        self._prompts = PromptManager(self._chat, self.model.tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The model's; None where it is a server's."""
        return self.model.tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """Whether prompts get them: where no chat template writes them."""
        return not self._chat

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self.model.context or UNKNOWN_CONTEXT

    def cleanup(self) -> None:
        """lighteval has all answers: the engine is closed."""
        self.model.close()

    def greedy_until(self, docs: Sequence[Any]) -> list[Any]:
        """A response a document, with `num_samples` texts. Drawn as the model's own configuration says, or its arguments."""
        asked = [self._prompt(doc) for doc in docs]
        places = [place for place, doc in enumerate(docs) for _ in range(doc.num_samples)]
        with tqdm(total=len(places), desc="laconic", disable=self.disable_tqdm, file=sys.stderr) as bar:
            answers = self.model.answer([asked[place] for place in places], lambda place, answer: bar.update())
        print_to_stderr(f"laconic: {self.model.totals.sentence()}")
        of_doc: list[list[HarnessAnswer]] = [[] for _ in docs]
        for place, answer in zip(places, answers, strict=True):
            of_doc[place].append(answer)
        return [
            ModelResponse(
                input=prompt.text,
                text=[answer.text for answer in found],
                output_tokens=[list(answer.token_ids) for answer in found],
                reasonings=[answer.thoughts for answer in found],
            )
            for prompt, found in zip(asked, of_doc, strict=True)
        ]

    def _prompt(self, doc: Any) -> HarnessPrompt:
        """As lighteval's own models have it, chat models end by themselves, and stop texts are for the others."""
        limit = {} if doc.generation_size is None else {"max_new_tokens": doc.generation_size}
        stops = () if self._chat else tuple(stop for stop in doc.stop_sequences or () if stop)
        generation = TaskGeneration(stops, limit)
        if not self._chat:
            return HarnessPrompt(self._prompts.prepare_prompt(doc), generation)
        return HarnessPrompt(self.model.render(self._prompts.prepare_prompt_api(doc)), generation, templated=True)

    def loglikelihood(self, docs: Sequence[Any]) -> NoReturn:
        """Refused."""
        _refuse_scoring()

    def loglikelihood_rolling(self, docs: Sequence[Any]) -> NoReturn:
        """Refused."""
        _refuse_scoring()


def _refuse_scoring() -> NoReturn:
    raise InputError(
        "this task scores given texts by their log-likelihoods, for which nothing is generated that laconic could compress or "
        "prune; choose a generative task, or lighteval's own accelerate"
    )
