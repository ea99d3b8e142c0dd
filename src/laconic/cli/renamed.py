"""Options that had another name before: each still works for one release, and says on stderr what it is called now.

The table is all there is to add to; help and docs know only the new names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand

from laconic.cli.messages import print_to_stderr
from laconic.errors import InputError


def _unchanged(values: Sequence[str]) -> Any:
    return values[-1]


def _hub(values: Sequence[str]) -> Any:
    return f"hub:{values[-1]}"


@dataclass(frozen=True, slots=True)
class Renamed:
    """One old name of one command's option.

    convert: from the values that the old name was given, in order, to that of the new one.
    """

    command: str  # as it is typed after laconic
    old: str
    new: str
    convert: Callable[[Sequence[str]], Any] = _unchanged

    def warning(self) -> str:
        shown = "--source hub:NAME" if self.convert is _hub else self.new
        return f"warning: {self.old} of {self.command} is {shown} now; the old name goes with the next release"


RENAMED = (
    Renamed("demo", "--samples", "--n"),
    Renamed("solve", "--compress", "--policy"),
    Renamed("problems", "--count", "--problems"),
    Renamed("problems", "-n", "--problems"),
    Renamed("problems", "-s", "--seed"),
    Renamed("plan", "--policy", "--policies"),
    Renamed("plan", "-l", "--length"),
    Renamed("plan", "--dtype", "--kv-dtype"),
    Renamed("collect", "--count", "--problems"),
    Renamed("collect", "--file", "--source"),
    Renamed("collect", "-f", "--source"),
    Renamed("collect", "--dataset", "--source", _hub),
    Renamed("collect", "--logprobs", "--confidence-top-k"),
    Renamed("analyze", "-n", "--problems"),
    Renamed("judge train", "-e", "--excerpt"),
    Renamed("judge train", "-k", "--kind"),
    Renamed("judge train", "--batch", "--per-step"),
    Renamed("judge eval", "--judge", "--judges", list),
    Renamed("judge eval", "-e", "--excerpt"),
    Renamed("judge ablate", "-e", "--excerpts"),
    Renamed("judge ablate", "--batch", "--per-step"),
    Renamed("bench accuracy", "-n", "--problems"),
    Renamed("bench accuracy", "--samples", "--n"),
    Renamed("bench accuracy", "-k", "--n"),
    Renamed("bench accuracy", "--seed", "--problem-seed"),
    Renamed("bench parallel", "--seed", "--problem-seed"),
    Renamed("bench parallel", "--compress", "--policies"),
    Renamed("bench parallel", "-c", "--policies"),
    Renamed("bench throughput", "--shape", "--shapes"),
    Renamed("bench throughput", "--batch", "--batches"),
    Renamed("bench vllm", "-n", "--requests"),
)


class Command(TyperCommand):
    """A command that also takes the old names of its options."""

    def make_parser(self, ctx: Any) -> Any:
        parser: Any = super().make_parser(ctx)
        by_name: dict[str, Any] = {name: parameter for parameter in self.params for name in parameter.opts}
        table = [(f"{entry.old} before", entry) for entry in RENAMED if entry.command == path_of(ctx)]
        for place, entry in table:
            parser.add_option(by_name[entry.new], [entry.old], place, action="append")
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            given, *rest = parse(args=args)
            for place, entry in table:
                if (values := given.pop(place, None)) is None:
                    continue
                name = by_name[entry.new].name
                if name in given:
                    raise InputError(
                        f"{entry.old} of {entry.command} is {entry.new} now, which is given too; give it once"
                    )
                given[name] = entry.convert(values)
                print_to_stderr(entry.warning())
            return given, *rest

        parser.parse_args = parse_args
        return parser


def path_of(ctx: Any) -> str:
    """What is typed after `laconic` for the command of a context."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names)
