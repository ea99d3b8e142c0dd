"""`laconic serve`: an OpenAI-compatible server over one engine that all its clients share, and a page to watch it.

`driver` drives the engine in a thread of its own; `jobs` are what it works on, one a request; `asks` reads what clients send,
`replies` writes what they get; `app` puts both behind HTTP, and `guard` keeps out what doesn't belong.
"""
