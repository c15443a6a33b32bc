"""The fuzzer: a share of its cases, and that it sees what is wrong when something is."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mad_ip.backends import Profile
from mad_ip.design import Design
from mad_ip.solve import solve
from mad_ip.spec import Spec
from tools.fuzz.cases import Case
from tools.fuzz.judge import LONGEST, MEMORY, PATIENCE, Outcome, judge
from tools.fuzz.material import DEVICES, SPECS, small_table
from tools.fuzz.shrink import shrunk
from tools.fuzz.values import broken, mutated, toml_bytes

ROOT = Path(__file__).parents[1]

forks = pytest.mark.skipif(sys.platform != "linux", reason="forks after torch is loaded, and limits, are Linux's")


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A script in a process that has no threads, as the fuzzer's own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@forks
def test_a_share_of_the_cases_ends_as_it_may(tmp_path: Path) -> None:
    # With patience: the machine may be busy with other tests.
    arguments = ("--cases", "150", "--seed", "1", "--patience", "20", "--out", tmp_path)
    done = run("import sys; from tools.fuzz.__main__ import main; sys.exit(main())", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 cases" in done.stdout
    assert "nothing found" in done.stdout


PLANTED = """
import sys
import mad_ip.cli
from mad_ip import tinynas
from tools.fuzz import __main__, cases
from tools.fuzz.material import STRUCTURE

right = tinynas.load

def load(path, **options):
    if b"btn" in path.read_bytes():
        raise KeyError("planted")
    return right(path, **options)

tinynas.load = load
__main__.prepare = lambda folder: {"structure.txt": STRUCTURE.encode()}
for kind in list(cases.KINDS):
    if kind != "structure":
        del cases.KINDS[kind]
sys.exit(__main__.main())
"""


@forks
def test_a_planted_fault_is_found_and_its_input_kept(tmp_path: Path) -> None:
    done = run(PLANTED, "--cases", "20", "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "KeyError in mad_ip/cli.py:read" in done.stdout
    (finding,) = tmp_path.glob("01-*/finding.txt")
    assert "command, in the folder input: mad-ip import structure.txt" in finding.read_text()
    assert "KeyError: 'planted'" in finding.read_text()
    assert b"btn" in (finding.parent / "input" / "structure.txt").read_bytes()


FAULTS = """
import os, sys, time
from pathlib import Path
import mad_ip.cli
from tools.fuzz import judge
from tools.fuzz.cases import Case
from tools.fuzz.work import run_one

judge.MEMORY = 50_000_000

def main():
    fault = sys.argv[1]
    if fault == "loop":
        while True:
            pass
    if fault == "sleep":
        time.sleep(60)
    if fault == "abort":
        os.abort()
    if fault == "hold":
        held = b"x" * 150_000_000
    if fault == "everything":
        held = b"x" * 10**13
    if fault == "child":
        os.system(f"{sys.executable} -c \\"x = b'x' * 150_000_000\\"")
    if fault == "write":
        print("output")
        sys.stderr.write("noise\\n")
    if fault == "exit":
        sys.exit(int(sys.argv[2]))
    if fault == "leave":
        Path(".out.json.tmp").touch()

mad_ip.cli.main = main
for words in sys.argv[2:]:
    print(words, "|", run_one(Case("", tuple(words.split())), Path(sys.argv[1]), 1.0).kind)
