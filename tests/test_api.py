"""What a notebook calls: import mad_ip, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mad_ip
from mad_ip.errors import InputError

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
