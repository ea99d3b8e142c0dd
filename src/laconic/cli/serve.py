"""`laconic serve`: an OpenAI-compatible server, and a page to watch it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from laconic.cli.common import DEFAULT_STRATEGY, choose_calibration, choose_judge, choose_policy, choose_strategy
from laconic.cli.engines import check_device, choose_engine
from laconic.cli.messages import print_to_stderr
from laconic.cli.options import (
    Batch,
    Budget,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    Interval,
    JudgeSpec,
    MaxNewTokens,
    ModelName,
    PolicySpec,
    Ratio,
    StrategySpec,
    Temperature,
    TopK,
    TopP,
    Traces,
    Window,
)
from laconic.errors import InputError
from laconic.jsonl import read_text

if TYPE_CHECKING:
    from laconic.server.app import Server

KEY_VARIABLE = "LACONIC_API_KEY"
DRAIN_SECONDS = 120
NO_EXTRA = "laconic serve needs FastAPI and uvicorn, and they aren't installed; install laconic-llm[serve]"

Host = Annotated[
    str, typer.Option("--host", help="The address to listen at; others than this machine's own need a key.")
]
Port = Annotated[int, typer.Option("--port", help="0: any that is free.")]
ServedName = Annotated[
    str | None, typer.Option("--served-name", help="What clients call the model. [default: its own name]")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help=f"What clients must send; {KEY_VARIABLE} keeps it out of the list of processes."),
]
ApiKeyFile = Annotated[Path | None, typer.Option("--api-key-file", help="Read the key from a file's first line.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen without a key at an address that others reach.")]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin", metavar="URL", help="A page that may call it from a browser; may be given several times."
    ),
]
MostRequests = Annotated[int, typer.Option("--max-requests", help="At once; more are told to come again (429).")]
MostTraces = Annotated[int, typer.Option("--max-n", help="Traces of one request at most.")]
MostBody = Annotated[int, typer.Option("--max-body", help="Bytes of a request's body at most.")]
TimeLimit = Annotated[float, typer.Option("--timeout", help="Seconds of one request; then it tells what it has.")]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Also log what is asked.")]


def serve(
    model: ModelName = None,
    engine: EngineSpec = "hf",
    engine_set: EngineSettings = None,
    strategy: StrategySpec = None,
    n: Traces = 16,
    judge: JudgeSpec = None,
    policy: PolicySpec = "none",
    interval: Interval = None,
    ratio: Ratio = None,
    window: Window = None,
    budget: Budget = None,
    batch: Batch = 64,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    served_name: ServedName = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    insecure: Insecure = False,
    allow_origin: AllowOrigin = None,
    max_requests: MostRequests = 128,
    max_n: MostTraces = 256,
    max_body: MostBody = 4 << 20,
    timeout: TimeLimit = 3600,
    log_prompts: LogPrompts = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Serve a model to OpenAI's clients, and a page that shows votes as they go.

    Chat completions, completions and responses, at /v1. Without --model that is the bundled reasoner, and without --strategy a
    request is one trace a choice. A client asks for more in the body ("laconic": {"strategy": "priced-vote", "n": 16,
    "compress": "rpc"}) or by the model's name (bundled:priced-vote-16+rpc). The page is at /, OpenAPI's description at
    /openapi.json, figures for Prometheus at /metrics.

    Ctrl-C or SIGTERM: no new requests, those that run have 120 seconds to come to their ends; a second one ends at once.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise InputError(NO_EXTRA) from None
    chosen_engine = choose_engine(engine, model, engine_set or ())
    small = chosen_engine.small
    compression = choose_policy(policy, small, interval=interval, ratio=ratio, window=window, budget=budget)
    for name, value in (
        ("--batch", batch),
        ("--max-requests", max_requests),
        ("--max-n", max_n),
        ("--max-body", max_body),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    if not timeout > 0:
        raise InputError(f"--timeout is {timeout:g}; expected seconds above 0")
    if not 0 <= port < 65536:
        raise InputError(f"--port is {port}; expected 0 to 65535")
    _check_strategy(strategy, n, judge, small)
    if judge is None and strategy in (None, "none"):
        check_device(chosen_engine, device)
    key = choose_key(api_key, api_key_file, host, insecure)

    from laconic.cli.served_model import ServingModel
    from laconic.cli.served_names import offered_policies, offered_strategies
    from laconic.server.app import Server, Settings
    from laconic.server.asks import Method
    from laconic.server.driver import EngineDriver
    from laconic.server.guard import Rules, is_loopback

    name = served_name or ("bundled" if small else model_name(str(chosen_engine.model or "upstream")))
    method = Method(strategy=strategy, n=n, judge=judge, compress=None)
    served = ServingModel(
        choice=chosen_engine,
        name=name,
        policy=compression,
        method=method,
        batch=batch,
        dtype=dtype,
        device=device,
        sampling_options={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
        },
    )
    bound = bind(host, port)
    address, actual = bound.getsockname()[:2]
    hosts = None
    if is_loopback(host) and key is None:  # or a page elsewhere could reach it by a name of its own
        hosts = frozenset({"localhost", "127.0.0.1", "[::1]", host.lower(), address})
    settings = Settings(
        model=name,
        strategies=offered_strategies(chosen_engine),
        policies=offered_policies(chosen_engine, compression),
        judges=("bundled", "jaccard", "facts", "probe", "random") if small else (),
        method=Method(strategy=strategy, n=n, judge=judge, compress=compression.spec()),
        rules=Rules(key=key, hosts=hosts, most_bytes=max_body),
        origins=tuple(allow_origin or ()),
        most_traces=max_n,
        most_tokens=max_new_tokens,
        seconds=timeout,
        log_prompts=log_prompts,
        suggested=strategy if strategy not in (None, "none") else DEFAULT_STRATEGY,
        example=_example() if small else "",
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells each request's address, a password in it too
    driver = EngineDriver(served, max_requests)
    run(
        Server(driver, settings),
        bound,
        f"http://{'localhost' if address in ('127.0.0.1', '::1') else address}:{actual}/",
    )
    if driver.why:
        raise InputError(f"the server has ended: {driver.why}")


def _check_strategy(strategy: str | None, n: int, judge: str | None, small: bool) -> None:
    """What is wrong with the default is said before anything is loaded."""
    if strategy in (None, "none"):
        if judge is not None:
            raise InputError(f"--judge {judge} is of a vote; give --strategy as well")
        return
    from laconic.judges.baselines import RandomJudge

    judge_spec = choose_judge(judge, str(strategy), small)
    calibrated = choose_calibration(None, str(strategy))
    choose_strategy(str(strategy), n, RandomJudge() if judge_spec else None, small, calibrated)


def model_name(path: str) -> str:
    """What clients call a model by a directory, a file or a Hub name: the latter whole, of others the last part."""
    return Path(path).name if os.path.exists(path) else path


def choose_key(given: str | None, file: Path | None, host: str, insecure: bool) -> str | None:
    """What clients must send; None: nothing. Raises InputError for an address that others reach without one."""
    from laconic.server.guard import is_loopback

    if given is not None and file is not None:
        raise InputError("--api-key and --api-key-file both give a key; give one of them")
    key = given
    if file is not None:
        lines = read_text(file).splitlines()
        key = lines[0].strip() if lines else ""
        if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            print_to_stderr(f"warning: others on this machine can read {file}; chmod 600 keeps the key to yourself")
    elif key is None:
        key = os.environ.get(KEY_VARIABLE) or None
    if key is not None and (not key or not key.isascii() or any(c.isspace() for c in key)):
        raise InputError(
            "the API key is empty, or has characters that a header can't carry; expected ASCII without spaces"
        )
    if key is None and not is_loopback(host) and not insecure:
        raise InputError(
            f"--host {host} can be reached by others, and there is no key; give --api-key (for example "
            f"{secrets.token_urlsafe(8)}...), or --insecure if everybody may use it"
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError for an address that isn't this machine's, or a port in use."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host} is no address: {error}; expected one of this machine, such as 127.0.0.1"
        ) from None
    family, kind, proto, _, place = found[0]
    bound = socket.socket(family, kind, proto)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
        bound.listen(512)
    except OSError as error:
        bound.close()
        if error.errno in (98, 48):
            raise InputError(f"port {port} of {host} is in use; choose another with --port, or 0 for any") from None
        if error.errno in (99, 49):
            raise InputError(f"--host {host} is no address of this machine; expected one, such as 127.0.0.1") from None
        raise InputError(f"{host}:{port} can't be listened at: {error.strerror}; choose another with --port") from None
    return bound


def run(server: Server, bound: socket.socket, url: str) -> None:
    """Until a signal ends it."""
    import threading

    import uvicorn

    from laconic.server.guard import PatientProtocol

    class Uvicorn(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if self.should_exit:
                end_at_once()
            server.driver.drain()
            waiting = server.driver.running
            if waiting:
                print_to_stderr(f"finishing {waiting} requests; once more: at once")
            self.should_exit = True

    config = uvicorn.Config(
        server.app,
        http=PatientProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        h11_max_incomplete_event_size=1 << 16,
        server_header=False,
        lifespan="on",
        backlog=512,
    )
    running = Uvicorn(config)

    def tell() -> None:
        server.driver.wait_ready()
        if server.driver.state == "failed":
            running.should_exit = True
        else:
            name = server.settings.model
            print_to_stderr(f"{name} is served at {url}v1; the page is {url}, Ctrl-C ends it")

    threading.Thread(target=tell, name="laconic-ready", daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        running.run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        bound.close()


def end_at_once() -> NoReturn:
    """Without waiting for a step of the engine, or for processes of vLLM's, which are ended too."""
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(1)


def _example() -> str:
    from laconic.problems import generate

    return str(generate(1)[0].question)
