"""What the statuses of servers with OpenAI's API mean to whoever asks them, and to whom that one answers in turn."""

from __future__ import annotations

BUSY = (408, 409, 425, 429)
"""Come again later."""
ELSEWHERE = (401, 403, 404)
"""A server with another key, or without the model, says nothing of what the others would."""


def passed_on(status: int) -> int:
    """The status of an answer to a client, where a server behind it answered `status` for good; 0: none did.

    What is wrong with a request, and that it comes too soon, is for the client to know (the same status); a key or a model that
    is refused, and a server that fails, are not (502).
    """
    if not status:
        return 500
    clients = 400 <= status < 500 and status not in ELSEWHERE and (status not in BUSY or status == 429)
    return status if clients else 502
