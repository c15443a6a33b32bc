"""Structures of the reference toolbox: what a file says is what the design has, and back."""

from __future__ import annotations

import ast
import dataclasses
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mad_ip import tinynas
from mad_ip.cli import app
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError

PUBLISHED = sorted((Path(__file__).parent.parent / "models" / "published").glob("*.json"))

R18 = """{ 'best_structures':[ [
 {'class': 'ConvKXBNRELU', 'in': 3, 'k': 3, 'out': 32, 's': 2},
 {'L': 1, 'btn': 40, 'class': 'SuperResK1KXK1', 'in': 32, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 96, 's': 2},
 {'L': 6, 'btn': 40, 'class': 'SuperResK1KXK1', 'in': 96, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 384, 's': 2},
 {'L': 9, 'btn': 64, 'class': 'SuperResK1KXK1', 'in': 384, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 384, 's': 2},
 {'L': 10, 'btn': 104, 'class': 'SuperResK1KXK1', 'in': 384, 'inner_class': 'ResK1KXK1', 'k': 3, 'out': 1024, 's': 1},
 {'L': 12, 'btn': 104, 'class': 'SuperResK1KXK1', 'in': 1024, 'inner_class': 'ResK1KXK1', 'k': 5, 'out': 672, 's': 2}]],
 'space_arch': 'CnnNet'}
"""

R29M = """[{'class': 'ConvKXBNRELU', 'in': 3, 'k': 3, 'out': 40, 's': 2},
 {'L': 2, 'btn': 240, 'class': 'SuperResK1DWSEK1', 'in': 40, 'k': 5, 'out': 40, 's': 1},
 {'L': 4, 'btn': 512, 'class': 'SuperResK1DWSEK1', 'in': 40, 'k': 5, 'out': 85, 's': 2},
 {'L': 6, 'btn': 800, 'class': 'SuperResK1DWSEK1', 'in': 85, 'k': 5, 'out': 134, 's': 2},
 {'L': 6, 'btn': 1208, 'class': 'SuperResK1DWSEK1', 'in': 134, 'k': 5, 'out': 201, 's': 2},
 {'L': 5, 'btn': 1872, 'class': 'SuperResK1DWSEK1', 'in': 201, 'k': 5, 'out': 312, 's': 2},
 {'class': 'ConvKXBNRELU', 'in': 312, 'k': 1, 'out': 1792, 's': 1}]"""

R18_LIKE = """[{'class': 'ConvKXBNRELU', 'in': 3, 'k': 3, 'out': 40, 's': 2},
 {'L': 2, 'btn': 64, 'class': 'SuperResK1KXK1', 'in': 40, 'k': 3, 'out': 256, 's': 2},
 {'L': 3, 'btn': 88, 'class': 'SuperResK1KXK1', 'in': 256, 'k': 3, 'out': 360, 's': 2},
 {'L': 6, 'btn': 128, 'class': 'SuperResK1KXK1', 'in': 360, 'k': 3, 'out': 512, 's': 2},
 {'L': 4, 'btn': 176, 'class': 'SuperResK1KXK1', 'in': 512, 'k': 3, 'out': 512, 's': 2},
 {'L': 12, 'btn': 176, 'class': 'SuperResK1KXK1', 'in': 512, 'k': 3, 'out': 512, 's': 1}]"""


def blocks(text: str) -> list[dict[str, object]]:
    content = ast.literal_eval(text)
    found = content["best_structures"][0] if isinstance(content, dict) else content
    return [{"inner_class": str(b["class"])[5:], **b} if "L" in b else b for b in found]


