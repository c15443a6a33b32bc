"""Sampled designs: in the shell that enumeration finds, spread, reproducible, with proven optima among them."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from mad_ip import sampling
from mad_ip.cli import main
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.sampling import sample
from mad_ip.solve import InfeasibleError, NoDesignError, solve
from mad_ip.spec import Budget, Input, Space, Spec, Stage, Stem, Tail

MODELS = Path(__file__).parent.parent / "models"
TOY = MODELS / "toy" / "spec.toml"

SMALL = Spec(
    name="small",
    input=Input(resolution=32, classes=10),
    budget=Budget(macs=1_600_000, params=12_000),
    space=Space(mid_ratio=(0.5, 2.0)),
    stem=Stem(kernel=3, stride=1, channels=(8, 12), weight=1.0),
    stages=(
        Stage("basic", 2, (8, 12, 16), (8, 16), (3,), (1, 2, 3), 1.0),
        Stage("inverted_se", 2, (16, 24), (16, 32), (3, 5), (1, 2, 3), 8.0),
    ),
    tail=Tail((16, 32)),
)


def limited(spec: Spec, **limits: Any) -> Spec:
    return dataclasses.replace(spec, budget=Budget(**limits), sha256="")


def shell(spec: Spec, fill: float) -> set[Any]:
    """The paths that enumeration finds within the budgets, with at least ``fill`` of every sum spent."""
    return {
        found.path
        for found in oracle.architectures(spec)
        if oracle.fits(spec.budget, found)
        and all(getattr(found, key) >= fill * limit for key, limit in spec.budget.sums.items())
    }


def shares(spec: Spec, design: Design) -> list[float]:
    return [design.spent(key) / limit for key, limit in spec.budget.sums.items()]


BUDGETS = (
    {"macs": 1_600_000, "params": 12_000},
    {"macs": 1_600_000, "params": 12_000, "effectiveness": 0.5},
    {"params": 12_000, "layers": 14},
    {"effectiveness": 0.22},
)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("convention", ["paper", "tinynas"])
def test_all_of_a_small_shell_is_found(
    budget: dict[str, float], convention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(limited(SMALL, **budget), convention=convention)
    expected = shell(spec, 0.8)
    assert expected
    monkeypatch.setattr(sampling, "_default_values", lambda *_: [])
    designs = sample(spec, len(expected), fill=0.8)
    assert {design.path for design in designs} == expected
    for design in designs:
        assert violations(spec, design) == []
        assert design.spec_sha256 == spec.sha256
    with pytest.raises(InputError, match=f"only {len(expected)} random designs .* {len(expected) + 1} are needed"):
        sample(spec, len(expected) + 1, fill=0.8)


@pytest.mark.parametrize("space", [Space(), Space(monotone=False), Space(growth=1.5, mid_ratio=(0.5, 2.0))], ids=str)
def test_a_walk_finds_nearly_all_of_a_small_shell(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_LISTED", 0)
    monkeypatch.setattr(sampling, "_STEPS", 700)
    monkeypatch.setattr(sampling, "_COLD", 200)
    spec = dataclasses.replace(SMALL, space=space, sha256="")
    expected = shell(spec, 0.8)
    drawn = sampling._Shell(spec, 0.8)
    rows, _ = sampling._pool(drawn, 1, np.random.default_rng(0), lambda: None)
    found = {drawn.population.path(row) for row in rows}
    assert found <= expected
    assert len(found) >= 0.9 * len(expected)


@pytest.mark.parametrize("model", ["deepmad-r18", "mcu-f412", "e3d-s"])
def test_budgets_of_real_specs_are_spent(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also memory and flash, and clips; few walkers take a few seconds."""
    monkeypatch.setattr(sampling, "_WALKERS", 64)
    monkeypatch.setattr(sampling, "_STEPS", 1000)
    monkeypatch.setattr(sampling, "_COLD", 700)
    spec = Spec.load(MODELS / model / "spec.toml")
    designs = sample(spec, 3, fill=0.9)
    assert len({design.path for design in designs}) == 3
    for design in designs:
        assert violations(spec, design) == []
        assert min(shares(spec, design)) >= 0.9
        assert Design.from_content(json.loads(design.to_json())).metrics == design.metrics


def test_starts_keep_the_rules() -> None:
    spec = Spec.load(MODELS / "mobile" / "spec.toml")
    start = sampling._Shell(limited(spec), 0.95)
    rows = start.starts(500, np.random.default_rng(0))
    assert (start.measure(rows).energy == 0).all()


