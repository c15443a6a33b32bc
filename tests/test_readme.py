"""Every code block of the README runs: commands, Python, and what it shows as text is what is there."""

from __future__ import annotations

import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

from mad_ip.cli import app
from mad_ip.design import Design
from mad_ip.reports.verification import Model, table
from mad_ip.spec import Spec
from mad_ip.verification import verify

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BLOCKS = [(language, content) for language, content in FENCED.findall(README)]
SECONDS = 5
"""Time limit of a solve or of each run of a comparison: their proofs are other tests'."""
FAST = ("models/toy/spec.toml", "examples/mlp.toml")
"""Specs that are solved in earnest."""
QUOTED = [code for code in re.findall(r"`([^`\n]+)`", README) if code.startswith(("make ", "mad-ip "))]
"""Commands within sentences."""


def blocks(language: str) -> list[str]:
    return [content for own, content in BLOCKS if own == language]


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
    """As it stands where toy or an MLP is solved, else within a few seconds; what it says it writes is written."""
    limited = words[1] == "compare" or (words[1] == "solve" and words[2] not in FAST)
    if limited:
        words = [*words, "--time-limit", str(SECONDS)]
    done = run(words, folder)
    assert done.returncode in ((0, 3) if limited else (0,)), f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    assert done.stdout or words[1] == "solve"
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists()


def run_pip(words: list[str], folder: Path) -> None:
    """Nothing is fetched: what would be installed is this project, with extras that it has."""
    assert words[:2] == ["pip", "install"]
    for requirement in words[2:]:
        name, extras = re.fullmatch(r"([a-z-]+)(?:\[([a-z,]+)\])?", requirement).groups()  # type: ignore[union-attr]
        assert name == PROJECT["name"]
        assert set((extras or "").split(",")) - {""} <= EXTRAS


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].keys() - {"dev"}
MAIN = get_command(app)
COMMANDS = MAIN.commands
RULES: dict[str, Callable[[list[str], Path], None]] = {"make": run_make, "mad-ip": run_mad_ip, "pip": run_pip}


def commands(text: str) -> list[list[str]]:
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def copied(folder: Path) -> Path:
    """What a reader has at hand: the zoo, the examples, the profiles of solvers."""
    for name in ("models", "examples", "solvers"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def test_every_block_is_of_a_kind_that_runs() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text"}
    assert all(blocks(language) for language in ("sh", "python", "text"))
    assert README.count("```") == 2 * len(BLOCKS)
    assert not re.search(r"^(    |\t)\S", FENCED.sub("", README), flags=re.MULTILINE), "an indented block has no kind"


def test_blocks_run_in_their_order(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    number = 0
    for language, content in BLOCKS:
        if language == "sh":
            for words in commands(content):
                assert words[0] in RULES, f"no rule for {shlex.join(words)}"
                RULES[words[0]](words, folder)
                number += 1
        elif language == "python":
            # A process of its own, as for the reader: the block must import all that it uses.
            script = folder / "block.py"
            script.write_text(content)
            done = run([sys.executable, str(script)], folder)
            assert done.returncode == 0, done.stderr
            number += 1
    assert number == sum(len(commands(content)) for content in blocks("sh")) + len(blocks("python"))


def test_solve_load_train_and_export_take_five_lines() -> None:
    (code,) = blocks("python")
    statements = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(statements) == 5
    for step in ("solve(", "mad_ip.load(", ".backward()", ".step()", "save_weights("):
        assert any(step in statement for statement in statements)


@pytest.mark.parametrize("code", QUOTED)
def test_commands_in_sentences_are_commands(code: str) -> None:
    words = shlex.split(code)
    if words[0] == "make":
        run_make(words, ROOT)
    else:
        assert words[1] in COMMANDS or any(words[1] in parameter.opts for parameter in MAIN.params)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)[^`\n]*`", README))))
def test_options_in_sentences_are_options_of_solve(option: str) -> None:
    assert any(option in parameter.opts for parameter in COMMANDS["solve"].params)


# What is shown as text ------------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a printed table, which two or more spaces part."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_the_table_of_proofs_is_that_of_the_zoo() -> None:
    (shown,) = (text for text in blocks("text") if "verdict" in text)
    header, _, *body = rows(shown)
    models = {row[0]: dict(zip(header, row, strict=True)) for row in body[:-1]}
    zoo = {path.parent.name for path in ROOT.glob("models/*/spec.toml")}
    assert set(models) == zoo
    for name, row in models.items():
        design = Design.load(ROOT / "models" / name / "design.json")
        assert design.certificate is not None
        assert row["score"] == f"{design.metrics.score:,.3f}", name
        assert row["solver's bound"] == f"{design.certificate.bound:,.3f}", name
        assert row["verdict"] == "proven"
        bound, score = (float(row[key].replace(",", "")) for key in ("independent bound", "score"))
        assert (bound - score) / score == pytest.approx(float(row["gap"]), rel=0.06, abs=2e-8), name
        assert bound >= score


def test_the_table_of_proofs_is_what_is_printed() -> None:
    """Toy's row and the frame of the table, all but the seconds."""
    folder = ROOT / "models" / "toy"
    spec, design = Spec.load(folder / "spec.toml"), Design.load(folder / "design.json")
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table([Model("toy", spec, design, verify(spec, design, evaluations=1000))]))
    _, header, _, toy = (row for row in rows(console.export_text()) if row != [""])
    (shown,) = (text for text in blocks("text") if "verdict" in text)
    assert rows(shown)[0] == header
    assert [row[:-1] for row in rows(shown) if row[0] == "toy"] == [toy[:-1]]


def test_the_extras_are_those_of_the_project() -> None:
    (sentence,) = re.findall(r"^Extras: (.*?)\. In a checkout", README, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", sentence)) >= EXTRAS
    assert set(re.findall(r"mad-ip\[([a-z]+)\]", README)) <= EXTRAS


def test_the_chain_of_rooms_is_that_of_the_code() -> None:
    (chain,) = (text for text in blocks("text") if "->" in text)
    file, *rooms = (room.strip() for room in chain.split("->"))
    assert (ROOT / "models" / "toy" / file).exists()
    for room in rooms:
        assert (ROOT / "mad_ip" / f"{room}.py").exists() or (ROOT / "mad_ip" / room / "__init__.py").exists(), room


def test_links_and_pictures_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert targets
    for target in targets:
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), flags=re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, target
