"""The fault injector: a share of its kills, and results, files and processes that it must not let pass."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import Any

import pytest
from rich.console import Console

from mad_ip.design import Certificate, Design
from tools import faults as injector
from tools.faults import SCENARIOS, Reference, Scenario, Strike, inject, judged, main, report, strikes, undisturbed

TOY = Path(__file__).parent.parent / "models" / "toy" / "design.json"
SOLVE = SCENARIOS[0]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by what /proc says of them")


# Kills ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return undisturbed(SOLVE, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    ("target", "number", "moment"),
    [
        ("main", SIGKILL, 0.6),
        ("solver", SIGKILL, 0.2),
        ("solver", SIGKILL, 0.7),
        ("main", SIGTERM, 0.6),
        ("everyone", SIGHUP, 0.7),
    ],
)
def test_a_solve_that_is_struck_says_nothing_wrong(
    target: str, number: Any, moment: float, reference: Reference, tmp_path: Path
) -> None:
    result = inject(Strike(SOLVE, target, number, moment, 0.0), reference, tmp_path / "run")
    assert not result.faults, result


def test_an_undisturbed_run_is_known_by_its_processes(reference: Reference) -> None:
    assert set(reference.lives) == {0, 1}
    (first, last), *more = reference.lives[1]
    assert 0 < first < last <= reference.seconds
    assert not more
    assert reference.scores["design.json"] == pytest.approx(reference.scores[""])


def test_moments_are_those_of_the_seed() -> None:
    found = strikes(SOLVE, 3, 2, Random(0))
    assert found == strikes(SOLVE, 3, 2, Random(0))
    assert found != strikes(SOLVE, 3, 2, Random(1))
    assert len(found) == 2 * 3 + 3 * 3 * 2
    assert all(0 <= strike.moment < 1 for strike in found)


# What it must see -----------------------------------------------------------------------------------------------------


def lesser(design: Design) -> Design:
    """A design of one block less that claims the same of itself."""
    first, *others = design.stages
    stages = (dataclasses.replace(first, depth=first.depth - 1), *others)
    names = ("name", "spec_sha256", "convention", "resolution", "image_channels", "stem", "tail", "classes")
    given = {name: getattr(design, name) for name in names}
    found = Design.create(beta=10.0, stages=stages, **given)
    return dataclasses.replace(found, certificate=certified(design, bound=found.metrics.score, gap=0.0))


def certified(design: Design, **changes: Any) -> Certificate:
    assert design.certificate is not None
    return dataclasses.replace(design.certificate, **changes)


def as_it_is(files: Path) -> None:
    shutil.copy(TOY, files)


def feasible(files: Path) -> None:
    design = Design.load(TOY)
    score = design.metrics.score
    bound = score * 1.01
    certificate = certified(design, status="feasible", bound=bound, gap=(bound - score) / score)
    dataclasses.replace(design, certificate=certificate).save(files / "design.json")


def falsely_optimal(files: Path) -> None:
    lesser(Design.load(TOY)).save(files / "design.json")


def falsely_bounded(files: Path) -> None:
    design = lesser(Design.load(TOY))
    certificate = certified(design, status="feasible")
    dataclasses.replace(design, certificate=certificate).save(files / "design.json")


def half(files: Path) -> None:
    (files / "design.json").write_bytes(TOY.read_bytes()[:500])


def falsified(files: Path) -> None:
    content = json.loads(TOY.read_bytes())
    content["stages"][0]["depth"] -= 1
    (files / "design.json").write_text(json.dumps(content))


def temporary(files: Path) -> None:
    as_it_is(files)
    (files / ".design.json.abc.tmp").touch()


def foreign(files: Path) -> None:
    as_it_is(files)
    (files / "core").touch()


def reported(files: Path) -> None:
    run = {"spec": "toy", "solver": "highs", "status": "not run", "score": None, "bound": None, "trace": []}
    (files / "report.json").write_text(json.dumps({"runs": [run]}))


def reported_falsely(files: Path) -> None:
    reported(files)
    content = (files / "report.json").read_text()
    (files / "report.json").write_text(content.replace("not run", "optimal").replace("null", "10000", 1))


def nothing(files: Path) -> None:
    pass


def known(place: Path) -> Reference:
    """A run that left the optimum."""
    folder = place / "undisturbed"
    folder.mkdir()
    as_it_is(folder)
    score = Design.load(TOY).metrics.score
    return Reference(folder, 1.0, {}, {"design.json": score, "": score})


SENTENCE = "mad-ip: stopped before any design was found\n"
TRACEBACK = "Traceback (most recent call last):\nKeyboardInterrupt\n"


@pytest.mark.parametrize(
    ("leave", "status", "errors", "expected"),
    [
        (as_it_is, 0, "", "optimal"),
        (as_it_is, -SIGTERM, "", "optimal"),
        (feasible, 3, "", "feasible"),
        (nothing, 3, SENTENCE, "stopped"),
        (reported, 3, "", "stopped"),
        (reported_falsely, 3, "", "toy, highs: is optimal with score 10000"),
        (nothing, 3, "", "ends with status 3 and no sentence"),
        (nothing, 1, SENTENCE, "ends with status 1: mad-ip: stopped"),
        (nothing, -SIGTERM, "", "ends with status -15"),
        (nothing, 0, "", "design.json: is missing"),
        (feasible, 0, "", "is not proven optimal"),
        (feasible, 3, TRACEBACK, "prints a traceback: KeyboardInterrupt"),
        (falsely_optimal, 0, "", "is optimal with score"),
        (falsely_bounded, 3, "", "is below the optimum"),
        (half, 3, SENTENCE, "design.json: is not whole"),
        (falsified, 0, "", "design.json: is not whole"),
        (temporary, 0, "", ".design.json.abc.tmp: is left"),
        (foreign, 0, "", "core: is not there undisturbed"),
    ],
)
def test_what_is_wrong_is_seen(
    leave: Callable[[Path], None], status: int, errors: str, expected: str, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    leave(files)
    outcome, faults = judged(Strike(SOLVE, "main", SIGTERM, 0.5, 0.0), known(tmp_path), files, status, "", errors)
    if faults:
        assert any(expected in fault for fault in faults)
    else:
        assert outcome == expected


def test_after_a_kill_a_temporary_file_may_be_left(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / ".design.json.abc.tmp").touch()
    reference = known(tmp_path)
    for target, status, errors, left in (("main", -SIGKILL, "", False), ("solver", 3, SENTENCE, True)):
        _, faults = judged(Strike(SOLVE, target, SIGKILL, 0.5, 0.0), reference, files, status, "", errors)
        assert faults == [".design.json.abc.tmp: is left"] * left


LIAR = """
import pathlib, subprocess, sys, time

if "undisturbed" not in str(pathlib.Path.cwd()):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    pathlib.Path("result.json").write_text("{")
time.sleep(2)
pathlib.Path("result.json").write_text("{}")
"""


def test_a_command_that_lies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Scenario("liar", ("main",), "liar", lambda files: (files / "liar.py").write_text(LIAR))
    strike = Strike(liar, "main", SIGKILL, 0.9, 0.0)
    monkeypatch.setattr(injector, "PATIENCE", 0.2)
    monkeypatch.setattr(injector, "SCENARIOS", (liar,))
    monkeypatch.setattr(injector, "strikes", lambda *_: [strike])
    out = tmp_path / "faults"
    with (tmp_path / "printed").open("w") as stream:
        (result,) = report([liar], 1, 0, 0, out, Console(file=stream, width=120))
    left, broken = result.faults
    assert "time.sleep(60)" in left
    assert broken.startswith("result.json: is not whole")
    told = f"{strike}, after"
    assert (out / "liar" / "0000" / "faults").read_text().startswith(told)
    assert told in (tmp_path / "printed").read_text()
    assert json.loads((out / "results.json").read_text())[0]["faults"] == [left, broken]
    assert main(["--kills", "1", "--signals", "0", "--out", str(out)]) == 1
