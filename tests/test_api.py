"""What a notebook calls: import mad_ip, and nothing else."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mad_ip
from mad_ip.errors import InputError
from mad_ip.spec import Budget, Space

ROOT = Path(__file__).parents[1]
TOY = ROOT / "models" / "toy" / "spec.toml"


def test_importing_loads_nothing_heavy() -> None:
    program = "import sys, mad_ip; print([name for name in ('torch', 'numba', 'pyomo', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_modules_are_called_and_stay_modules() -> None:
    program = (
        "import mad_ip, mad_ip.solve as module\n"
        "from mad_ip import sweep\n"
        "from mad_ip.solve import solve\n"
        "assert mad_ip.solve is module and module.solve is solve and sweep.sweep is mad_ip.sweep.sweep\n"
        "assert callable(module) and callable(sweep)\n"
        "assert {'solve', 'sweep', 'Spec', 'Design', 'explain', 'rank'} <= set(dir(mad_ip))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mad_ip.nothing  # noqa: B018


def test_solve_sweep_show(tmp_path: Path) -> None:
    spec = mad_ip.Spec.load(TOY)
    design = mad_ip.solve(spec)
    assert isinstance(design, mad_ip.Design)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert f"{design.metrics.macs:,}" in design._repr_html_()
    front = mad_ip.sweep(spec, {"macs": [10e6, 20e6]})
    assert isinstance(front, mad_ip.Front)
    assert front.points[1].design is not None
    assert front.points[1].design.metrics.score == pytest.approx(design.metrics.score, rel=1e-12)
    frame = front.to_pandas()
    assert list(frame["macs"]) == [10_000_000, 20_000_000]
    assert list(frame["status"]) == ["optimal", "optimal"]
    assert frame["score"].iloc[1] == front.points[1].design.metrics.score
    assert "optimal" in front._repr_html_()


STAGE = {
    "block": "bottleneck",
    "stride": 2,
    "channels": range(32, 129, 32),
    "mid": (8, 16),
    "kernel": 3,
    "depth": [1, 2],
}
TABLES: dict[str, Any] = {
    "input": {"resolution": 32, "classes": 10},
    "budget": {"macs": 20e6, "effectiveness": 0.9},
    "stem": {"kernel": 3, "stride": 1, "channels": 16},
}


def test_a_spec_built_in_code(tmp_path: Path) -> None:
    spec = mad_ip.Spec.create("coded", stages=[STAGE, STAGE], **TABLES)
    assert spec.stages[0].channels == (32, 64, 96, 128)
    # The defaults of a file.
    assert [stage.weight for stage in spec.stages] == [1, 8]
    spec.save(tmp_path / "spec.toml")
    again = mad_ip.Spec.load(tmp_path / "spec.toml")
    assert again == spec
    assert again.sha256 == spec.sha256
    assert mad_ip.solve(spec).spec_sha256 == again.sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [STAGE | {"block": "conv"}]}, r"stage\[1\]\.block = 'conv': must be one of basic"),
        ({"stages": [STAGE | {"depth": ()}]}, r"stage\[1\]\.depth = \[\]: must be a list of at least one integer"),
        ({"stages": []}, "stage"),
        ({"input": {"resolution": 33}}, "does not divide"),
        ({"budget": {"macs": -1}}, r"budget\.macs = -1: must be a finite number greater than 0"),
        ({"spaces": {}}, "spaces"),
    ],
)
def test_wrong_specs_in_code(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        mad_ip.Spec.create("wrong", **{"stages": [STAGE], **TABLES, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: {"stem": dataclasses.replace(spec.stem, kernel=4)}, r"stem\.kernel = 4: must be an odd integer"),
        (lambda spec: {"stem": dataclasses.replace(spec.stem, channels=(32, 16))}, "a tuple of ascending values"),
        (lambda spec: {"stages": (dataclasses.replace(spec.stages[0], block="x"),)}, r"stage\[1\]\.block = 'x'"),
        (lambda spec: {"stages": (dataclasses.replace(spec.stages[0], mid=(0,)),)}, r"stage\[1\]\.mid = \[0\]"),
        (lambda spec: {"stages": ()}, "from 1 to 64 tables"),
        (lambda spec: {"name": " "}, "name = ' '"),
        (lambda spec: {"convention": "mine"}, "convention = 'mine': must be one of paper, tinynas"),
        (lambda spec: {"budget": Budget(macs=math.nan)}, r"budget\.macs = nan"),
        (lambda spec: {"space": Space(mid_ratio=(1.0, 0.5))}, r"space\.mid_ratio"),
    ],
)
def test_wrong_parts_in_code(change: Any, said: str) -> None:
    spec = mad_ip.Spec.load(TOY)
    with pytest.raises(InputError, match=said):
        dataclasses.replace(spec, **change(spec), sha256="")


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    front = mad_ip.Front(mad_ip.Spec.load(TOY), ("macs",), ())
    with pytest.raises(InputError, match=r"pip install 'mad-ip\[pandas\]'"):
        front.to_pandas()


def test_the_example(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "examples" / "front.py"), str(TOY), str(tmp_path / "front")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "binding: params, effectiveness" in done.stdout
    assert done.stdout.count("one more unit of") == 3
    assert {path.name for path in (tmp_path / "front").iterdir()} >= {"front.csv", "designs", "index.html"}
