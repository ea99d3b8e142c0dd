"""What the commands share: how an error reads, where policies and questions come from, the bundled model's settings."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic import checks
from laconic.errors import InputError, LaconicError, LaconicWarning
from laconic.files import check_regular
from laconic.jsonl import NotJSONError, parse
from laconic.settings import given_keys

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Sampling
    from laconic.engines.chat import Chat
    from laconic.engines.hf import HFEngine
    from laconic.problems import Problem
    from laconic.prune import Judge, Strategy

BAD_INPUT = 2
INTERRUPTED = 130

BUNDLED = "bundled"
# RPC's published interval is ten times a whole trace of the bundled model. These compress such a trace several times,
# at the published ratio.
SMALL = {"interval": 128, "ratio": 4, "window": 32, "budget": 128}
# Its terse draft is over by then, a tenth of a trace; DeepConf's published window is four times a whole trace.
SMALL_STRATEGY = {"excerpt": "tokens:56", "window": 64}
WARMUP_SHARE = 4  # DeepConf's warm-up: a quarter of the traces, where that is fewer than its own 16
PUBLISHED_JUDGE = "llm:THU-KEG/DeepPrune-Judge-4B"
PUBLISHED = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 32768}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model; answer: the right one, None if unknown; source: where it came from, for the summary."""

    text: str
    answer: str | None = None
    source: str = "the command line"

    def __post_init__(self) -> None:
        checks.text("the problem", self.text)
        checks.text("its answer", self.answer or "")


