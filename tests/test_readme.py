"""Every code block of the README runs: commands, Python, and what it shows as text is what is there."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from pages import COMMANDS, EXTRAS, MAIN, ROOT, copied, run_make, run_page
from pages import blocks as blocks_of
from rich.console import Console

from mad_ip.design import Design
from mad_ip.reports.verification import Model, table
from mad_ip.spec import Spec
from mad_ip.verification import verify

README = (ROOT / "README.md").read_text()
BLOCKS = blocks_of(README)
QUOTED = [code for code in re.findall(r"`([^`\n]+)`", README) if code.startswith(("make ", "mad-ip "))]
"""Commands within sentences."""


def blocks(kind: str) -> list[str]:
    return [block.content for block in BLOCKS if block.kind == kind]


def test_blocks_run_in_their_order(tmp_path: Path) -> None:
    commands = [words for block in BLOCKS if block.kind == "sh" for words in block.commands]
    assert not [block for block in BLOCKS if block.reason], "on this page everything runs"
    assert run_page(README, copied(tmp_path)) == len(commands) + len(blocks("python"))


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
