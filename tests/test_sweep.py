"""Sweeps: every point is what enumeration says, whatever the budgets, the order, the threads and the interruptions."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import oracle
import pytest
from fine import as_if_fine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import specs
from test_device_budgets import affine
from test_processes import gone
from typer.testing import CliRunner

from mad_ip import chain
from mad_ip import sweep as sweeping
from mad_ip.cli import app
from mad_ip.decomposition import Earlier, optimise
from mad_ip.design import Design, violations
from mad_ip.device import Device
from mad_ip.errors import InputError, MadIpWarning
from mad_ip.files import locked
from mad_ip.front import Front, limited
from mad_ip.lagrangian import reuse
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.program import Program, Relaxation
from mad_ip.lagrangian.reuse import restored, written
from mad_ip.lagrangian.workers import Problem, relaxation, threads
from mad_ip.processes import Process, started
from mad_ip.spec import Spec
from mad_ip.sweep import Interrupted, grid, sweep, table
from mad_ip.verification import verify

TOY = Path(__file__).parents[1] / "models" / "toy" / "spec.toml"

NUMBER = int(os.environ.get("MAD_IP_RANDOM_SPECS", "4"))

QUICK = settings(
    max_examples=NUMBER,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def best_of(spec: Spec) -> float:
    """The best score within a spec's budgets, by enumeration; device budgets by the designs' own measure."""
    feasible = (x for x in oracle.architectures(spec) if oracle.fits(spec.budget, x))
    device = [key for key in spec.budget.given if key in ("activation", "flash", "latency")]
    return max(
        (
            x.score
            for x in feasible
            if all(Design.chosen(spec, x.path).spent(key) <= spec.budget.given[key] for key in device)
        ),
        default=-math.inf,
    )


def check(front: Front) -> None:
    for point in front.points:
        best = best_of(point.spec)
        if best == -math.inf:
            assert point.status == "infeasible"
            assert point.design is None
            continue
        assert point.status == "optimal"
        assert point.design is not None
        assert violations(point.spec, point.design) == []
        assert point.design.metrics.score == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert best - 1e-9 * abs(best) <= point.bound <= best + 1e-6 * abs(best) + 1e-6


def test_the_front_of_the_toy_is_that_of_enumeration(tmp_path: Path) -> None:
    spec = Spec.load(TOY)
    front = sweep(spec, grid(["macs=2e6:30e6:4", "params=4e4,1e5"]), out=tmp_path / "front")
    assert len(front.points) == 8
    check(front)
    assert {point.status for point in front.points} == {"optimal", "infeasible"}
    # By ascending limits, as front.csv.
    text = (tmp_path / "front" / "front.csv").read_text()
    assert text == table(front)
    listed = list(csv.DictReader(io.StringIO(text)))
    limits = [(float(row["macs"]), float(row["params"])) for row in listed]
    assert limits == sorted(limits)
    assert list(listed[0])[:7] == ["macs", "params", "effectiveness", "score", "bound", "status", "design"]
    for row, point in zip(listed, front.points, strict=True):
        assert row["status"] == point.status
        if point.design is None:
            assert row["design"] == row["score"] == row["bound"] == ""
            continue
        path = tmp_path / "front" / row["design"]
        design = Design.load(path)
        assert float(row["score"]) == design.metrics.score
        assert design.certificate is not None
        assert float(row["bound"]) == design.certificate.bound
        assert violations(Spec.load(path.with_suffix(".toml")), design) == []
        assert design.spec_sha256 == Spec.load(path.with_suffix(".toml")).sha256
    # An independent proof of one of them.
    design = next(point.design for point in reversed(front.points) if point.design is not None)
    spec = next(point.spec for point in front.points if point.design is design)
    assert verify(spec, design, method="bound").verdict == "proven"


@pytest.mark.usefixtures("in_this_process")
@QUICK
@given(spec=specs(limit=300), seed=st.integers(0, 10**6), fine=st.booleans())
def test_random_fronts_are_those_of_enumeration(spec: Spec, seed: int, fine: bool) -> None:
    random = Random(seed)
    device = None
    keys = ["macs", "params", "layers", "effectiveness"]
    if random.random() < 0.5:
        _, model = affine(random, 100.0)
        device = Device(memory=random.choice(["plain", "in-place"]), latency=model)
        keys += ["activation", "flash", "latency"]
    spec = dataclasses.replace(spec, device=device, sha256="")
    everything = oracle.architectures(spec)
    chosen = random.sample(keys, 2)
    over: dict[str, list[float]] = {}
    for key in chosen:
        # Limits that some architecture meets exactly, and one that none does.
        some = random.sample(everything, min(3, len(everything)))
        values = [
            x.effectiveness if key == "effectiveness" else float(Design.chosen(spec, x.path).spent(key)) for x in some
        ]
        over[key] = sorted({*values, min(values) * 0.999 if key == "effectiveness" else max(1.0, min(values) - 1)})
    with pytest.MonkeyPatch.context() as patch:
        if fine:
            as_if_fine(patch)
        front = sweep(spec, over)
    check(front)


@pytest.mark.parametrize("number", [1, 2])
def test_threads_do_not_matter(number: int, tmp_path: Path) -> None:
    spec = Spec.load(TOY)
    over = grid(["macs=5e6:20e6:4"])
    assert table(sweep(spec, over, threads=number)) == table(sweep(spec, over, threads=1, out=tmp_path / "front"))


# Chains side by side --------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Several threads are several processes from now on, with two points of a row in a chain; those that started."""
    begun: list[Process] = []

    @contextlib.contextmanager
    def noted(*arguments: Any) -> Iterator[Process]:
        with started(*arguments) as process:
            begun.append(process)
            yield process

    monkeypatch.setattr(sweeping, "_MUCH", 0)
    monkeypatch.setattr(chain, "_LEAST", 2)
    monkeypatch.setattr(chain, "started", noted)
    return begun


