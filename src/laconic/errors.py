"""The one kind of error that a face shows as a sentence instead of a traceback."""


class LaconicError(ValueError):
    """Bad input. The message is one sentence: what is wrong, what was expected, what to do. Exit code 2, or a 4xx."""