def complain(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def sentence(error: BaseException) -> str:
    """An error or a warning as one line, without a full stop: the system's errors with the path they are about, others as
    their message says."""
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename is not None:
        return f"{error.filename} can't be made a directory, as a file is in the way; name another place"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{where}"
    if isinstance(error, MemoryError):
        return "out of memory: use a smaller model, fewer traces or fewer new tokens"
    said = " ".join(str(error).split()) or type(error).__name__
    return said if said.endswith("..") else said.removesuffix(".")


@contextmanager
def told_warnings() -> Iterator[None]:
    """Our own warnings become lines on stderr, each told once; others stay as they are."""
    told: set[str] = set()
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, LaconicWarning):
            others(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            complain(f"warning: {sentence(message) if isinstance(message, Warning) else message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", LaconicWarning)
        warnings.showwarning = show
        yield


def is_bundled(model: str | None) -> bool:
    """Whether ``--model`` means the reasoner that ships with laconic."""
    return model is None or model == BUNDLED


def one_thread() -> None:
    """For the bundled model, unless OMP_NUM_THREADS says otherwise: its matrices are too small to share, and where another
    process wants the same cores, threads that wait for each other at every step cost most of the speed."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


def model_path(model: str | None) -> str:
    """The directory or Hub name behind ``--model``; nothing or ``bundled`` is the bundled reasoner."""
    if not is_bundled(model):
        return str(model)
    from laconic.assets import reasoner_path

    return os.fspath(reasoner_path())


def choose_policy(spec: str, small: bool, **options: Any) -> Policy:
    """The policy of ``--policy`` (none is full KV) and of the options beside it (None: not given).

    small: what neither of them says comes from SMALL where the policy has that setting, instead of from the policy's
    own published defaults; a buffer or window stays the policy's own part of its budget, but never above SMALL's
    interval. Raises InputError for an unknown policy or setting, a value out of range, or a setting given twice.
    """
    from laconic.compress import get, parse

    spec = "full" if spec == "none" else spec
    given = given_keys(spec)
    # The command line reads 4 as 4.0, which would be another policy's name for the same thing.
    exact = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in options.items()}
    overrides = {key: value for key, value in exact.items() if value is not None}
    for key in overrides:
        if key in given:
            raise InputError(f"{key} is given both in --policy {spec} and as --{key}; give it once")
    if small:
        defaults = {field.name: field.default for field in dataclasses.fields(get(spec.partition(":")[0]))}
        wanted = {key: value for key, value in SMALL.items() if key in defaults}
        if "budget" in defaults:
            wanted.pop("window", None)
            buffer = defaults.get("buffer")
            if isinstance(buffer, int) and buffer > SMALL["interval"]:
                wanted["buffer"] = SMALL["interval"]
        overrides = {key: value for key, value in wanted.items() if key not in given} | overrides
    return parse(spec, **overrides)


def choose_judge(spec: str | None, strategy: str, small: bool) -> str | None:
    """The judge of ``--judge``, else the bundled model's own or the published one; None where the strategy asks none.

    Raises InputError for a judge that nobody asks, or an unknown judge or strategy.
    """
    from laconic.judges.registry import split
    from laconic.prune.strategies.registry import needs_judge

    if not needs_judge(strategy):
        if spec is not None:
            raise InputError(f"strategy {strategy} asks no judge; leave --judge {spec} out")
        return None
    chosen = spec if spec is not None else BUNDLED if small else PUBLISHED_JUDGE
    split(chosen)
    return chosen


def choose_strategy(spec: str, n: int, judge: Judge | None, small: bool, **options: Any) -> Strategy:
    """The strategy of ``--strategy`` and of the options beside it (by the setting's name; None: not given).

    small: what neither of them says comes from SMALL_STRATEGY where the strategy has that setting; a judge that was made
    for an excerpt gets that one. Raises InputError for an unknown strategy or setting, a value out of range, a setting
    given twice, or an excerpt that the judge was not made for.
    """
    from laconic.prune.strategies.registry import parse, settings

    given = given_keys(spec)
    overrides = {key: value for key, value in options.items() if value is not None}
    for key in overrides:
        if key in given:
            raise InputError(f"{key} is given both in --strategy {spec} and by an option; give it once")
    wanted: dict[str, Any] = dict(SMALL_STRATEGY) if small else {}
    if judge is not None and judge.excerpt is not None:
        wanted.pop("excerpt", None)
    defaults = {setting.field: setting.default for setting in settings(spec)}
    if "warmup" in defaults and n >= 1:
        wanted["warmup"] = min(int(defaults["warmup"]), max(1, n // WARMUP_SHARE))
    own = {key: value for key, value in wanted.items() if key in defaults and key not in given}
    return parse(spec, n, judge, **own | overrides)


def judged_engine(
    model: Any, tokenizer: Any, policy: Policy, batch: int, strategy: Strategy | None, chat: Chat | None = None
) -> HFEngine:
    """An engine that notes while it decodes what the strategy's judge will ask for, so that nothing is run again for it:
    the hidden states of the first tokens, or which tokens compression kept."""
    from laconic.engines.hf import HFEngine

    tokens, layers = getattr(getattr(strategy, "judge", None), "states_wanted", None) or (0, (-1,))
    kept = getattr(strategy, "excerpt_kind", "").partition(":")[0] == "kept"
    return HFEngine(
        model,
        tokenizer,
        policy,
        max_batch=batch,
        record_held=kept,
        record_states=tokens,
        state_layers=layers,
        chat=chat,
    )


def choose_sampling(model: Any, **options: Any) -> Sampling:
    """Options (None: not given), then what the model's own generation_config says, then what the paper used.

    An engine clips ``max_new_tokens`` to the model's context. Raises InputError for a value out of range, a
    generation_config's too, which is then named: it is a file that anyone may have written.
    """
    from laconic.engines.base import Sampling

    own = getattr(model, "generation_config", None)
    chosen: dict[str, Any] = dict(PUBLISHED)
    keys = (
        ("max_new_tokens", "temperature", "top_p", "top_k") if getattr(own, "do_sample", False) else ("max_new_tokens",)
    )
    for key in keys:
        value = getattr(own, key, None)
        if value is None or options.get(key) is not None:
            continue
        try:
            Sampling(**PUBLISHED | {key: value})
        except LaconicError as error:
            option = "--" + key.replace("_", "-")
            raise InputError(f"in the model's generation_config {error}; mend it, or give {option}") from error
        chosen[key] = value
    return Sampling(**chosen | {key: value for key, value in options.items() if value is not None})


def read_question(path: str) -> Question:
    """The question in a file, ``-`` for standard input: its whole text, or the first record of a ``.jsonl``.

    Raises InputError for a file that is no text, is empty, or whose first record has no question.
    """
    name = "standard input" if path == "-" else path
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is no UTF-8 text; give the problem as text or as JSON lines") from None
    if not text.strip():
        raise InputError(f"{name} is empty; expected a problem")
    if not path.endswith(".jsonl"):
        return Question(text.strip(), source=name)
    try:
        record = parse(next(line for line in text.split("\n") if line.strip()))
        question, answer = record["question"], record.get("answer")
    except NotJSONError:
        question = answer = None
    except LaconicError as error:
        raise InputError(f"the first line of {name} {error}") from None
    except (KeyError, TypeError, AttributeError):
        question = answer = None
    if not isinstance(question, str) or not question.strip():
        raise InputError(
            f'the first line of {name} is no problem; expected JSON such as {{"question": "...", "answer": "..."}}'
        )
    return Question(question.strip(), None if answer is None else str(answer), name)


def _read_bytes(path: str) -> bytes:
    if path != "-":
        if Path(path).is_char_device():  # /dev/zero has no end
            raise InputError(f"{path} is a device; expected a file, or - for standard input")
        return Path(path).read_bytes()
    buffer = getattr(sys.stdin, "buffer", None)
    return buffer.read() if buffer is not None else sys.stdin.read().encode("utf-8", "surrogatepass")


def choose_question(
    problem: str | None, file: str | None, bundled: int | None, level: int | None, small: bool
) -> Question:
    """The one question that the arguments name. Raises InputError for two of them, or none for another model."""
    named = [
        name for name, value in (("PROBLEM", problem), ("--file", file), ("--bundled", bundled)) if value is not None
    ]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} each name a problem; give one of them")
    if level is not None and named and named != ["--bundled"]:
        raise InputError(
            f"--level {level} is for problems of the bundled set, but {named[0]} names another; leave it out"
        )
    if problem is not None:
        if not problem.strip():
            raise InputError("the problem is empty; give a question, --file or --bundled")
        return Question(problem.strip())
    if file is not None:
        return read_question(file)
    if bundled is None and not small:
        raise InputError("there is no problem; give one as the argument, or --file or --bundled")
    from laconic.problems import generate

    found = generate(1, seed=bundled or 0, level=level)[0]
    return Question(found.question, found.answer, f"the bundled set ({found.id})")


def check_vocabulary(tokenizer: Any, question: Question) -> None:
    """The bundled reasoner reads a notation of its own; a question in another would be a row of unknown tokens."""
    ids = tokenizer(question.text, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputError(
            "the bundled reasoner only reads the notation that `laconic problems` prints; give such a problem, or name "
            "another model with --model"
        )


def check_problems(tokenizer: Any, problems: Iterable[Problem]) -> None:
    """`check_vocabulary` of many, naming the problem."""
    for problem in problems:
        try:
            check_vocabulary(tokenizer, Question(problem.question))
        except LaconicError as error:
            raise InputError(f"problem {problem.id}: {error}") from None


def check_writable(path: Path, what: str) -> None:
    """Refuse a file that can't be written before minutes of decoding, not after; missing directories are made.

    what: what it is for, in the message.
    """
    check_regular(path, what)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise InputError(f"{path} can't be written; name a file where you may write")


def size(count: int) -> str:
    """Bytes for people: 1,023 B, 1.5 KiB, 12.0 MiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count:,} B" if unit == "B" else f"{value:,.1f} {unit}"
