"""The code blocks of a document run as they do for its reader: commands, and Python in a process of its own."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from typer.main import get_command

from mad_ip.cli import app

__all__ = ["COMMANDS", "FENCED", "ROOT", "Block", "commands", "copied", "parted", "run_blocks", "run_make"]

Block = tuple[str, str]
"""A language and the content of a fenced block."""

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SECONDS = 5
"""Time limit of a solve or of each run of a comparison: their proofs are other tests'."""
FAST = ("models/toy/spec.toml", "examples/mlp.toml")
"""Specs that are solved in earnest."""


def parted(text: str) -> list[Block]:
    """The fenced blocks of a document, in their order."""
    return [(language, content) for language, content in FENCED.findall(text)]


@functools.cache
def environment() -> dict[str, str]:
    """The commands of this very environment, on one thread, and nothing from a make that runs the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return {**own, "PATH": path, "OMP_NUM_THREADS": "1"}


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def run_make(words: list[str], folder: Path) -> str:
    """A dry run: the target is there and does something, every variable is one that the Makefile reads."""
    targets = [word for word in words[1:] if "=" not in word]
    assert len(targets) == 1
    done = run(["make", "--dry-run", *words[1:]], ROOT)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text()
    for name, value in (word.split("=") for word in words[1:] if "=" in word):
        assert f"$({name})" in makefile
        assert value in done.stdout
    assert "mad-ip" in done.stdout or ".venv/bin/python" in done.stdout
    return done.stdout


def run_mad_ip(words: list[str], folder: Path) -> str:
    """As it stands where toy or an MLP is solved, else within a few seconds; what it says it writes is written."""
    limited = words[1] == "compare" or (words[1] == "solve" and words[2] not in FAST)
    if limited:
        words = [*words, "--time-limit", str(SECONDS)]
    done = run(words, folder)
    assert done.returncode in ((0, 3) if limited else (0,)), f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    assert done.stdout or words[1] == "solve"
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists()
    return done.stdout


COMMANDS = get_command(app).commands
RULES: dict[str, Callable[[list[str], Path], str]] = {"make": run_make, "mad-ip": run_mad_ip}


def commands(text: str) -> list[list[str]]:
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def copied(folder: Path) -> Path:
    """What a reader has at hand: the zoo, the examples, the profiles of solvers."""
    for name in ("models", "examples", "solvers"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def run_blocks(blocks: Sequence[Block], folder: Path) -> list[list[str]]:
    """Run all blocks in their order in a folder; for every one the outputs of its commands, or of its Python."""
    outputs: list[list[str]] = []
    for language, content in blocks:
        outputs.append([])
        if language == "sh":
            for words in commands(content):
                assert words[0] in RULES, f"no rule for {shlex.join(words)}"
                outputs[-1].append(RULES[words[0]](words, folder))
        elif language == "python":
            # A process of its own, as for the reader: the block must import all that it uses.
            script = folder / "block.py"
            script.write_text(content)
            done = run([sys.executable, str(script)], folder)
            assert done.returncode == 0, done.stderr
            outputs[-1].append(done.stdout)
    return outputs
