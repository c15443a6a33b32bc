"""mad-ip compare: statistics against values worked out by hand, real runs, failures as rows, the page in Chromium."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mad_ip.design import Design, relative_gap
from mad_ip.errors import InputError, InternalError
from mad_ip.reports import comparison
from mad_ip.reports.comparison import Settings, compare, page, runs
from mad_ip.reports.comparison.milestones import (
    Comparison,
    Curve,
    Milestones,
    Reference,
    Spread,
    contradictions,
    curve,
    milestones,
    reference,
    spread,
)
from mad_ip.reports.comparison.records import Point, Run, condensed, distance, without_folders
from mad_ip.reports.comparison.runs import Job, measure
from mad_ip.spec import Spec

MODELS = Path(__file__).parent.parent / "models"
TOY = MODELS / "toy" / "spec.toml"
R18 = MODELS / "coarse" / "deepmad-r18.toml"
PYTHON = sys.executable
MAD_IP = [PYTHON, "-c", "from mad_ip.cli import main; main()"]
INF = math.inf
QUIET = Console(quiet=True)


def made(status: str, *points: tuple[float, float, float], spec: str = "a", solver: str = "s", seed: int = 0) -> Run:
    """A run with a trace of (seconds, score, bound)."""
    trace = tuple(Point(seconds, "phase", score, bound) for seconds, score, bound in points)
    return Run(spec, solver, seed, status, "", "1.0", wall=9.0, cpu=8.0, memory=10**8, options=7, trace=trace)


PROVEN = made(
    "optimal", (0.1, -INF, INF), (1.0, 980.0, INF), (2.0, 990.0, 1100.0), (4.0, 1000.0, 1010.0), (8.0, 1000.0, 1000.0)
)


def test_milestones_are_the_times_of_the_first_points_that_reach_them() -> None:
    target = Reference(1000.0, proven=True)
    # 990 is exactly 1 % below 1000; the proof is the return.
    assert milestones(PROVEN, target, 1e-6) == Milestones(first=1.0, near=2.0, optimum=4.0, proof=8.0)
    # Within a gap of 2 % of the reference the incumbent of 980 is enough.
    assert milestones(PROVEN, target, 0.02).optimum == 1.0
    far = made("feasible", (0.5, 900.0, INF), (60.0, 989.9, INF))
    assert milestones(far, target, 1e-6) == Milestones(0.5, INF, INF, INF)
    nothing = made("no design", (0.5, -INF, 2000.0))
    assert milestones(nothing, target, 1e-6) == Milestones(INF, INF, INF, INF)
    assert milestones(made("refused"), target, 1e-6) == Milestones(INF, INF, INF, INF)


def test_milestones_of_negative_scores() -> None:
    run = made("feasible", (1.0, -1020.0, 0.0), (2.0, -1010.0, 0.0), (3.0, -1000.0, 0.0))
    assert milestones(run, Reference(-1000.0, proven=False), 1e-6) == Milestones(1.0, 2.0, 3.0, INF)


def test_reference_is_the_best_score_and_proven_only_when_a_proof_is_about_it() -> None:
    better = made("feasible", (1.0, 1001.0, INF))
    assert reference([PROVEN], 1e-6) == Reference(1000.0, proven=True)
    assert reference([better, PROVEN], 1e-6) == Reference(1001.0, proven=False)
    assert reference([better], 1e-6) == Reference(1001.0, proven=False)
    assert reference([made("refused")], 1e-6) == Reference(-INF, proven=False)


def test_spread_over_seeds() -> None:
    assert spread([5.0, 1.0, 4.0]) == Spread(4.0, 1.0, 5.0)
    assert spread([1.0, 2.0, 4.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    # Never is later than any time: of three seeds two reach it, so the median is a time; of four two, so it is not.
    assert spread([INF, 1.0, 3.0]) == Spread(3.0, 1.0, INF)
    assert spread([INF, 1.0, INF, 3.0]) == Spread(INF, 1.0, INF)


def test_curve_is_the_median_of_step_functions() -> None:
    seeds = [
        made("feasible", (1.0, 10.0, INF), (3.0, 30.0, INF), seed=0),
        made("feasible", (2.0, 25.0, 50.0), (4.0, 26.0, 40.0), seed=1),
        made("feasible", (1.0, 14.0, INF), (4.0, 50.0, 60.0), seed=2),
    ]
    found = curve(seeds, "score")
    assert isinstance(found, Curve)
    assert found.seconds.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found.median.tolist() == [10.0, 14.0, 25.0, 30.0]
    assert found.low.tolist() == [-INF, 10.0, 14.0, 26.0]
    assert found.high.tolist() == [14.0, 25.0, 30.0, 50.0]
    assert curve(seeds, "bound").median.tolist() == [INF, INF, INF, 60.0]
    # One of two seeds has an incumbent: there is no median yet.
    assert curve(seeds[:2], "score").median.tolist() == [-INF, 17.5, 27.5, 28.0]
    assert curve([], "score").seconds.size == 0


def test_gap_is_relative_to_the_score_and_distance_to_the_target() -> None:
    assert relative_gap(200.0, 210.0) == 0.05
    assert relative_gap(-200.0, -190.0) == 0.05
    assert relative_gap(200.0, 199.0) == 0.0
    assert distance(190.0, 200.0) == 0.05
    assert distance(-210.0, -200.0) == 0.05
    assert distance(201.0, 200.0) == 0.0
    for relative in (relative_gap, distance):
        assert relative(200.0, INF) == relative(-INF, 210.0) == relative(-INF, INF) == INF


def test_condensed_keeps_changes_and_the_end() -> None:
    points = [Point(0.0, "x", -INF, INF), Point(1.0, "x", -INF, INF), Point(2.0, "y", -INF, INF)]
    points += [Point(3.0, "y", 1.0, INF), Point(4.0, "y", 1.0, INF), Point(5.0, "y", 1.0, INF)]
    assert [point.seconds for point in condensed(points)] == [0.0, 2.0, 3.0, 5.0]
    assert condensed([]) == ()


def test_messages_name_no_folder() -> None:
    assert without_folders("No such file: '/home/me/x y/spec.toml'") == "No such file: 'x y/spec.toml'"
    assert without_folders("models/toy/spec.toml: 1/2 of 3 m/s") == "models/toy/spec.toml: 1/2 of 3 m/s"


def test_contradictions_are_scores_above_another_runs_bound() -> None:
    honest = made("feasible", (1.0, 999.0, 1200.0), solver="honest")
    assert contradictions([PROVEN, honest, made("refused"), made("feasible", (1.0, 10.0, INF))]) == []
    assert contradictions([PROVEN, made("feasible", (1.0, 2000.0, INF), spec="b")]) == []
    (sentence,) = contradictions([PROVEN, made("feasible", (1.0, 1000.1, INF), solver="other")])
    assert sentence == "a: other (seed 0) found 1,000.1000, above the bound 1,000.0000 of s (seed 0)"
    (sentence,) = contradictions([PROVEN, made("infeasible", solver="other")])
    assert sentence == "a: other says infeasible, s found a design"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, float]:
    """A real comparison through the command line: the toy and one that is infeasible; a good and a bad profile."""
    folder = tmp_path_factory.mktemp("compare")
    small = folder / "small.toml"
    small.write_text(TOY.read_text().replace('name = "toy"', 'name = "too small"').replace("macs = ", "macs = 1 #"))
    bad = folder / "bad.toml"
    bad.write_text('backend = "highs"\n[options]\nno_such_option = 1\n')
    out = folder / "a" / "b"
    began = time.perf_counter()
    done = subprocess.run(
        [*MAD_IP, "compare", TOY, small, "--solver", "highs", "--solver", bad, "--time-limit", "100", "--out", out],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'report.html'}: written\n"
    assert "toy, highs, seed 0: optimal" in done.stderr
    return json.loads((out / "report.json").read_text()), out, time.perf_counter() - began


def test_a_real_run_finds_and_proves_the_toys_optimum(report: tuple[dict, Path, float]) -> None:
    content, _, elapsed = report
    stored = Design.load(MODELS / "toy" / "design.json")
    assert stored.certificate is not None
    (run,) = (run for run in content["runs"] if (run["spec"], run["solver"]) == ("toy", "highs"))
    assert run["status"] == "optimal"
    assert run["score"] == stored.metrics.score
    assert run["architectures"] == stored.certificate.architectures
    assert run["options"] == stored.certificate.options
    assert run["gap"] <= 1e-6
    assert content["specs"]["toy"] == {
        "sha256": Spec.load(TOY).sha256,
        "reference": {"score": stored.metrics.score, "proven": True},
    }
    trace = run["trace"]
    assert [point["seconds"] for point in trace] == sorted(point["seconds"] for point in trace)
    scores = [point["score"] for point in trace if point["score"] is not None]
    bounds = [point["bound"] for point in trace if point["bound"] is not None]
    assert scores == sorted(scores)
    assert bounds == sorted(bounds, reverse=True)
    assert all(score <= bound * (1 + 1e-9) for score in scores for bound in bounds)
    times = run["seconds"]
    assert 0 < times["first"] <= times["near"] <= times["optimum"] <= times["proof"] < run["wall"] < elapsed
    # Bytes: the interpreter with NumPy and Pyomo takes more than 40 MB. Seconds, of two processes.
    assert 40e6 < run["memory"] < 4e9
    assert 0 < run["cpu"] < 4 * run["wall"]


def test_what_cannot_be_solved_is_a_row_that_says_why(report: tuple[dict, Path, float]) -> None:
    content, folder, _ = report
    rows = {(run["spec"], run["solver"]): run for run in content["runs"]}
    assert {key: run["status"] for key, run in rows.items()} == {
        ("toy", "highs"): "optimal",
        ("toy", "bad"): "refused",
        ("too-small", "highs"): "infeasible",
        # That needs no solver.
        ("too-small", "bad"): "infeasible",
    }
    assert rows["too-small", "highs"]["message"].startswith("too-small.toml: infeasible: budget.macs cannot be met")
    assert rows["toy", "bad"]["trace"] == []
    assert rows["toy", "bad"]["message"].startswith("bad.toml: options.no_such_option = 1: unknown to HiGHS")
    text = (folder / "report.md").read_text()
    assert rows["toy", "bad"]["message"] in text


def test_the_report_is_complete_and_tells_nothing_about_the_machines_folders(report: tuple[dict, Path, float]) -> None:
    content, folder, _ = report
    assert content["format"] == page.FORMAT == "mad-ip/comparison/1"
    assert content["profiles"]["highs"]["backend"] == "highs"
    assert content["versions"]["highspy"]
    plots = [f"{kind}-{spec}.png" for spec in ("toy", "too-small") for kind in ("anytime", "gap", "memory", "time")]
    assert sorted(path.name for path in (folder / "plots").iterdir()) == sorted(plots)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["plots", "report.html", "report.json", "report.md"]
    markdown = (folder / "report.md").read_text()
    assert sorted(re.findall(r"\]\(plots/(.*?)\)", markdown)) == sorted(plots)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({row.count(" | ") for row in rows}) > 1
    for name in ("report.html", "report.json", "report.md"):
        text = (folder / name).read_text()
        for private in (str(folder), str(Path.home()) + "/", os.uname().nodename + " "):
            assert private not in text
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", (folder / "report.html").read_text())


def run_of(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, **settings: float) -> Run:
    """A run whose process does ``script`` instead of solving."""
    name = f"script_{hashlib.sha256(script.encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(f"def work(task, parent):\n{textwrap.indent(script, '    ')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runs, "_work", importlib.import_module(name).work)
    return measure(Job("a", "spec.toml", "s", "highs", 0), Settings(**settings))


def test_time_and_memory_include_the_child_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import time\ncontent = bytearray(600_000_000)\nwhile time.process_time() < 1.0: pass"
    script = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
        "from mad_ip.reports.comparison.records import Run\n"
        "parent.send(Run('a', 's', 0, 'feasible', str(time.process_time())))"
    )
    run = run_of(tmp_path, script, monkeypatch)
    assert run.status == "feasible"
    # Without what the process itself took for its imports.
    assert 1.0 <= run.cpu - float(run.message) <= 2.0
    assert run.cpu < run.wall + 0.3
    # Linux counts what a process was before exec too: a copy of this one.
    ours = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 600e6 < run.memory < max(700e6, 1.05 * ours)


def test_a_process_that_dies_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = run_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    assert (killed.status, killed.message) == ("failed", "the process was ended by SIGKILL")
    raised = run_of(tmp_path, "raise OSError('/no/such/file')", monkeypatch)
    assert (raised.status, raised.message) == (
        "failed",
        "the process ended with exit code 1 and no result (OSError: file)",
    )


def test_a_process_that_does_not_stop_is_ended_and_keeps_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "GRACE", 0.5)
    monkeypatch.setattr(runs, "_END", 0.5)
    script = (
        "import math, signal, time\nfrom mad_ip.reports.comparison.records import Point\n"
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "parent.send(Point(0.1, 'x', 3.0, math.inf))\ntime.sleep(60)"
    )
    began = time.perf_counter()
    run = run_of(tmp_path, script, monkeypatch, time_limit=2.0)
    assert 2.5 <= time.perf_counter() - began < 15
    assert (run.status, run.message) == ("ended", "did not stop within 0.5 s after its time limit of 2 s")
    assert run.trace == (Point(0.1, "x", 3.0, INF),)


def test_a_solver_that_raises_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The process finds this package's profile, but its solver's module breaks on import.
    (tmp_path / "pyscipopt.py").write_text("raise RuntimeError('broken installation in /opt/somewhere/pyscipopt')")
    monkeypatch.syspath_prepend(tmp_path)
    run = measure(Job("toy", str(TOY), "scip", "scip", 0), Settings())
    assert (run.status, run.message) == ("failed", "RuntimeError: broken installation in pyscipopt")


def test_evolution_runs_once_for_each_seed(tmp_path: Path) -> None:
    profile = tmp_path / "evolution.toml"
    profile.write_text('backend = "evolution"\n[options]\ngenerations = 50\n')
    found = compare([TOY], ["highs", str(profile)], Settings(seeds=3), tmp_path, console=QUIET)
    assert [(run.solver, run.seed) for run in found] == [("highs", 0), *(("evolution", seed) for seed in range(3))]
    optimum, *seeds = found
    assert optimum.status == "optimal"
    assert {run.status for run in seeds} == {"feasible"}
    assert all(-INF < run.score <= optimum.score * (1 + 1e-9) and run.bound == INF for run in seeds)
    assert "evolution (3 seeds)" in (tmp_path / "report.html").read_text()


def test_ctrl_c_writes_what_there_is(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('backend = "highs"\n')
    out = tmp_path / "out"
    command = [*MAD_IP, "compare", str(TOY), str(R18), "--solver", "highs", "--solver", str(other), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "toy, other, seed 0: optimal" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        began = time.perf_counter()
        output, _ = process.communicate(timeout=60)
        assert time.perf_counter() - began < 30
    assert process.returncode == 3
    assert output == f"{out / 'report.html'}: written\n"
    statuses = [run["status"] for run in json.loads((out / "report.json").read_text())["runs"]]
    assert statuses[:2] == ["optimal", "optimal"]
    assert statuses[2] in {"feasible", "no design"}
    assert statuses[3] == "not run"


def test_bad_input_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "measure", None)
    copy = tmp_path / "copy.toml"
    copy.write_text(TOY.read_text())
    cases = {
        r"none.toml: cannot be read": ([tmp_path / "none.toml"], ["highs"]),
        r"--solver = 'nosuch': no such profile": ([TOY], ["nosuch"]),
        r"copy.toml: has the name 'toy' of": ([TOY, copy], ["highs"]),
        r"highs: has the name 'highs' of highs": ([TOY], ["highs", "highs"]),
    }
    for sentence, (specs, solvers) in cases.items():
        with pytest.raises(InputError, match=sentence):
            compare(specs, solvers, Settings(), tmp_path, console=QUIET)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs matplotlib, which is not installed; pip install 'mad-ip\[report\]'"):
        compare([TOY], ["highs"], Settings(), tmp_path, console=QUIET)


def test_a_contradiction_is_written_and_then_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def liar(job: Job, *_: object, **__: object) -> Run:
        return made("optimal", (1.0, 5.0 if job.solver == "highs" else 6.0, 5.0), spec=job.spec, solver=job.solver)

    other = tmp_path / "other.toml"
    other.write_text('backend = "highs"\n')
    monkeypatch.setattr(comparison, "measure", liar)
    with pytest.raises(InternalError, match="its runs contradict each other: toy: other"):
        compare([TOY], ["highs", str(other)], Settings(), tmp_path / "out", console=QUIET)
    assert "Contradiction: toy: other" in (tmp_path / "out" / "report.html").read_text()


def test_the_guide_takes_its_numbers_from_the_filed_report() -> None:
    folder = MODELS.parent / "solvers"
    report = (folder / "report.md").read_text()
    _, _, rest = (folder / "README.md").read_text().partition("## Which solver when\n")
    guide, _, _ = rest.partition("\n## ")
    number = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
    used = set(number.findall(guide))
    assert len(used) > 20
    assert used - set(number.findall(report)) == set()
    plots = set(re.findall(r"\]\(plots/(.*?)\)", report))
    assert len(plots) == 12
    assert {path.name for path in (folder / "plots").iterdir()} == plots


# Every way a run can end, and the traces that plots stumble over.
CASES = [
    PROVEN,
    made("optimal", (0.0, -INF, INF), (0.05, 1000.0, 1000.0), solver="fast"),
    made("no design", (0.1, -INF, INF), (60.0, -INF, 2000.0), solver="bound only"),
    made("no design", (0.1, -INF, INF), solver="nothing at all"),
    Run("a", "missing", 0, "refused", "missing.toml: needs 'x|y' <not installed> & more"),
    *(made("feasible", (0.3, 900.0, INF), (50.0, 990.0 + n, INF), solver="evolution", seed=n) for n in range(3)),
    made("no design", (0.2, -INF, INF), solver="fast", spec="b"),
    made("no design", (0.2, -INF, INF), (0.3, -INF, 70.0), solver="bound only", spec="b"),
    Run("c", "missing", 0, "refused", "again"),
    made("feasible", (1e-4, -1000.0, 1e300), (0.002, -900.0, 1e300), solver="fast", spec="d"),
]  # fmt: skip
NAMES = list(dict.fromkeys(run.solver for run in CASES))
PLOTS = {f"{kind}-{spec}" for spec in "abcd" for kind in ("anytime", "gap", "time", "memory")}


def test_the_page_in_chromium(tmp_path: Path, driver: Any) -> None:
    settings = Settings(time_limit=60.0, seeds=3)
    page.write(
        Comparison(
            settings=settings,
            specs=dict.fromkeys("abcd", "0" * 64),
            profiles={name: {"backend": name, "options": {}} for name in NAMES},
            runs=CASES,
            machine={"processor": "some"},
            versions={"mad-ip": "0", "highspy": "1"},
            day="2026-01-01",
        ),
        tmp_path,
    )
    # First a page with two faults: this way of looking does see them.
    faulty = tmp_path / "faulty.html"
    faulty.write_text('<!DOCTYPE html><img src="missing.png"><script>console.error("planted")</script>')
    driver.get(faulty.as_uri())
    assert len([entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]) == 2

    driver.get((tmp_path / "report.html").as_uri())
    # Not even a warning.
    assert driver.get_log("browser") == []
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    images = driver.execute_script(
        "return [...document.querySelectorAll('figure img')].map("
        "image => [image.parentElement.id, image.naturalWidth, image.getBoundingClientRect().width])"
    )
    assert {name for name, _, _ in images} == PLOTS
    assert len(images) == len(PLOTS)
    assert all(natural > 0 and shown > 300 for _, natural, shown in images)

    def rows(name: str) -> list[list[str]]:
        return driver.execute_script(
            f"return [...document.querySelectorAll('#{name} tbody tr')].map("
            "row => [...row.cells].map(cell => cell.innerText.replace('\\n', ' ')))"
        )

    expected = list(dict.fromkeys((run.spec, run.solver) for run in CASES))
    shown = [(spec, solver.replace(" (3 seeds)", "")) for spec, solver, *_ in rows("summary")]
    assert sorted(shown) == sorted(expected)
    assert sorted((spec, solver.replace(" (3 seeds)", "")) for spec, solver, *_ in rows("times")) == sorted(expected)
    assert ["a", "missing", "refused", "missing.toml: needs 'x|y' <not installed> & more"] in rows("notes")
    assert rows("models")[0] == ["a", "proven", "000000000000", "7", "0.00e+00", "1,000.00"]
    assert rows("summary")[0] == ["a", "s", "optimal", "1,000.00", "0 %", "0 %", "8.00", "9.00", "8.00", "100"]
    (evolution,) = (row for row in rows("summary") if row[1].startswith("evolution"))
    assert evolution[3:5] == ["991.00 (990.00 to 992.00)", "0.9 % (0.8 % to 1 %)"]
    (evolution,) = (row for row in rows("times") if row[1].startswith("evolution"))
    assert evolution[2:] == ["0.30", "50.0", *2 * ["\N{EN DASH}"]]
    # Nothing is wider than the page at 1280 px.
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