@pytest.mark.parametrize(("texts", "processes"), [(["macs=1e6:20e6:7"], 4), (["macs=8e6:20e6:3", "params=3e4,1e5"], 3)])
def test_processes_do_not_matter(texts: list[str], processes: int, apart: list[Process], tmp_path: Path) -> None:
    spec, over = Spec.load(TOY), grid(texts)
    told: list[str] = []
    front = sweep(spec, over, threads=5, out=tmp_path / "front", watch=lambda report: told.append(report.phase))
    assert len(apart) == processes
    assert table(front) == (tmp_path / "front" / "front.csv").read_text()
    check(front)
    assert table(sweep(spec, over)) == table(front)
    assert len(apart) == processes
    assert told
    assert all(phase.split("/")[1].split()[0] == str(len(front.points)) for phase in told)
    # Nothing is left to go on from, and nothing to do.
    assert json.loads((tmp_path / "front" / ".sweep.json").read_text())["trees"] == []
    assert table(sweep(spec, over, threads=5, out=tmp_path / "front")) == table(front)
    assert len(apart) == processes


def test_a_process_that_is_killed_leaves_what_was_proven(apart: list[Process], tmp_path: Path) -> None:
    spec, over, folder = Spec.load(TOY), grid(["macs=4e6:24e6:9"]), tmp_path / "front"

    def kill(_: Any) -> None:
        os.kill(apart[-1].pid, signal.SIGKILL)

    with pytest.raises(
        Interrupted, match=r"a process ended without a result after \d of 9 points; the same command"
    ) as cut:
        sweep(spec, over, out=folder, threads=2, watch=kill)
    assert len(cut.value.front.points) < 9
    assert table(cut.value.front) == (folder / "front.csv").read_text()
    assert gone(*(process.pid for process in apart))
    assert table(sweep(spec, over, out=folder)) == table(sweep(spec, over))


def test_processes_that_are_stopped_are_gone(apart: list[Process], tmp_path: Path) -> None:
    spec, over, folder = Spec.load(TOY), grid(["macs=4e6:24e6:9"]), tmp_path / "front"
    with pytest.raises(Interrupted, match=r"^stopped after [1-8] of 9 points") as cut:
        sweep(spec, over, out=folder, threads=2, interrupted=lambda: len(list(folder.glob("designs/*.json"))) > 0)
    assert len(apart) == 2
    assert gone(*(process.pid for process in apart))
    done = {point.name for point in cut.value.front.points}
    kept = {name: (folder / "designs" / f"{name}.json").read_bytes() for name in done}
    assert table(sweep(spec, over, out=folder, threads=3)) == table(sweep(spec, over))
    assert all((folder / "designs" / f"{name}.json").read_bytes() == content for name, content in kept.items())


