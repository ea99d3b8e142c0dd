"""laconic as a model of lm-eval: imported, it is registered under the name `laconic`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from laconic.cli.messages import print_to_stderr
from laconic.errors import InputError
from laconic.lab.harness.arguments import read_arguments, with_options
from laconic.lab.harness.generation import read_generation
from laconic.lab.harness.model import HarnessModel, HarnessPrompt
from laconic.lab.harness.run import HarnessAnswer


@register_model("laconic")
class LaconicLM(LM):
    """Answers `generate_until` by laconic's engines, policies and votes.

    arguments: lm-eval's ``--model_args`` (`ModelArguments`), and what its own options beside them say (`with_options`).
    Raises InputError for unknown ones, and as HarnessModel.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.model = HarnessModel(read_arguments(with_options(arguments)))
        self._template: str | None = None
        self._templated = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> LaconicLM:
        """See LM; a model argument wins over an option of the same name."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> LaconicLM:
        """See LM; a model argument wins over an option of the same name, which lm-eval always gives."""
        return cls(**{**(additional_config or {}), **arg_dict})

    # ---- chat templates -------------------------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """By which lm-eval keeps prompts that it has made."""
        self._templated = True  # asked for with --apply_chat_template alone, even where the prompts are kept
        name = getattr(self.model.tokenizer, "name_or_path", "") or self.model.name
        return str(name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text, for lm-eval's record; None where none is wanted. Raises InputError for a model without."""
        if chat_template is False or chat_template is None:
            return None
        self._templated = True
        self._template = chat_template if isinstance(chat_template, str) else None
        if self.model.template is None:
            self.model.render([{"role": "user", "content": "x"}])  # says so
        return self.model.template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text of a prompt."""
        self._templated = True
        return self.model.render(chat_history, self._template, goes_on=not add_generation_prompt)

    # ---- requests -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers in order. Each is put into lm-eval's cache (``--use_cache``) as it comes."""
        self.model.warn()
        prompts = [
            HarnessPrompt(request.args[0], read_generation(request.args[1]), self._templated) for request in requests
        ]
        with tqdm(total=len(prompts), desc="laconic", disable=disable_tqdm, file=sys.stderr) as bar:

            def done(place: int, answer: HarnessAnswer) -> None:
                self.cache_hook.add_partial("generate_until", requests[place].args, answer.text)
                bar.update()

            answers = self.model.answer(prompts, done)
        print_to_stderr(f"laconic: {self.model.totals.sentence()}")
        return [answer.text for answer in answers]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Refused."""
        refuse_scoring()

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Refused."""
        refuse_scoring()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside the results."""
        return {"laconic": self.model.describe()}


def refuse_scoring() -> NoReturn:
    """InputError for tasks that ask how likely given texts are."""
    raise InputError(
        "this task scores given texts by their log-likelihoods, for which nothing is generated that laconic could compress or "
        "prune; choose a task that generates (generate_until), or lm-eval's own --model hf"
    )
