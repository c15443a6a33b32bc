"""The benchmark: its parts, its tables, and the code that it compares with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.solve import Model, Report
from tools import bench

ROOT = Path(__file__).parent.parent

CLI = """
import json, sys, time
from pathlib import Path
def main():
    held = b"x" * 400_000_000
    time.sleep({seconds})
    spec, options = Path(sys.argv[2]), sys.argv[3:]
    gap = options[options.index("--gap") + 1] if "--gap" in options else 1
    print(json.dumps({{
        "metrics": {{"score": {score} + len(spec.read_text())}},
        "certificate": {{"gap": float(gap), "status": "optimal"}},
    }}))
"""
"""A stand-in for mad_ip/cli.py that takes its time and memory."""


def test_codes_are_compared_each_in_its_own_folder(tmp_path: Path) -> None:
    codes = {}
    for code, seconds, score in (("old", 1.5, 1000), ("now", 0.2, 2000)):
        codes[code] = tmp_path / code
        (codes[code] / "mad_ip").mkdir(parents=True)
        (codes[code] / "mad_ip/__init__.py").touch()
        (codes[code] / "mad_ip/cli.py").write_text(CLI.format(seconds=seconds, score=score))
    for name in ("toy", "one", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "spec.toml").write_text(name)
    header, *rows = bench.compared(codes, tmp_path, ("one", "other"))
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["spec"], row["code"], row["score"]) for row in table] == [
        ("one", "old", "1,003.0000"),
        ("one", "now", "2,003.0000"),
        ("other", "old", "1,005.0000"),
        ("other", "now", "2,005.0000"),
        ("total", "old", ""),
        ("total", "now", ""),
    ]
    assert {(row["gap"], row["status"]) for row in table[:4]} == {("1.0e-06", "optimal")}
    for old, now in zip(table[::2], table[1::2], strict=True):
        assert old["times as fast"] == "1.00"
        assert float(old["seconds"]) > 1.5
        ratio = float(old["seconds"]) / float(now["seconds"])
        assert float(now["times as fast"]) == pytest.approx(ratio, abs=0.1 * ratio)
    for key, row in (("old", table[4]), ("now", table[5])):
        parts = sum(float(part["seconds"]) for part in table[:4] if part["code"] == key)
        assert float(row["seconds"]) == pytest.approx(parts, abs=0.2)
    assert all(float(row["largest MB"]) > 400 for row in table[:4])
    if Path("/proc/self/smaps_rollup").exists():
        assert 400 < float(table[0]["all MB"]) < 600


def test_a_revision_that_git_does_not_know_is_named() -> None:
    with pytest.raises(InputError, match="--baseline = no-such-revision: must be a revision"):
        list(bench._baseline("no-such-revision"))


def test_a_trace_finds_the_moments_of_a_solve() -> None:
    design = Design.load(ROOT / "models/toy/design.json")
    assert design.certificate is not None
    design = dataclasses.replace(design, certificate=dataclasses.replace(design.certificate, seconds=14.0))
    score = design.metrics.score
    model = Model(options=9, surviving=7, rows=5, columns=6, bound=score)
    reports = [
        Report("branch and bound", score / 2, 1.4 * score, 1.0),
        Report("branch and bound", score, 1.09 * score, 4.0),
        Report("branch and bound", score, 1.05 * score, 9.0),
        Report("highs", score, 1.01 * score, 11.0, model),
        Report("highs", score, score, 14.0, model),
    ]
    assert bench.trace(design, reports) == bench.Trace(design, 4.0, 1.05 * score, model, 3.0)
    assert bench.trace(design, reports[:3]) == bench.Trace(design, 4.0, 1.05 * score, None, 0.0)


def test_the_zoo_is_traced_and_its_slowest_solved_with_one_thread() -> None:
    header, row = bench.zoo(("toy",), slowest=1)
    found = dict(zip(header, row, strict=True))
    assert found["score"] == f"{Design.load(ROOT / 'models/toy/design.json').metrics.score:,.2f}"
    two, one = float(found["seconds, two threads"]), float(found["seconds, one thread"])
    assert float(found["ratio"]) == pytest.approx(one / two, rel=0.2)
    assert float(found["seconds to a bound within 10 %"]) <= two
    assert 0 < float(found["seconds of the MILP"]) <= two
    assert min(int(found[key]) for key in ("its options", "rows", "columns")) > 0
    header, row = bench.zoo(("toy",), slowest=0)
    assert dict(zip(header, row, strict=True))["seconds, one thread"] == ""


def test_only_the_parts_that_run_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(name: str) -> Iterator[bench.Row]:
        yield "benchmark", "result"
        yield name, "new"

    calls = []
    monkeypatch.setattr(bench, "_solved", lambda spec: None)
    monkeypatch.setattr(bench, "_baseline", lambda revision: calls.append(revision) or rows("baseline"))
    monkeypatch.setattr(bench, "PARTS", {name: lambda name=name: rows(name) for name in bench.PARTS})
    document = tmp_path / "docs/decomposition.md"
    document.parent.mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    # The real document has a place for every part.
    before = (ROOT / "docs/decomposition.md").read_text()

    def written(*arguments: str) -> set[str]:
        document.write_text(before)
        bench.main(arguments)
        return {name for name in bench.PARTS if f"| {name} | new |" in document.read_text()}

    assert written("--only", "proofs", "--only", "baseline", "--baseline", "v1") == {"proofs", "baseline"}
    assert document.read_text().replace("| proofs | new |", "").count("| catalogue |") == before.count("| catalogue |")
    assert written() == set(bench.PARTS)
    assert written("--no-baseline") == set(bench.PARTS) - {"baseline"}
    assert calls == ["v1", "44264ed"]


@pytest.mark.parametrize("arguments", [["--only", "everything"], ["--baseline", "v1", "--no-baseline"]])
def test_what_cannot_be_run_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert arguments[0] in capsys.readouterr().err