def test_what_is_infeasible_is_found_out_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chain, "_LEAST", 1)
    solves: list[Any] = []
    search = chain.search
    monkeypatch.setattr(chain, "search", lambda *given, **more: solves.append(given) or search(*given, **more))
    over = grid(["macs=1e4,2e4,3e4,20e6"])
    front = sweep(Spec.load(TOY), over, out=tmp_path / "front")
    assert [point.status for point in front.points] == ["infeasible"] * 3 + ["optimal"]
    assert len(solves) == 2
    assert (tmp_path / "front" / "front.csv").read_text() == table(front)
    assert table(sweep(Spec.load(TOY), over, out=tmp_path / "front")) == table(front)
    assert len(solves) == 2


def test_a_warning_of_a_process_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    given, sent = [chain.Chain({})], []

    class Here:
        """Gives one chain, and takes what is sent."""

        def given(self) -> chain.Chain:
            return given.pop()

        def send(self, message: Any) -> None:
            sent.append(message)

    def warns(*_: Any) -> Iterator[Any]:
        warnings.warn("one sentence", MadIpWarning, stacklevel=2)
        return iter(())

    monkeypatch.setattr(chain.Chain, "run", warns)
    with warnings.catch_warnings(action="always"), pytest.raises(IndexError):
        chain._work(chain.Settings(0.0, 1.0, 1, 0, None), cast(Any, Here()))
    message, end = sent
    assert isinstance(message, MadIpWarning)
    assert str(message) == "one sentence"
    assert end is None


