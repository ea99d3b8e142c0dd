"""The one kind of error, and the one kind of warning, that a face shows as a sentence."""


class LaconicError(ValueError):
    """Bad input. The message is one sentence: what is wrong, what was expected, what to do. Exit code 2, or a 4xx."""


class LaconicWarning(UserWarning):
    """What goes on although it hardly can be meant. One sentence, told once: `warnings.warn` in Python, a line on stderr."""