@pytest.mark.parametrize(
    ("name", "text"), [("deepmad-r18", R18), ("deepmad-29m-224", R29M)], ids=["dictionary", "list"]
)
def test_a_published_file_is_the_published_design(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.txt"
    path.write_text(text)
    design = Design.load(PUBLISHED[0].with_name(f"{name}.json"))
    assert dataclasses.replace(tinynas.load(path), metrics=design.metrics) == design


@pytest.mark.parametrize("text", [R18, R29M, R18_LIKE])
def test_a_structure_survives_the_way_there_and_back(text: str) -> None:
    design = tinynas.to_design(ast.literal_eval(text), name="x")
    assert blocks(tinynas.to_structure(design)) == blocks(text)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_design_survives_the_way_there_and_back(path: Path) -> None:
    design = Design.load(path)
    content = ast.literal_eval(tinynas.to_structure(design))
    again = tinynas.to_design(content, name=design.name, resolution=design.resolution)
    # The penalty of the published depths is large, and its last digits depend on the platform's exponential.
    again.check()
    assert dataclasses.replace(again, metrics=design.metrics) == design


@pytest.mark.parametrize("seed", range(40))
def test_a_random_design_survives_but_for_its_weights(seed: int) -> None:
    rng = random.Random(seed)
    design = Design.create(
        beta=10.0,
        name="random",
        spec_sha256="",
        convention=rng.choice(("paper", "tinynas")),
        resolution=64,
        image_channels=rng.choice((1, 3)),
        stem=StemChoice(rng.choice((1, 3, 7)), rng.choice((1, 2, 4)), rng.randint(1, 99), 1),
        stages=tuple(
            StageChoice(
                rng.choice(("basic", "bottleneck", "inverted", "inverted_se")),
                rng.choice((1, 2)),
                rng.randint(1, 99),
                rng.randint(1, 99),
                rng.choice((1, 3, 5)),
                rng.randint(1, 9),
                1,
            )
            for _ in range(rng.randint(1, 5))
        ),
        tail=rng.choice((None, 77)),
        classes=rng.choice((0, 10)),
    )
    again = tinynas.to_design(
        ast.literal_eval(tinynas.to_structure(design)),
        name="random",
        resolution=64,
        classes=design.classes,
        convention=design.convention,
    )
    weightless = [
        dataclasses.replace(d, stem=dataclasses.replace(d.stem, weight=0), metrics=design.metrics,
                            stages=tuple(dataclasses.replace(s, weight=0) for s in d.stages))
        for d in (design, again)
    ]  # fmt: skip
    assert weightless[0] == weightless[1]
    assert (again.metrics.macs, again.metrics.params) == (design.metrics.macs, design.metrics.params)


def changed(position: int, **values: object) -> list[dict[str, object]]:
    structure = blocks(R18)
    structure[position] = {key: value for key, value in {**structure[position], **values}.items() if value is not ...}
    return structure


@pytest.mark.parametrize(
    ("structure", "sentence"),
    [
        (3, "must be a list of blocks"),
        ([], "must be a list of blocks"),
        ({"best_structures": []}, "best_structures = "),
        ([1], "block 1 = 1: must be a dictionary"),
        (changed(1, **{"class": "SuperResK1KX"}), "block 2: class = 'SuperResK1KX': must be one of"),
        (changed(1, **{"class": ["a"]}), "block 2: class = "),
        (changed(1, nbitsA=[8, 8, 8]), "block 2: nbitsA = .* has no counterpart"),
        (changed(0, L=2), "block 1: L = 2: has no counterpart"),
        (changed(1, btn=...), "block 2: btn is missing: must be an integer"),
        (changed(1, k=4), "block 2: k = 4: must be an odd integer"),
        (changed(1, s=3), "block 2: s = 3: must be 1 or 2"),
        (changed(1, L=True), "block 2: L = True: must be an integer"),
        (changed(1, L=10**400), "block 2: L = 1"),
        (changed(1, out=97), "block 3: in = 96: must be 97"),
        (changed(1, inner_class="ResKXKX"), "inner_class = 'ResKXKX': must be 'ResK1KXK1'"),
        (blocks(R18)[:1], "at least one of"),
        (blocks(R18)[1:], "must be one ConvKXBNRELU"),
        ([*blocks(R29M)[:-1], {**blocks(R29M)[-1], "k": 3}], "a tail must have"),
    ],
)
def test_what_does_not_fit_is_named(structure: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        tinynas.to_design(structure, name="x", source="net.txt")
    assert str(caught.value).startswith("net.txt: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "open('x')", "__import__('os').getcwd()", "\ud800"])
def test_a_file_is_never_evaluated(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="not a Python literal"):
        tinynas.load(path)


def test_the_command_line_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_text(R18)
    options = ["--resolution", "160", "--classes", "10", "--convention", "tinynas"]
    result = CliRunner().invoke(app, ["import", str(path), *options])
    assert result.exit_code == 0
    design = Design.load(tmp_path / "net.json")
    assert (design.name, design.resolution, design.classes, design.convention) == ("net", 160, 10, "tinynas")
    back = tmp_path / "back.txt"
    result = CliRunner().invoke(app, ["export", str(tmp_path / "net.json"), "--format", "tinynas", "--out", str(back)])
    assert result.exit_code == 0
    assert blocks(back.read_text()) == blocks(R18)


def test_the_command_line_refuses_another_convention(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text(R18)
    result = CliRunner().invoke(app, ["import", str(tmp_path / "net.txt"), "--convention", "other"])
    assert isinstance(result.exception, InputError)
    assert not list(tmp_path.glob("*.json"))


def test_a_design_does_not_take_the_place_of_its_structure(tmp_path: Path) -> None:
    structure = tmp_path / "structure.json"
    structure.write_text(R18)
    done = CliRunner().invoke(app, ["import", str(structure)])
    assert isinstance(done.exception, InputError)
    assert "--out is needed" in str(done.exception)
    assert structure.read_text() == R18
