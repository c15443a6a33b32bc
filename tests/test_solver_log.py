"""--log: what the solver says of its work, in a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mad_ip import cli
from mad_ip.backends import Profile
from mad_ip.errors import InputError
from mad_ip.solve import solve
from mad_ip.spec import Spec

ROOT = Path(__file__).parents[1]
TOY = ROOT / "models" / "toy" / "spec.toml"
REPORT = {"highs": "Solving report", "scip": "SCIP Status        : problem is solved"}


@pytest.mark.parametrize("solver", REPORT)
def test_the_log_is_that_of_this_solve(solver: str, tmp_path: Path) -> None:
    """By the process that solves, and without what an earlier solve left."""
    spec = tmp_path / "spec.toml"
    spec.write_text(TOY.read_text().replace("{min = 1, max = 4}", "2"))
    log = tmp_path / "solver.log"
    log.write_text("of an earlier solve\n")
    solve(Spec.load(spec), profile=Profile(solver, log=str(log)))
    text = log.read_text()
    assert text.count(REPORT[solver]) == 1
    assert "earlier" not in text


@pytest.mark.parametrize("solver", ["cpsat", "glpk", "decomposition", "enumerate"])
def test_other_backends_have_none(solver: str, tmp_path: Path) -> None:
    log = tmp_path / "solver.log"
    with pytest.raises(InputError, match=f"--log = .*: the backend '{solver}' has no log of its own"):
        solve(Spec.load(TOY), profile=Profile(solver, log=str(log)))
    assert not log.exists()


@pytest.mark.parametrize(
    ("spec", "arguments", "sentence"),
    [
        (TOY, ["--log", "none/solver.log"], "--log = none/solver.log: its folder does not exist"),
        (TOY, ["--log", "a", "--out", "a"], "--log = a: would take the place of another file"),
        (TOY, ["--log", "a", "--top", "2"], "--log = a: the backend 'decomposition' has no log of its own"),
        (ROOT / "examples" / "mlp.toml", ["--log", "a"], "--log = a: .*mlp.toml is an MLP, which has an exact method"),
    ],
)
def test_a_place_or_a_method_without_a_log_is_refused_first(
    spec: Path, arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        cli.app(["solve", str(spec), "--quiet", *arguments], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []
