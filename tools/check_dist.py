"""Build the distribution and try it as a user meets it: `make dist`. Needs the packages build and twine, and pip's index.

The source distribution is built from the working tree, the wheel once from that and once from the tree, and both wheels must
hold the same bytes. The wheel is then installed with the extra `serve` into an empty environment, versions pinned by
constraints.txt, and its commands run offline in an empty folder. Both stay in dist/.
"""

from __future__ import annotations

import email
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MOST_MEGABYTES = 20
MOST_IMPORT_MS = 100
# A folder or ending of this kind in a distribution came from somebody's working tree.
JUNK = (
    "runs",
    "dist",
    "build",
    "site",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".git",
)
NEEDED_IN_WHEEL = (
    "laconic/py.typed",
    "laconic/assets/reasoner/model.safetensors",
    "laconic/assets/judge/model.safetensors",
    "laconic/assets/selectors/bf87f69cacd22086.safetensors",
    "laconic/assets/calibrations/default.json",
    "laconic/server/page/page.html",
    "laconic/cli/templates/trace.html",
)
NEEDED_IN_SDIST = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "constraints.txt",
    "Makefile",
    "docs/design.md",
)
FOLDERS_IN_SDIST = ("src/laconic", "tests", "docs", "examples", "benchmarks", "training", "tools", ".ci")


class Failed(Exception):
    """A check that did not hold, as a sentence."""


def expect(holds: bool, said: str) -> None:
    if not holds:
        raise Failed(said)


def name_and_version() -> tuple[str, str]:
    """The distribution's name and the version of the sources, neither imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: dict[str, str] = {}
    exec((ROOT / "src" / "laconic" / "version.py").read_text(encoding="utf-8"), names)
    return project["name"], names["__version__"]


def junk_in(paths: list[str]) -> list[str]:
    """Those of the paths that no distribution should hold."""
    return [
        path
        for path in paths
        if any(part in JUNK or part.startswith(".venv") or part.endswith(".egg-info") for part in path.split("/"))
        or path.endswith((".pyc", ".so", "~"))
    ]


def missing_in_sdist(paths: list[str]) -> list[str]:
    """What should be there and isn't."""
    wanted = [name for name in NEEDED_IN_SDIST if name not in paths]
    return wanted + [folder for folder in FOLDERS_IN_SDIST if not any(path.startswith(f"{folder}/") for path in paths)]


def wheel_problems(paths: list[str]) -> list[str]:
    """What is wrong with the names that a wheel holds, a sentence each. The .dist-info may be among them or not."""
    found = [f"{path} is missing" for path in NEEDED_IN_WHEEL if path not in paths]
    found += [f"{path} has no place in a wheel" for path in junk_in(paths)]
    strangers = {path.split("/")[0] for path in paths} - {"laconic"}
    return found + [
        f"{name} would be installed beside laconic" for name in strangers if not name.endswith(".dist-info")
    ]


def build() -> tuple[Path, Path]:
    """The wheel and the sdist in DIST. Raises Failed if the wheel of the tree and that of the sdist differ."""
    name, version = name_and_version()
    stem = f"{name.replace('-', '_')}-{version}"
    sdist, wheel = DIST / f"{stem}.tar.gz", DIST / f"{stem}-py3-none-any.whl"
    for path in (sdist, wheel):
        path.unlink(missing_ok=True)
    python = [sys.executable, "-m", "build", "--outdir"]
    run([*python, str(DIST), str(ROOT)])  # the sdist, and of it the wheel
    with tempfile.TemporaryDirectory() as folder:
        run([*python, folder, "--wheel", str(ROOT)])
        again = contents(Path(folder) / wheel.name)
    first = contents(wheel)
    expect(
        first == again, f"The wheel of the sdist is another than that of the tree: {sorted(differing(first, again))}"
    )
    return wheel, sdist


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def check_files(wheel: Path, sdist: Path) -> None:
    held = contents(wheel)
    problems = wheel_problems(sorted(held))
    expect(not problems, f"{wheel.name}: {'; '.join(problems)}")
    size = wheel.stat().st_size / 1e6
    expect(size < MOST_MEGABYTES, f"{wheel.name} has {size:.1f} MB, at most {MOST_MEGABYTES} were expected")
    with tarfile.open(sdist) as archive:
        paths = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    missing, junk = missing_in_sdist(paths), junk_in(paths)
    expect(not missing, f"{sdist.name} lacks {', '.join(missing)}")
    expect(not junk, f"{sdist.name} holds {', '.join(junk[:5])}")
    metadata = next(text for name, text in held.items() if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(metadata)
    expect((said["Name"], said["Version"]) == name_and_version(), f"The metadata name {said['Name']} {said['Version']}")
    print(
        f"{wheel.name}: {size:.2f} MB, {len(held)} files; {sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB, {len(paths)} files"
    )
    run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])


