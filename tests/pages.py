"""The code blocks of a page in Markdown: what they are, and a run of them as a reader would.

``sh`` blocks run command by command, mad-ip's in this process; ``python`` blocks as scripts, those that follow one
another as one, and ``text`` after them is what they print; ``toml`` blocks are read. A block that needs hours, a device
or data has ``<!-- not run: WHY -->`` in the line above: its commands must still be commands with such options, its
Python must compile.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from mad_ip.cli import app
from mad_ip.device import FORMAT as DEVICE_FORMAT
from mad_ip.device import Device
from mad_ip.kinds import spec_kind

__all__ = ["COMMANDS", "EXTRAS", "FENCED", "MAIN", "ROOT", "Block", "blocks", "copied", "run_make", "run_page"]

ROOT = Path(__file__).parents[1]
FENCED = re.compile(
    r"(?:^<!-- not run:(?P<reason>.*?)-->\n)?^```(?P<kind>\S*)\n(?P<content>.*?)^```$", re.DOTALL | re.M
)
SECONDS = 2
"""Time limit of a solve, a proof or each run of a comparison: other tests wait for their ends."""
FAST = ("models/toy/spec.toml", "examples/mlp.toml", "design.json", "DESIGN")
"""Specs that are solved, and designs that are verified, in earnest."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].keys() - {"dev", "docs"}
"""Those for users."""
MAIN: Any = get_command(app)
COMMANDS = MAIN.commands


@dataclass(frozen=True)
class Block:
    """``kind`` is the word behind the fence; ``reason``, where there is one, is why the block does not run."""

    kind: str
    content: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command; a backslash continues a line."""
        lines = self.content.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(text: str) -> list[Block]:
    return [Block(found["kind"], found["content"], found["reason"]) for found in FENCED.finditer(text)]


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


def run_make(words: list[str], folder: Path) -> None:
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


def run_mad_ip(words: list[str], folder: Path) -> None:
    """As it stands for toy or an MLP, else within a few seconds; what it says it writes is written."""
    slow = words[1] == "compare" or (words[1] in ("solve", "verify") and words[2] not in FAST)
    limited = slow or "--time-limit" in words
    if limited:
        words = [*words, "--time-limit", str(SECONDS)]
    with contextlib.chdir(folder), warnings.catch_warnings():
        # Of other packages, and no errors for a reader.
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(app, words[1:])
    allowed = (0, 3) if limited else (0,)
    assert done.exit_code in allowed, f"{shlex.join(words)}\n{done.output}{done.exception!r}"
    assert done.stdout or words[1] == "solve"
    for option in {"--out", "--log"} & set(words):
        assert (folder / words[words.index(option) + 1]).exists()


def run_python(words: list[str], folder: Path) -> str:
    done = run([sys.executable, *words[1:]], folder)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    return done.stdout


def run_pip(words: list[str], folder: Path) -> None:
    """Nothing is fetched: what would be installed is this project, with extras that it has."""
    assert words[:2] == ["pip", "install"]
    for requirement in words[2:]:
        name, extras = re.fullmatch(r"([a-z-]+)(?:\[([a-z,]+)\])?", requirement).groups()  # type: ignore[union-attr]
        assert name == PROJECT["name"]
        assert set((extras or "").split(",")) - {""} <= EXTRAS


RULES: dict[str, Callable[[list[str], Path], object]] = {
    "make": run_make,
    "mad-ip": run_mad_ip,
    "pip": run_pip,
    "python": run_python,
}


def check_commands(block: Block) -> None:
    """Of what does not run: every mad-ip is a command that takes the options."""
    for words in block.commands:
        if "mad-ip" in words:
            command, *rest = words[words.index("mad-ip") + 1 :]
            taken = COMMANDS[command]
            if hasattr(taken, "commands"):
                taken = taken.commands[rest[0]]
            options = {option for parameter in taken.params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= options, shlex.join(words)


def check_toml(content: str, folder: Path) -> None:
    """It is TOML; a whole spec or device.toml is one that mad-ip reads."""
    table = tomllib.loads(content)
    file = folder / "block.toml"
    file.write_text(content)
    if table.get("format") == DEVICE_FORMAT:
        Device.load(file)
    elif "name" in table:
        spec_kind(file).load_spec(file)


def copied(folder: Path) -> Path:
    """What a reader has at hand: the zoo, the examples, the profiles of solvers."""
    for name in ("models", "examples", "solvers"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def run_page(text: str, folder: Path) -> int:
    """Run the blocks of a page in their order, in a folder; the number of commands and scripts that ran."""
    number = 0
    script: list[str] = []

    def run_script(shown: str | None = None) -> int:
        # A process of its own, as for the reader: the blocks must import all that they use.
        if not script:
            return 0
        (folder / "block.py").write_text("\n".join(script))
        script.clear()
        printed = run_python(["python", "block.py"], folder)
        if shown is not None:
            # HiGHS greets on standard output.
            lines = [line for line in printed.splitlines() if not line.startswith(("Running HiGHS", "Includes "))]
            assert lines == shown.splitlines()
        return 1

    for block in blocks(text):
        if block.kind == "python" and block.reason:
            compile(block.content, "block", "exec")
        elif block.kind == "python":
            script.append(block.content)
        elif block.kind == "sh" and block.reason:
            check_commands(block)
        elif block.kind == "sh":
            number += run_script()
            for words in block.commands:
                assert words[0] in RULES, f"no rule for {shlex.join(words)}"
                RULES[words[0]](words, folder)
                number += 1
        elif block.kind == "text":
            number += run_script(block.content)
        elif block.kind == "toml":
            check_toml(block.content, folder)
    return number + run_script()