"""


@forks
def test_whatever_a_command_does_to_its_process_is_seen(tmp_path: Path) -> None:
    faults = {
        "nothing": "",
        "loop": "no end in time in outside of mad_ip",
        "sleep": "no end in time in outside of mad_ip",
        "abort": "the process ends with -6 in outside of mad_ip",
        "hold": "memory of hold",
        "everything": "MemoryError in outside of mad_ip",
        "child": "memory of child",
        "write": "write succeeds with noise on standard error: noise",
        "exit 1": "exit 1 of exit: ",
        "exit 2": "no lines on standard error with exit 2",
        "leave": "leave leaves a temporary file",
    }
    done = run(FAULTS, tmp_path, *faults)
    found = dict(
        line.split(" | ") if " | " in line else (line.removesuffix(" |"), "") for line in done.stdout.splitlines()
    )
    assert found == faults, done.stderr


def said(code: int, errors: str = "", output: str = "") -> Outcome:
    return Outcome(code, output, errors, "", 0.0, 0)


SENTENCE = "mad-ip: spec.toml: name = 1: must be a text that is not empty\n"
JSON = Case("", ("show", "x.toml", "--json"))


@pytest.mark.parametrize(
    ("case", "outcome", "kind"),
    [
        (Case("", ("show",)), said(0), ""),
        (Case("", ("show",)), said(2, SENTENCE), ""),
        (Case("", ("solve",)), said(3, "", "a table"), ""),
        (Case("", ("solve",)), said(3), "no lines"),
        (Case("", ("verify",)), said(1, "", "toy: failed, ..."), ""),
        (Case("", ("verify",)), said(1, "", "toy: proven"), "exit 1 of verify"),
        (Case("", ("show",)), said(1, SENTENCE), "exit 1 of show: name must be a text"),
        (Case("", ("show",)), said(2, SENTENCE * 2), "several lines"),
        (Case("", ("show",)), said(2, "mad-ip: " + "x" * LONGEST + "\n"), "the sentence has more than"),
        (Case("", ("show",)), said(2, SENTENCE.replace("1", "\x1b")), "the sentence has characters"),
        (Case("", ("show",)), said(2, SENTENCE.replace("1", "<class 'int'>")), "the sentence has Python in it"),
        (Case("", ("show",)), said(0, "", "\x1b[31m"), "control characters"),
        (Case("", ("show",)), said(0, "a.py:1: RuntimeWarning: overflow\n"), "show succeeds with noise"),
        (JSON, said(0, "", "{}"), ""),
        (JSON, said(0, "", '{"a": NaN}'), "standard output of show --json is not JSON"),
        (Case("", ("build", "--out", "x")), said(0), "build succeeds without its file"),
        (Case("", ("show",)), dataclasses.replace(said(0), seconds=PATIENCE + 1), "time of show"),
        (Case("", ("show",)), dataclasses.replace(said(0), memory=MEMORY + 1), "memory of show"),
    ],
)
def test_what_is_allowed_is_that(case: Case, outcome: Outcome, kind: str, tmp_path: Path) -> None:
    found = judge(case, outcome, tmp_path)
    assert found.startswith(kind)
    assert bool(found) == bool(kind)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """A spec and the JSON of its best design."""
    path = tmp_path_factory.mktemp("small") / "spec.toml"
    path.write_bytes(toml_bytes(SPECS["small"]))
    design: Design = solve(Spec.load(path), profile=Profile("decomposition"))
    return path.read_bytes(), json.loads(design.to_json())


@pytest.mark.parametrize(
    ("code", "changes", "kind"),
    [
        (0, {}, ""),
        (0, {"metrics": {"score": 1.001}}, "the score is above the best that there is"),
        (3, {"certificate": {"bound": 0.99}}, "the bound is below the best that there is"),
        (0, {"metrics": {"score": 0.99}}, "optimal is said of a design that is not"),
        (3, {"metrics": {"score": 0.99}}, ""),
        (4, {}, "infeasible is said of a spec that has designs"),
    ],
)
def test_a_false_optimum_is_seen(small: Any, code: int, changes: Any, kind: str, tmp_path: Path) -> None:
    spec, design = small
    changed = {**design, **{part: scaled(design[part], factors) for part, factors in changes.items()}}
    (tmp_path / "spec.toml").write_bytes(spec)
    (tmp_path / "out.json").write_text(json.dumps(changed))
    errors = "" if code != 4 else SENTENCE
    assert judge(Case("", ("solve", "spec.toml"), check="optimum"), said(code, errors, "a table"), tmp_path) == kind


def scaled(record: dict[str, Any], factors: dict[str, float]) -> dict[str, Any]:
    return {**record, **{key: record[key] * factor for key, factor in factors.items()}}


@pytest.mark.parametrize(
    ("part", "changes", "kind"),
    [
        ("metrics", {}, ""),
        ("certificate", {"seconds": 5.0}, ""),
        ("metrics", {"score": 1.0}, "proven is said of a design with a false score"),
        ("metrics", {"macs": 1}, "proven is said of a design with a false macs"),
        ("certificate", {"bound": 1.0}, "proven is said of a certificate with a false bound"),
        ("certificate", {"gap": 0.5}, "proven is said of a certificate with a false gap"),
        ("certificate", {"status": "best"}, "proven is said of a certificate of an unknown status"),
        ("stem", {"channels": 12}, "proven is said of a design that is not feasible"),
    ],
)
def test_a_false_proof_is_seen(small: Any, part: str, changes: Any, kind: str, tmp_path: Path) -> None:
    spec, design = small
    (tmp_path / "spec.toml").write_bytes(spec)
    (tmp_path / "design.json").write_text(json.dumps({**design, part: {**design[part], **changes}}))
    case = Case("", ("verify", "design.json", "--method", "auto"), check="claims")
    assert judge(case, said(0, "", "small: proven"), tmp_path) == kind


def test_tables_are_written_as_they_are() -> None:
    draw = Random(0)
    tables = [*SPECS.values(), *DEVICES.values(), *(small_table(draw) for _ in range(20))]
    for table in tables:
        assert tomllib.loads(toml_bytes(table).decode()) == table
        # Whatever becomes of it can be written, be it TOML or not.
        toml_bytes(mutated(table, draw, 5))
    assert any(broken(b"a = 1\n", draw) != b"a = 1\n" for _ in range(5))


def test_input_becomes_small() -> None:
    table = {"name": "net", "stage": [{"depth": 1}, {"depth": 666, "kernel": 3}], "budget": {"macs": 1e6}}
    case = Case("", ("show", "spec.toml", "--threads", "3"), {"spec.toml": toml_bytes(table), "other": b"x"})
    smallest = shrunk(case, lambda tried: b"666" in tried.files.get("spec.toml", b""), lambda: False)
    assert smallest.words == ("show", "spec.toml")
    assert list(smallest.files) == ["spec.toml"]
    assert len(smallest.files["spec.toml"]) < 30