def test_what_other_processes_have_proven_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends by itself while messages of the other wait to be read."""
    infeasible = chain.Solved("infeasible", -math.inf, 1.0, {}, None)

    class Scripted:
        """A process that sends what it is to send, whatever it is given."""

        def __init__(self, *messages: Any) -> None:
            self.messages = list(messages)

        def give(self, _: Any) -> None:
            pass

        def receive(self) -> Any:
            if (message := self.messages.pop(0)) is EOFError:
                raise EOFError
            return message

    second = Scripted(((2,), infeasible, [], {}), ((3,), infeasible, [], {}), None)
    processes = iter([Scripted(EOFError), second])
    monkeypatch.setattr(chain, "started", lambda *_: contextlib.nullcontext(next(processes)))
    monkeypatch.setattr(chain, "ready", lambda given, _: [process for process in given if process.messages])
    parts = [chain.Chain({(at,): Spec.load(TOY), (at + 1,): Spec.load(TOY)}) for at in (0, 2)]
    found: list[chain.Place] = []
    settings, told = chain.Settings(0.0, 1.0, 2, 0, None), lambda *_: None
    with pytest.raises(chain.Lost):
        found.extend(chain.side_by_side(parts, settings, 2, told, lambda: False, told))
    assert found == [(2,), (3,)]
    assert parts[1].left(1.0) == []
    assert len(parts[0].left(1.0)) == 2


def test_chains_cover_the_grid() -> None:
    spec = Spec.load(TOY)
    for sizes in [(1,), (9,), (10,), (11,), (25,), (4, 5), (5, 4), (30, 2), (2, 30), (3, 3, 3)]:
        places = list(itertools.product(*map(range, sizes)))
        found = chain.chains(dict.fromkeys(places, spec))
        assert [place for one in found for place in one.specs] == places
        assert all(len(one.specs) >= min(10, len(places)) for one in found[:-1])
        assert len(found) == 1 or len(found[0].specs) < 10 + math.prod(sizes[1:])


# ----------------------------------------------------------------------------------------------------------------------


def test_a_sweep_that_is_stopped_goes_on_to_the_same_front(tmp_path: Path) -> None:
    spec, over = Spec.load(TOY), grid(["macs=8e6:20e6:3", "params=3e4,1e5"])
    whole_front = sweep(spec, over, out=tmp_path / "whole")
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked % 60 == 0

    for _ in range(200):
        try:
            front = sweep(spec, over, out=tmp_path / "cut", interrupted=interrupted)
            break
        except Interrupted:
            pass
    else:
        pytest.fail("never done")
    assert asked > 120
    assert table(front) == table(whole_front)
    for name in ("front.csv",):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for path in (tmp_path / "whole" / "designs").iterdir():
        other = tmp_path / "cut" / "designs" / path.name
        if path.suffix == ".toml":
            assert other.read_bytes() == path.read_bytes()
        else:
            assert without_seconds(other) == without_seconds(path)


def without_seconds(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    del content["certificate"]["seconds"]
    return content


def test_killed_and_repeated(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mad_ip", "sweep", str(TOY), "--over", "macs=4e6:24e6:9", "--quiet", "--out"]
    folder = tmp_path / "cut"
    process = subprocess.Popen([*words, str(folder)], stdout=subprocess.DEVNULL)
    while not (folder / "designs").exists() or len(list((folder / "designs").glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.read_bytes() for path in (folder / "designs").glob("*.json")}
    assert len(done) < 9
    subprocess.run([*words, str(folder)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*words, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    assert (folder / "front.csv").read_bytes() == (tmp_path / "whole" / "front.csv").read_bytes()
    # All but the one that was at work are the very files.
    kept = [name for name, content in done.items() if (folder / "designs" / name).read_bytes() == content]
    assert len(kept) >= len(done) - 1
    assert not list(folder.rglob("*.tmp"))


def test_a_time_limit_leaves_what_is_known_and_more_time_finishes(tmp_path: Path) -> None:
    spec, over = Spec.load(TOY), grid(["macs=5e6:20e6:3"])
    rushed = sweep(spec, over, out=tmp_path / "front", time_limit=0.0)
    assert not rushed.proven
    for point in rushed.points:
        if point.design is not None:
            assert violations(point.spec, point.design) == []
            assert point.bound >= best_of(point.spec)
    again = sweep(spec, over, out=tmp_path / "front", time_limit=0.0)
    assert table(again) == table(rushed)
    check(sweep(spec, over, out=tmp_path / "front"))


def test_prices_are_those_of_the_front() -> None:
    spec = Spec.load(TOY)
    front = sweep(spec, grid(["macs=8e6:24e6:5"]))
    points = [point for point in front.points if point.design is not None]
    for below, point, above in zip(points, points[1:], points[2:], strict=False):
        (price,) = (price for price in point.prices if price.budget == "macs")
        scores = [other.design.metrics.score for other in (below, point, above) if other.design is not None]
        limits = [other.spec.budget.given["macs"] for other in (below, point, above)]
        assert price.smaller == pytest.approx((scores[1] - scores[0]) / (limits[1] - limits[0]), rel=1e-6, abs=1e-12)
        assert price.larger == pytest.approx((scores[2] - scores[1]) / (limits[2] - limits[1]), rel=1e-6, abs=1e-12)
        assert price.smaller >= 0
        assert price.larger >= 0
    for point in points:
        assert [price.budget for price in point.prices] == list(point.spec.budget.given)
        assert all(price.multiplier is None or price.multiplier >= 0 for price in point.prices)


def test_multipliers_are_slopes_where_optima_are_smooth() -> None:
    """On a fine grid, what a multiplier says of a MAC is what optima a tenth of the budget apart say, about."""
    stage = {"block": "bottleneck", "kernel": 3, "stride": 2, "depth": {"min": 1, "max": 8}}
    grids = {"channels": {"min": 8, "max": 256, "step": 4}, "mid": {"min": 4, "max": 128, "step": 4}}
    spec = Spec.from_table(
        {
            "name": "smooth",
            "input": {"resolution": 64, "classes": 10},
            "objective": {"depth_penalty": 0.1},
            "budget": {"macs": 30e6, "effectiveness": 0.5},
            "stem": {"kernel": 3, "stride": 2, "channels": [16, 24, 32]},
            "stage": [{**stage, **grids}, {**stage, **grids}],
        }
    )
    front = sweep(spec, {"macs": [27e6, 30e6, 33e6], "effectiveness": [0.45, 0.5, 0.55]})
    middle = front.points[4]
    for price in middle.prices:
        assert price.multiplier is not None
        assert price.smaller is not None
        assert price.larger is not None
        slope = (price.smaller + price.larger) / 2
        assert slope / 3 < price.multiplier < 3 * slope


def test_a_tree_moves_to_smaller_limits_without_an_evaluation() -> None:
    """Every bound that is taken over is one that an evaluation does not contradict: the moved multipliers give less."""
    spec = Spec.load(TOY)
    smaller = limited(spec, {"macs": 17e6, "params": 0.08e6, "effectiveness": 0.4})
    with threads(1) as workers:
        found = optimise(spec, workers, gap=1e-9, earlier=Earlier(spec, spec))
    assert found.root is not None
    before, after = relaxation(spec), Problem(smaller, spec).relaxation
    moved = reuse.reopened(found.root, before, after, math.inf, lambda _: -math.inf)
    assert not moved.open
    stack, leaves, lower = [(found.root, moved.root)], 0, 0
    while stack:
        old, new = stack.pop()
        stack.extend(zip(old.children, new.children, strict=True))
        if new.kind != "leaf":
            continue
        leaves += 1
        assert new.value <= old.value * (1 + 1e-11)
        lower += new.value < old.value * (1 - 1e-3)
        assert new.multipliers is not None
        tight = new.box.tightened
        assert tight is not None
        # What is best of all architectures within the new limits.
        inside = [
            x.score for x in oracle.architectures(smaller) if new.box.holds(x.path) and oracle.fits(smaller.budget, x)
        ]
        assert max(inside, default=-math.inf) <= new.value
    assert leaves > 3
    assert lower > leaves / 2


def test_tables_at_other_limits_are_those_that_would_be_built() -> None:
    for name in ("toy", "deepmad-b0", "mcu-f412"):
        spec = Spec.load(TOY.parents[1] / name / "spec.toml")
        smaller = limited(spec, {key: limit * 0.77 for key, limit in spec.budget.given.items()})
        ours, built = Relaxation(spec).limited(smaller), Relaxation(smaller)
        assert np.array_equal(ours.tables.real, built.tables.real)
        assert np.array_equal(ours.tables.whole, built.tables.whole)
        assert ours.log_ratio == built.log_ratio


def test_a_tree_is_read_back_to_the_last_bit() -> None:
    spec = Spec.load(TOY)
    with threads(1) as workers:
        found = optimise(spec, workers, gap=1e-9, earlier=Earlier(spec, spec))
    assert found.root is not None
    text = json.dumps(written(found.root), allow_nan=False)
    again = restored(whole(spec), json.loads(text))
    assert json.dumps(written(again)) == text
    stack = [(found.root, again)]
    while stack:
        old, new = stack.pop()
        assert new.box.tight == old.box.tight
        stack.extend(zip(old.children, new.children, strict=True))
    for wrong in (json.loads(text)[:-1], [*json.loads(text), json.loads(text)[-1]]):
        with pytest.raises(ValueError, match="records"):
            restored(whole(spec), wrong)


def test_no_slack_is_lost_in_a_large_box() -> None:
    """Trims of two targets: no design above the first is dropped by the first, and so on."""
    from mad_ip.lagrangian import tree

    spec = Spec.load(TOY)
    program = Program(relaxation(spec), whole(spec).tight)
    best = program.evaluate(program.start)
    scores = sorted((x.score, x.path) for x in oracle.architectures(spec) if oracle.fits(spec.budget, x))
    targets = [scores[len(scores) // 2][0], scores[-2][0]]
    trims = tree._trims(program, best, targets)
    assert trims
    for trim, target in zip(trims, targets[-len(trims) :], strict=True):
        assert trim.dropped <= target
        assert all(trim.box.holds(path) for score, path in scores if score > target)
        lost = [score for score, path in scores if not trim.box.holds(path)]
        assert max(lost, default=-math.inf) <= trim.dropped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flops=1:2:3", "'flops' is no budget; must be one of macs, params"),
        ("macs", "'' is no limit"),
        ("macs=1e6:2e6", "must be macs=FIRST:LAST:NUMBER"),
        ("macs=1e6:2e6:0", "number of points from 1"),
        ("macs=1e6:2e6:1", "at least 2 points"),
        ("macs=2e6:1e6:3", "first limit below its last"),
        ("macs=-1:1e6:3", "'-1' is no limit; must be a finite number greater than 0"),
        ("macs=nan:1e6:3", "'nan' is no limit"),
        ("macs=1e6:inf:3", "'inf' is no limit"),
        ("macs=1e6:2e6:100000000", "from 1 to 10,000"),
        ("macs=1e6:2e6:" + "9" * 5000, "from 1 to 10,000"),
        ("effectiveness=0:1:3", "'0' is no limit; must be a finite number greater than 0"),
        ("latency=5:8:3", "'5' is no limit; must be a text with"),
    ],
)
def test_bad_grids(text: str, said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(TOY), "--out", str(tmp_path / "front"), "--over", text])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert not (tmp_path / "front").exists()


def test_grids() -> None:
    assert grid(["macs=1e6:2e6:3", "latency=5 ms,8 ms"]) == {"macs": (1e6, 1.5e6, 2e6), "latency": (5e12, 8e12)}
    # Whole numbers are counted, so that nothing is between them.
    assert grid(["macs=10:12:7"]) == {"macs": (10.0, 11.0, 12.0)}
    assert grid(["effectiveness=0.1:0.3:3"])["effectiveness"] == pytest.approx((0.1, 0.2, 0.3))
    for texts, said in ((["macs=1e6", "macs=2e6"], "swept twice"), ([], "--over is missing")):
        with pytest.raises(InputError, match=said):
            grid(texts)
    with pytest.raises(InputError, match=r"at most 10,000"):
        grid(["macs=1e6:2e6:200", "params=1e6:2e6:200"])


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    spec = Spec.load(TOY)
    folder = tmp_path / "front"
    sweep(spec, {"macs": [10e6]}, out=folder)
    content = (folder / ".sweep.json").read_bytes()
    with pytest.raises(InputError, match="holds a sweep of another over"):
        sweep(spec, {"macs": [11e6]}, out=folder)
    with pytest.raises(InputError, match="holds a sweep of another spec_sha256"):
        sweep(dataclasses.replace(spec, name="other", sha256=""), {"macs": [10e6]}, out=folder)
    for wrong in (b"{}", b"[]", content.replace(b'"status"', b'"state"'), content[:-20]):
        (folder / ".sweep.json").write_bytes(wrong)
        with pytest.raises(InputError, match=r"\.sweep\.json"):
            sweep(spec, {"macs": [10e6]}, out=folder)
    (folder / ".sweep.json").write_bytes(content)
    design = folder / "designs" / "macs-10000000.json"
    changed = json.loads(design.read_text())
    changed["stages"][0]["depth"] += 1
    design.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="macs-10000000"):
        sweep(spec, {"macs": [10e6]}, out=folder)
    for name in ("front.csv", "index.html"):
        other = tmp_path / name
        other.mkdir()
        (other / name).write_text("mine\n")
        with pytest.raises(InputError, match="must be a new folder"):
            sweep(spec, {"macs": [10e6]}, out=other)
        assert (other / name).read_text() == "mine\n"


def test_a_design_in_the_place_of_another(tmp_path: Path) -> None:
    spec, folder = Spec.load(TOY), tmp_path / "front"
    sweep(spec, {"macs": [10e6, 20e6]}, out=folder)
    designs = folder / "designs"
    (designs / "macs-20000000.json").write_bytes((designs / "macs-10000000.json").read_bytes())
    with pytest.raises(InputError, match=r"macs-20000000\.json: not the design that the sweep left"):
        sweep(spec, {"macs": [10e6, 20e6]}, out=folder)


def test_whatever_is_edited_is_refused(tmp_path: Path) -> None:
    spec, over, folder = Spec.load(TOY), {"macs": [10e6, 15e6, 20e6]}, tmp_path / "front"

    def stop() -> bool:
        return len(list(folder.glob("designs/*.json"))) > 1

    with pytest.raises(Interrupted):
        sweep(spec, over, out=folder, interrupted=stop)
    state = json.loads((folder / ".sweep.json").read_text())
    ((_, at, name),) = state["trees"]
    assert at == [1]
    (tree,) = (folder / ".trees").iterdir()
    assert tree.name == name
    for changed in ("bound", "seconds", "multipliers", "status"):
        other = json.loads(json.dumps(state))
        other["points"][0][changed] = "x"
        (folder / ".sweep.json").write_text(json.dumps(other))
        with pytest.raises(InputError, match=r"\.sweep\.json: not what a sweep leaves"):
            sweep(spec, over, out=folder)
    (folder / ".sweep.json").write_text(json.dumps(state))
    content = tree.read_bytes()
    tree.write_bytes(content.replace(b"leaf", b"leaves"))
    with pytest.raises(InputError, match=rf"{name}: not the tree that the sweep left there"):
        sweep(spec, over, out=folder)
    tree.unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        sweep(spec, over, out=folder)
    tree.write_bytes(content)
    assert table(sweep(spec, over, out=folder)) == table(sweep(spec, over))
    assert not (folder / ".trees").exists()


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    spec, folder = Spec.load(TOY), tmp_path / "front"
    sweep(spec, {"macs": [10e6]}, out=folder)
    with locked(folder / ".lock"), pytest.raises(InputError, match="another sweep is at work there"):
        sweep(spec, {"macs": [10e6]}, out=folder)


def test_what_ends_early_unproven_is_solved_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for want of memory, within the time."""
    spec, over, folder = Spec.load(TOY), {"macs": [10e6, 20e6]}, tmp_path / "front"
    search, number = chain.search, itertools.count()

    def unproven(*given: Any, **more: Any) -> Design:
        design = search(*given, **more)
        assert design.certificate is not None
        return dataclasses.replace(design, certificate=dataclasses.replace(design.certificate, status="feasible"))

    with monkeypatch.context() as patch:
        patch.setattr(chain, "search", lambda *given, **more: (search, unproven)[next(number)](*given, **more))
        front = sweep(spec, over, out=folder)
    assert [point.status for point in front.points] == ["feasible", "optimal"]
    check(sweep(spec, over, out=folder))


