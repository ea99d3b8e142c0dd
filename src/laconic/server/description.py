"""What /openapi.json says of the bodies that the three endpoints take."""

from __future__ import annotations

from typing import Any

TITLES = {"chat": "A chat completion", "completions": "A completion of a text", "responses": "A response"}
_METHOD = {
    "type": "object",
    "description": "What laconic does beside decoding. strategy and compress are written as on the command line, none is none.",
    "properties": {
        "strategy": {"type": "string", "examples": ["priced-vote", "deepprune:K2=4", "none"]},
        "n": {"type": "integer", "minimum": 1, "description": "Traces of a vote at most."},
        "compress": {"type": "string", "examples": ["rpc:interval=512", "none"]},
        "judge": {"type": "string"},
        "budget": {"type": "string", "examples": ["4x", "20000"]},
        "progress": {"type": "boolean", "default": True, "description": "Tell how a vote stands as reasoning."},
    },
    "additionalProperties": False,
}
_SHARED = {
    "model": {"type": "string"},
    "n": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number"},
    "top_p": {"type": "number"},
    "top_k": {"type": "integer"},
    "seed": {"type": "integer"},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "laconic": _METHOD,
}


def _body(required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": [required], "properties": {**properties, **_SHARED}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_MESSAGES = {
    "type": "array",
    "items": {"type": "object", "properties": {"role": {"type": "string"}, "content": {}}, "required": ["role"]},
}
_WHOLE = {"type": "integer", "minimum": 1}
BODIES = {
    "chat": _body(
        "messages",
        messages=_MESSAGES,
        max_tokens=_WHOLE,
        max_completion_tokens=_WHOLE,
        logprobs={"type": "boolean"},
        top_logprobs={"type": "integer", "minimum": 0, "maximum": 20},
    ),
    "completions": _body(
        "prompt", prompt={}, max_tokens=_WHOLE, logprobs={"type": "integer", "minimum": 0, "maximum": 20}
    ),
    "responses": _body("input", input={}, instructions={"type": "string"}, max_output_tokens=_WHOLE),
}