def try_out(wheel: Path) -> None:
    """Install the wheel into an empty environment, and run its commands there."""
    name, version = name_and_version()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        python = home / "env" / "bin" / "python"
        wanted = [f"{name}[serve] @ {wheel.as_uri()}", "-c", str(ROOT / "constraints.txt")]
        run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *wanted])
        (home / "empty").mkdir()
        laconic = str(python.parent / "laconic")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(home / "hub")}
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        there: dict[str, Any] = {"cwd": home / "empty", "env": kept | offline | {"LACONIC_CACHE": str(home / "cache")}}

        def says(expected: Callable[[str], bool], *arguments: str) -> None:
            said = run([laconic, *arguments], **there)
            expect(expected(said), f"laconic {' '.join(arguments)} said something else than expected:\n{said}")
            print(f"laconic {' '.join(arguments)}: as expected")

        says(lambda said: said.startswith(f"laconic {version}, torch "), "--version")
        says(lambda said: "rpc" in said and "learned" in said, "policies")
        says(lambda said: "\\boxed{" in said, "think", "--max-new-tokens", "1024")
        says(lambda said: json.loads(said)["answer"] is not None, "solve", "--n", "4", "--json")
        says(lambda said: "RPC" in said or "rpc" in said, "demo")
        serve(laconic, there)
        fastest = min(import_ms(python, there) for _ in range(5))
        expect(
            fastest < MOST_IMPORT_MS, f"import laconic takes {fastest:.0f} ms, at most {MOST_IMPORT_MS} were expected"
        )
        print(f"import laconic: {fastest:.0f} ms (the fastest of five, -X importtime)")


def import_ms(python: Path, there: dict[str, Any]) -> float:
    done = subprocess.run(
        [str(python), "-X", "importtime", "-c", "import laconic"], capture_output=True, text=True, check=True, **there
    )
    last = done.stderr.strip().splitlines()[-1]
    expect(last.endswith("| laconic"), f"-X importtime ends with {last}")
    return int(last.split("|")[1]) / 1000


def serve(laconic: str, there: dict[str, Any]) -> None:
    """Start the server, ask it for a chat completion, stop it."""
    server = subprocess.Popen([laconic, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True, **there)
    try:
        assert server.stderr
        said = []
        address = None
        for line in server.stderr:  # until it is ready, which it says
            said.append(line)
            words = [word.rstrip(".,;/") for word in line.split() if word.startswith("http://")]
            address = address or (words[0] if words else None)
            if address:
                break
        expect(address is not None, f"laconic serve told no address:\n{''.join(said)}")
        base = str(address).removesuffix("/v1")
        wait_for(f"{base}/health")
        body = {
            "model": "bundled",
            "messages": [{"role": "user", "content": "given b=1 c=2 ; d:b d+c d>. ; start *>d ; find d ?"}],
        }
        request = urllib.request.Request(
            f"{base}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = json.load(answer)["choices"][0]["message"]["content"]
        expect("\\boxed{" in content, f"laconic serve answered {content!r}")
        server.send_signal(signal.SIGTERM)
        expect(server.wait(60) == 0, f"laconic serve ended with {server.returncode} after SIGTERM")
        print("laconic serve: as expected")
    finally:
        server.kill()


def wait_for(url: str) -> None:
    """Until it answers 200; 120 s at most."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # not yet, or 503
            time.sleep(0.5)
    raise Failed(f"{url} did not answer 200 within two minutes")


def run(command: list[str], **there: Any) -> str:
    """stdout; raises Failed with all that was said where the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, **there)
    expect(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    try:
        wheel, sdist = build()
        check_files(wheel, sdist)
        try_out(wheel)
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