def test_killed_while_a_better_design_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More time for a point replaces its files: cut between them and what tells of them, it is solved again."""
    spec, over, folder = Spec.load(TOY), {"macs": [10e6, 20e6]}, tmp_path / "front"
    sweep(spec, over, out=folder, time_limit=0.0)
    save = Design.save

    def killed(design: Design, path: Path) -> None:
        save(design, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Design, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(spec, over, out=folder)
    assert table(sweep(spec, over, out=folder)) == table(sweep(spec, over))


def test_a_failed_write_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, over, folder = Spec.load(TOY), {"macs": [10e6, 20e6]}, tmp_path / "front"
    right, written = sweeping.write_atomically, []

    def failing(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 4:
            raise InputError("the disk is full")
        right(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "write_atomically", failing)
        with pytest.raises(InputError, match="full"):
            sweep(spec, over, out=folder)
    assert table(sweep(spec, over, out=folder)) == table(sweep(spec, over))


@pytest.mark.parametrize(
    ("over", "options", "said"),
    [
        ({"mac": [10e6]}, {}, "must have limits of at least one of macs"),
        ({}, {}, "must have limits"),
        ({"macs": []}, {}, "must have limits"),
        ({"macs": [math.nan]}, {}, "macs = nan"),
        ({"macs": [1e300]}, {}, "is no name of a file"),
        ({"macs": [1e7]}, {"gap": math.inf}, "--gap = inf"),
        ({"macs": [1e7]}, {"threads": 0}, "--threads = 0"),
        ({"macs": [1e7]}, {"seed": 2**80}, "--seed"),
    ],
)
def test_bad_sweeps_in_code(over: Any, options: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        sweep(Spec.load(TOY), over, out=tmp_path / "front", **options)
    assert not (tmp_path / "front").exists()


def test_whole_numbers_in_between_are_no_points() -> None:
    spec = Spec.load(TOY)
    assert len(sweep(spec, {"layers": [22.0, 22.4, 22.9]}).points) == 1
    front = sweep(spec, {"layers": [21, 22, 23]})
    assert all(price.multiplier is None for point in front.points for price in point.prices if price.budget == "layers")


def test_the_command(tmp_path: Path) -> None:
    words = ["sweep", str(TOY), "--over", "macs=1e6,10e6,20e6", "--out", str(tmp_path / "front"), "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "infeasible" in done.output
    assert done.output.count("optimal") == 2
    stopped = CliRunner().invoke(app, [*words[:-2], str(tmp_path / "rushed"), "--quiet", "--time-limit", "0"])
    assert stopped.exit_code == 3
    assert sweeping.FRONT in {path.name for path in (tmp_path / "rushed").iterdir()}