def test_choices_are_spread_over_what_the_shell_has() -> None:
    expected = {path: Design.chosen(SMALL, path).metrics.effectiveness for path in shell(SMALL, 0.8)}
    chosen = [design.path for design in sample(SMALL, 10, fill=0.8, effectiveness=[50.0])[:-1]]
    for segment in range(len(SMALL.segments)):
        for axis in range(4):
            assert {path[segment][axis] for path in chosen} == {path[segment][axis] for path in expected}
    ratios = np.log(list(expected.values()))
    least, largest = np.quantile((np.log([expected[path] for path in chosen]) - ratios.min()) / np.ptp(ratios), [0, 1])
    assert least < 0.2
    assert largest > 0.8


def test_more_designs_are_the_same_and_further_ones() -> None:
    spec = Spec.load(TOY)
    few, more, others = sample(spec, 3), sample(spec, 3, seed=1), sample(spec, 7, effectiveness=[0.5])
    assert few == sample(spec, 3)
    assert [design.name for design in few] == ["random-01", "random-02", "random-03"]
    assert others[:3] == few
    # The space is listed, so that the seed has nothing to decide.
    assert more == few


def test_the_seed_decides_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_LISTED", 0)
    monkeypatch.setattr(sampling, "_STEPS", 400)
    monkeypatch.setattr(sampling, "_COLD", 200)
    monkeypatch.setattr(sampling, "_WALKERS", 16)
    assert sample(SMALL, 2, fill=0.9) == sample(SMALL, 2, fill=0.9)
    assert sample(SMALL, 2, fill=0.9) != sample(SMALL, 2, fill=0.9, seed=1)


def test_optima_are_those_of_a_solve(in_this_process: Callable[..., Any]) -> None:
    spec = Spec.load(TOY)
    designs = sample(spec, 6, effectiveness=[0.6, 0.5, 0.25])
    assert [design.name for design in designs[3:]] == ["optimum-0.25", "optimum-0.5", "optimum-0.6"]
    for design, value in zip(designs[3:], (0.25, 0.5, 0.6), strict=True):
        limits = dict(spec.budget.limits)
        problem = spec if value == 0.5 else limited(spec, effectiveness=value, **limits)
        assert design.path == solve(problem).path
        assert design.spec_sha256 == problem.sha256
        assert design.certificate is not None
        assert design.certificate.status == "optimal"
        assert violations(problem, design) == []
    relaxed = limited(spec, effectiveness=0.6, **dict(spec.budget.limits))
    for design in designs[:3]:
        own = design.spec_sha256 == spec.sha256
        assert own == (design.metrics.effectiveness <= 0.5)
        assert violations(spec if own else relaxed, design) == []


def test_an_optimum_stands_once(in_this_process: Callable[..., Any]) -> None:
    """Where values share an optimum, and where the optimum is one of the random designs."""
    designs = sample(SMALL, 8, fill=0.8, effectiveness=[50.0, 60.0])
    assert [design.name for design in designs if design.certificate] == ["optimum-50"]
    assert len({design.path for design in designs}) == 8
    spec = limited(SMALL, macs=1_600_000, params=12_000, effectiveness=50.0)
    everything = shell(spec, 0.8)
    best = solve(spec).path
    number = len(everything | {best})
    designs = sample(spec, number, fill=0.8, effectiveness=[50.0])
    assert {design.path for design in designs} == everything | {best}


