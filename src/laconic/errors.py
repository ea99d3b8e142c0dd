"""The kinds of error, and the one kind of warning, that a face shows as a sentence.

What is neither (a ValueError of Python's own, an AssertionError) is a fault of ours and keeps its traceback.
"""

LONGEST_REASON = 400  # characters of another package's message


class LaconicError(Exception):
    """What laconic says in one sentence: what is wrong, what was expected, what to do. Catch this for either kind below."""


class InputError(LaconicError, ValueError):
    """Bad input, which the caller can mend: an argument, an option, a file. Exit code 2, or a 4xx.

    An argument of a wrong type is bad input, too. Being a ValueError, it is caught by `except ValueError`.
    """


class EngineError(LaconicError, RuntimeError):
    """What runs has died or can't go on, whatever was asked of it: vLLM's processes, a worker. Exit code 2, or a 5xx.

    Being a RuntimeError, it is caught by `except RuntimeError`, and not by `except ValueError`. status: HTTP's, where a server
    that laconic asked has refused; 0: it isn't that.
    """

    def __init__(self, message: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UnknownNameError(InputError, KeyError):
    """Nothing goes by that id. Being a KeyError as well, it is caught by `except KeyError`."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # KeyError's own puts the sentence in quotation marks


class LaconicWarning(UserWarning):
    """What goes on although it hardly can be meant. One sentence, told once: `warnings.warn` in Python, a line on stderr."""


def reason(error: BaseException) -> str:
    """Why something of another package failed, on one line: the first of its message, or all of it where that only begins a
    list ("from one of:")."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = " ".join(" ".join(lines if lines[0].rstrip().endswith(":") else lines[:1]).split()).rstrip(" .:")
    return said if len(said) <= LONGEST_REASON else f"{said[: LONGEST_REASON - 3]}..."
