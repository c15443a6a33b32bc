"""mad-ip init: what it writes is read, explained, feasible and solved; what cannot be is one sentence."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mad_ip import start
from mad_ip.cli import main
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.solve import solve
from mad_ip.spec import FAMILIES, Spec

ROOT = Path(__file__).parent.parent
TOY = ROOT / "models" / "toy" / "design.json"

CONCATENATED = """
import torch
from torch import nn

class Fire(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.squeeze = nn.Conv2d(16, 8, 1, bias=False)
        self.one = nn.Conv2d(8, 8, 1, bias=False)
        self.three = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 7)

    def forward(self, x):
        x = self.squeeze(self.stem(x))
        x = torch.cat([self.pool(self.one(x)), self.three(x)], 1)
        return self.head(x.mean((2, 3)))
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``mad-ip init``."""
    monkeypatch.setattr("sys.argv", ["mad-ip", "init", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def read(text: str) -> Spec:
    return Spec.from_table(tomllib.loads(text), source="spec.toml")


# The frame ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("resolution", "last"), [(8, 8), (20, 5), (28, 7), (32, 8), (64, 8), (96, 6), (160, 5), (224, 7), (384, 12)]
)
def test_every_family_fits_usual_resolutions(family: str, resolution: int, last: int) -> None:
    frame = start.frame("name", family, resolution, 10)
    spec = Spec.from_table(start.table_of(frame, {"macs": 1e9}))
    assert spec.resolutions[-1] == last
    assert spec.input.resolution == resolution
    assert {stage.block for stage in spec.stages} == {family}


def test_the_frame_of_224_pixels_is_that_of_the_paper() -> None:
    frame = start.frame("name", "bottleneck", 224, 1000)
    zoo = Spec.load(ROOT / "models" / "deepmad-r18" / "spec.toml")
    assert (frame.stem_stride, *frame.strides) == (zoo.stem.stride, *(stage.stride for stage in zoo.stages))


@pytest.mark.parametrize(
    ("resolution", "sentence"),
    [
        (225, "--resolution = 225: must be a multiple of 32, as 224 and 256 are, to be halved 5 times"),
        (30, "--resolution = 30: must be a multiple of 4, as 28 and 32 are, to be halved 2 times"),
    ],
)
def test_a_resolution_that_cannot_be_halved(resolution: int, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        start.frame("name", "basic", resolution, 10)
    assert str(caught.value) == sentence


# What is written ------------------------------------------------------------------------------------------------------


def test_every_key_is_explained_where_it_comes_first() -> None:
    frame = start.frame("name", "inverted", 96, 10)
    table = start.table_of(frame, {"macs": 3e7, "flash": "1 MB"}, "stm32f746")
    text = start.commented(table, "Head.")
    assert tomllib.loads(text) == table
    assert all(len(line) <= 120 for line in text.splitlines())
    section, explained, number = "", set(), 0
    before = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif key := re.match(r"(\w+) = ", line):
            if before.startswith("# "):
                explained.add((section, key[1]))
            assert (section, key[1]) in explained
            number += 1
        before = line
    assert number > 30
    assert "# Family of the blocks: one of basic, bottleneck, inverted, inverted_se\n" in text
    assert "# Side of the square image, pixels: an integer of at least 1 and at most 65536\n" in text


@pytest.mark.parametrize("family", ["basic", "inverted"])
def test_a_small_spec_is_solved_as_written(family: str) -> None:
    text = start.first(Path("spec.toml"), {"macs": 1e6}, resolution=32, family=family, classes=10)
    spec = read(text)
    assert spec.budget.macs == 1e6
    assert {stage.block for stage in spec.stages} == {family}
    design = solve(spec, gap=0.05)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert violations(spec, design) == []
    assert design.metrics.macs > 0.9e6


def test_a_limit_that_is_given_stays() -> None:
    text = start.first(
        Path("spec.toml"), {"macs": 4e6, "effectiveness": 0.7}, resolution=32, family="basic", name="mine"
    )
    spec = read(text)
    assert spec.budget.effectiveness == 0.7
    assert spec.name == "mine"


def test_a_board_sets_budgets() -> None:
    spec = read(start.first(Path("spec.toml"), {}, resolution=32, device="stm32f412", classes=2))
    assert spec.budget.activation == 256_000
    assert spec.budget.flash == 1_000_000
    assert spec.input.classes == 2


def test_times_are_found_from_where_the_spec_is(tmp_path: Path) -> None:
    device = ROOT / "models" / "r18-latency" / "device.toml"
    path = tmp_path / "spec.toml"
    path.write_text(start.first(path, {"latency": "5 ms"}, resolution=32, family="bottleneck", device=str(device)))
    spec = Spec.load(path)
    assert spec.budget.latency == 5e12
    assert spec.device is not None
    assert spec.device.latency is not None


# Around a network -----------------------------------------------------------------------------------------------------


def test_like_a_design() -> None:
    design = Design.load(TOY)
    spec = read(start.first(Path("spec.toml"), {}, like=str(TOY)))
    assert [stage.stride for stage in spec.stages] == [stage.stride for stage in design.stages]
    assert {stage.block for stage in spec.stages} == {"bottleneck"}
    assert (spec.budget.macs, spec.budget.params) == (design.metrics.macs, design.metrics.params)
    assert (spec.input.resolution, spec.input.classes) == (32, 10)


def test_like_a_network_whose_main_path_is_not_understood(tmp_path: Path) -> None:
    (tmp_path / "fire.py").write_text(CONCATENATED)
    frame, costs = start.around(f"{tmp_path}/fire.py:Fire", 32, None)
    assert (frame.family, frame.stem_stride, frame.strides, frame.classes) == ("bottleneck", 2, (2,), 7)
    # Stem, squeeze and 1 x 1 on 16 x 16 pixels, 3 x 3 on 8 x 8, classifier.
    assert costs["macs"] == 256 * (27 * 16 + 16 * 8 + 8 * 8) + 64 * 72 * 8 + 16 * 7
    assert costs["params"] == 27 * 16 + 16 * 8 + 8 * 8 + 72 * 8 + 16 * 7 + 7


@pytest.mark.parametrize(
    ("name", "family", "strides", "tail"),
    [
        ("mobilenet_v3_large", "inverted_se", (1, 2, 2, 2, 2), True),
        ("shufflenet_v2_x1_0", "inverted", (2, 2, 2, 2), True),
    ],
)
def test_like_a_network_of_torchvision(name: str, family: str, strides: tuple[int, ...], tail: bool) -> None:
    frame, _ = start.around(f"torchvision:{name}")
    assert (frame.family, frame.stem_stride, frame.strides, frame.tail) == (family, 2, strides, tail)
    assert (frame.resolution, frame.classes) == (224, 1000)


def test_a_network_that_does_not_halve_is_refused() -> None:
    with pytest.raises(InputError, match=r"squeezenet1_0: from 109 to 54 pixels: a stage must keep or halve"):
        start.around("torchvision:squeezenet1_0")


# One sentence for everything else -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--macs, --params, --device or --like is missing"]),
        (["--resolution", 32], ["--macs, --params, --device or --like is missing"]),
        (["--params", 100], ["budget.params = 100: no network of this form takes less than ", "must be at least that"]),
        (["--macs", 1e6, "--resolution", 224], ["budget.macs = 1,000,000: no network of this form takes less than "]),
        (
            ["--macs", 1e8, "--device", "stm32f412", "--activation", "1 kB"],
            [
                "budget.activation = 1,000 bytes: no network of this form takes less than ",
                "bytes; must be at least that",
            ],
        ),
        (
            ["--macs", 1e6, "--resolution", 32, "--effectiveness", 0.01],
            ["no network of this form is found within budget.macs, budget.effectiveness; one must be larger"],
        ),
        (["--macs", -1], ["budget.macs = -1", "must be a finite number greater than 0"]),
        (["--macs", 1e8, "--resolution", 225], ["--resolution = 225", "multiple of 32"]),
        (["--macs", 1e8, "--family", "resnet"], ["--family = resnet: must be one of basic, bottleneck"]),
        (["--macs", 1e8, "--device", "stm32"], ["--device = stm32", "stm32f412"]),
        (["--macs", 1e8, "--flash", "1 mb"], ["budget.flash = '1 mb'", "kB"]),
        (["--macs", 1e8, "--latency", "8 ms"], ["budget.latency", "device.toml"]),
        (["--like", "resnet18"], ["resnet18: must be a design.json, torchvision:NAME"]),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[Any],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(monkeypatch, *arguments, "--out", tmp_path / "spec.toml") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert all(part in captured.err for part in parts), captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_kept_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text("mine")
    monkeypatch.setattr(start, "first", lambda *_, **__: "another")
    arguments = ["--macs", 1e6, "--out", path]
    assert run(monkeypatch, *arguments) == 2
    assert "there is such a file; --force replaces it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert run(monkeypatch, *arguments, "--force") == 0
    assert path.read_text() == "another"


def test_questions_are_asked_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"Side of": 32, "Classes": 10, "Family": "basic", "Multiply": 4e6, "Parameters": 1e5}

    def answer(question: str, *_: object, **__: object) -> object:
        return next(value for start, value in answers.items() if question.startswith(start))

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", answer)
    assert run(monkeypatch) == 0
    spec = read(capsys.readouterr().out)
    assert (spec.input.resolution, spec.input.classes, spec.budget.macs, spec.budget.params) == (32, 10, 4e6, 1e5)
    assert spec.stages[0].block == "basic"