def test_default_optima(in_this_process: Callable[..., Any]) -> None:
    """The limit and its halves as far as random designs go, for a quarter of the designs; one without a limit."""
    spec = Spec.load(TOY)
    # One of the first 14 random designs is an optimum.
    names = [design.name for design in sample(spec, 16)]
    assert names == [*(f"random-{number:02}" for number in range(1, 16) if number != 11), "optimum-0.25", "optimum-0.5"]
    assert [design.name for design in sample(SMALL, 4, fill=0.8)][3:] == ["optimum"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"number": 0}, "--number = 0: must be at least 1"),
        ({"number": 1, "effectiveness": [0.1, 0.2]}, "--number = 1: must be at least 2, one for each --effectiveness"),
        ({"fill": 0.0}, "--fill = 0.0: must be"),
        ({"fill": 1.5}, "--fill = 1.5: must be"),
        ({"fill": float("nan")}, "--fill = nan: must be"),
        ({"effectiveness": [-1.0]}, "--effectiveness = -1.0: must be"),
        ({"effectiveness": [float("inf")]}, "--effectiveness = inf: must be"),
    ],
)
def test_bad_arguments(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        sample(SMALL, **{"number": 4, **options})


@pytest.mark.parametrize("listed", [True, False])
def test_budgets_that_cannot_be_spent_together(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not listed:
        monkeypatch.setattr(sampling, "_LISTED", 0)
        monkeypatch.setattr(sampling, "_WALKERS", 64)
        monkeypatch.setattr(sampling, "_STEPS", 400)
        monkeypatch.setattr(sampling, "_COLD", 200)
    spec = limited(SMALL, macs=1_600_000, params=100_000)
    best = max(
        min(found.macs / 1_600_000, found.params / 100_000)
        for found in oracle.architectures(spec)
        if oracle.fits(spec.budget, found)
    )
    with pytest.raises(InputError, match="--fill must be lower") as raised:
        sample(spec, 3)
    assert f"to spend of each is {int(best * 1e4) / 1e4:g}," in str(raised.value)
    assert sample(spec, 1, fill=int(best * 1e4) / 1e4)
    with pytest.raises(InputError, match="none was found within all limits"):
        sample(limited(SMALL, macs=4000), 3)


def test_interruption() -> None:
    with pytest.raises(NoDesignError, match="stopped"):
        sample(SMALL, 3, fill=0.8, interrupted=lambda: True)


def test_a_value_without_a_design(in_this_process: Callable[..., Any]) -> None:
    with pytest.raises(InfeasibleError, match=r"--effectiveness = 0\.001: "):
        sample(Spec.load(TOY), 3, effectiveness=[0.001, 0.5])


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``mad-ip sample`` in this process."""
    monkeypatch.setattr(sys, "argv", ["mad-ip", "sample", *map(str, arguments), "--quiet"])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_command_writes_designs_and_an_index_and_keeps_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_this_process: Callable[..., Any],
) -> None:
    spec, out = Spec.load(TOY), tmp_path / "runs"
    assert command(monkeypatch, TOY, "--number", 4, "--effectiveness", 0.25, "--out", out) == 0
    printed = capsys.readouterr().out
    names = ["random-01", "random-02", "random-03", "optimum-0.25"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{name}.json" for name in names), "index.csv"])
    with (out / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["design"] for row in rows] == [f"{name}.json" for name in names]
    for row in rows:
        design = Design.load(out / row["design"])
        assert design.name == Path(row["design"]).stem
        assert design.name in printed
        for key in ("macs", "params", "effectiveness", "layers", "entropy"):
            assert float(row[key]) == getattr(design.metrics, key)
        assert [float(row["macs_share"]), float(row["params_share"])] == shares(spec, design)

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.json")}
    index = (out / "index.csv").read_bytes()
    assert command(monkeypatch, TOY, "--number", 4, "--effectiveness", 0.25, "--out", out) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.json")} == before
    assert (out / "index.csv").read_bytes() == index

    # More of the same stand beside them; others are refused, at once and without a trace.
    assert command(monkeypatch, TOY, "--number", 5, "--effectiveness", 0.25, "--out", out) == 0
    content = {path: path.read_bytes() for path in out.iterdir()}
    assert len(content) == 6
    monkeypatch.setattr(sampling, "_optimum", lambda *_: pytest.fail("solved before the folder was looked at"))
    capsys.readouterr()
    assert command(monkeypatch, TOY, "--number", 4, "--fill", 0.5, "--effectiveness", 0.25, "--out", out) == 2
    assert "random-01.json in it is another design" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == content


def test_command_refuses_bad_places_and_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    mlp = Path(__file__).parent.parent / "examples" / "mlp.toml"
    for arguments, sentence in (
        ((TOY, "--out", file), "cannot be made (File exists); must be a folder"),
        ((TOY, "--out", file / "runs"), "cannot be made (Not a directory)"),
        ((mlp, "--out", tmp_path / "runs"), "must be a spec of a CNN"),
        ((TOY, "--out", tmp_path / "runs", "--number", 0), "--number = 0"),
        ((TOY, "--out", tmp_path / "runs", "--fill", 0), "--fill = 0.0"),
    ):
        assert command(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "random-01.json").write_text("{")
    assert command(monkeypatch, TOY, "--out", tmp_path / "runs", "--number", 1) == 2
    assert "random-01.json: not a JSON file" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["random-01.json"]
