"""Workers: the same tree whoever examines the boxes, threads or a Dask cluster that loses some; Ctrl-C."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import oracle
import pytest

from mad_ip import decomposition
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.lagrangian import dual, tree
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.cluster import cluster
from mad_ip.lagrangian.program import Bound
from mad_ip.lagrangian.tree import Examined, Node, Task, Tree, branch_and_bound
from mad_ip.lagrangian.workers import Problem, Workers, relaxation, threads
from mad_ip.spec import Spec
from mad_ip.sweep import sweep, table

ZOO = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def spec() -> Spec:
    stage = {"block": "bottleneck", "stride": 2, "mid": [16, 32, 48], "kernel": [3, 5], "depth": [1, 2, 3, 4]}
    return Spec.from_table(
        {
            "name": "small",
            "input": {"resolution": 32, "classes": 10},
            "budget": {"macs": 5e6, "params": 60e3, "effectiveness": 0.2},
            "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
            "stage": [{**stage, "channels": [32, 48, 64]}, {**stage, "channels": [64, 80, 96]}],
        }
    )


@pytest.fixture(scope="module")
def middle() -> Spec:
    return Spec.load(ZOO / "mobile" / "spec.toml")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as local:
        yield local


def never() -> bool:
    return False


def examined(workers: Workers, spec: Spec, tasks: list[Task], stop: Callable[[], bool]) -> list[Examined]:
    results = [workers(Problem(spec), task, stop) for task in tasks]
    return [result() for result in results]


def records(root: Node) -> list[Any]:
    """All that a tree holds, in preorder, with numbers as their bits."""
    found, stack = [], [root]
    while stack:
        node = stack.pop()
        multipliers = None if node.multipliers is None else node.multipliers.tobytes()
        found.append((node.kind, node.split, node.box, float(node.value).hex(), multipliers, node.tangents))
        stack += reversed(node.children)
    return found


def begun(spec: Spec, workers: Workers) -> list[Any]:
    """The tree of the first boxes, which bound the whole space and nothing prunes."""
    tree = branch_and_bound(
        relaxation(spec),
        lambda: -math.inf,
        lambda _: -math.inf,
        workers=functools.partial(workers, Problem(spec)),
        watch=lambda state: state.nodes >= 25,
    )
    return records(tree.root)


def optimise(spec: Spec, workers: Any) -> tuple[Tree, float]:
    """The finished tree and the best score that it came across, starting without one."""
    best = -math.inf
    exact = {x.path: x.score for x in oracle.architectures(spec) if oracle.fits(spec.budget, x)}

    def judge(path: Any) -> float:
        nonlocal best
        best = max(best, exact.get(path, -math.inf))
        return exact.get(path, -math.inf)

    return branch_and_bound(
        relaxation(spec), lambda: best, judge, workers=functools.partial(workers, Problem(spec))
    ), best


@pytest.fixture(scope="module")
def expected(spec: Spec, middle: Spec) -> dict[str, list[Any]]:
    """What this process finds by itself, without the module under test."""
    tree = branch_and_bound(relaxation(middle), lambda: -math.inf, lambda _: -math.inf, watch=lambda s: s.nodes >= 25)
    return {"middle": records(tree.root)}


@contextmanager
def working(who: int | str, request: Any) -> Iterator[Workers]:
    """So many threads, or the cluster."""
    with (
        threads(who)
        if isinstance(who, int)
        else cluster(request.getfixturevalue("scheduler").scheduler_address) as workers
    ):
        yield workers


@pytest.mark.parametrize("who", [1, 2, 3, "cluster"])
def test_the_tree_is_the_same_bit_by_bit(who: int | str, middle: Spec, spec: Spec, expected: Any, request: Any) -> None:
    with working(who, request) as workers:
        assert begun(middle, workers) == expected["middle"]
        # The same workers, another spec.
        tree, best = optimise(spec, workers)
    assert {"split", "leaf"} <= {record[0] for record in records(tree.root)}
    optimum = oracle.enumerate_best(spec)
    assert optimum is not None
    assert best == optimum.score
    assert tree.state.open == 0 or tree.state.bound <= best


def test_threads_leave_what_nobody_waits_for(middle: Spec) -> None:
    """Boxes of a tree that was given up are not in the way of the next one, nor of the end."""
    task = Task(box=whole(middle), above=None, start=None, known=None, target=-math.inf)
    done = 0
    right = tree.examine

    def counting(*arguments: Any, **options: Any) -> Examined:
        nonlocal done
        found = right(*arguments, **options)
        done += 1
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mad_ip.lagrangian.workers.examine", counting)
        with threads(2) as workers:
            for _ in range(20):
                workers(Problem(middle), task, never)
            workers(Problem(middle), task, never)()
            for _ in range(20):
                workers(Problem(middle), task, never)
    # The one that was asked for, and what the two were at when others were given up.
    assert 1 <= done <= 5


def killing(workers: Workers, pids: list[int], killed: list[int]) -> Workers:
    """Kill a process while the tenth box is under way."""
    boxes = 0

    def kill() -> None:
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    def examine(problem: Problem, task: Any, stop: Any) -> Any:
        nonlocal boxes
        boxes += 1
        timer = threading.Timer(0.01, kill)
        if boxes == 10:
            timer.start()
        try:
            return workers(problem, task, stop)
        finally:
            if boxes == 10:
                timer.join()

    return examine


def test_a_killed_worker_of_a_cluster_costs_its_tasks_only(scheduler: Any, middle: Spec, expected: Any) -> None:
    killed: list[int] = []
    with cluster(scheduler.scheduler_address) as workers, distributed.Client(scheduler, set_as_default=False) as client:
        pids = list(client.run(os.getpid).values())
        assert len(pids) == 2
        assert begun(middle, killing(workers, pids, killed)) == expected["middle"]
        client.wait_for_workers(2, timeout=60)
        assert killed == pids[:1]
        assert pids[0] not in client.run(os.getpid).values()


def test_a_sweep_on_a_cluster(scheduler: Any) -> None:
    spec, over = Spec.load(ZOO / "toy" / "spec.toml"), {"macs": [8e6, 14e6, 20e6]}
    assert table(sweep(spec, over, cluster=scheduler.scheduler_address)) == table(sweep(spec, over))


def test_a_solve_on_a_cluster_that_loses_a_worker_ends_at_the_same_optimum(scheduler: Any) -> None:
    spec = Spec.load(ZOO / "coarse" / "deepmad-29m.toml")
    with threads(1) as workers:
        alone = decomposition.optimise(spec, workers, gap=1e-4)
    killed: list[int] = []
    with cluster(scheduler.scheduler_address) as workers, distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        pids = list(client.run(os.getpid).values())
        found = decomposition.optimise(spec, killing(workers, pids, killed), gap=1e-4)
        assert found == alone
        client.wait_for_workers(2, timeout=60)
    assert killed == pids[:1]


def test_a_cluster_that_is_late_is_left_with_the_bounds_that_are_known(scheduler: Any, middle: Spec) -> None:
    above = Bound(math.inf, np.zeros(0), (), None)
    task = Task(box=whole(middle), above=above, start=None, known=None, target=-math.inf)
    with cluster(scheduler.scheduler_address) as workers:
        found = examined(workers, middle, [task] * 8, lambda: True)
        assert [one.bound for one in found[1:]] == [above] * 7
        # Without a bound there is no stopping.
        (found_all_the_same,) = examined(workers, middle, [dataclasses.replace(task, above=None)], lambda: True)
    assert found_all_the_same.bound is not None
    assert found_all_the_same.bound.value < math.inf


def test_solve_takes_the_address_of_a_cluster(scheduler: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mad_ip.cli import main; main()", "solve", str(ZOO / "toy" / "spec.toml")]
    options = ["--cluster", scheduler.scheduler_address, "--out", str(tmp_path / "design.json"), "--quiet"]
    subprocess.run([*command, *options], check=True, timeout=120, stdout=subprocess.DEVNULL)
    stored = Design.load(ZOO / "toy" / "design.json")
    assert Design.load(tmp_path / "design.json").metrics == stored.metrics


@pytest.mark.parametrize("who", [1, 2, "cluster"])
def test_an_exception_arrives_as_it_is_and_work_goes_on(who: int | str, spec: Spec, request: Any) -> None:
    good = Task(box=whole(spec), above=None, start=None, known=None, target=math.inf)
    bad = dataclasses.replace(good, start=Bound(math.inf, np.zeros(0), (), None))
    with threads(1) as here, pytest.raises(Exception, match=r"\w") as own:
        examined(here, spec, [good, bad], never)
    with working(who, request) as workers:
        with pytest.raises(own.type) as raised:
            examined(workers, spec, [good, bad], never)
        assert str(raised.value) == str(own.value)
        (found,) = examined(workers, spec, [good], never)
        assert found.bound is not None


@pytest.mark.parametrize("number", [1, 2])
def test_threads_stop_inside_of_a_box(number: int, middle: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every box that is begun is bounded all the same, by what was under way when it was told to."""
    evaluations = 0
    right = dual._improve

    def counting(search: Any, *arguments: Any) -> Any:
        nonlocal evaluations
        left = search.counts[dual._LEFT]
        found = right(search, *arguments)
        evaluations += left - search.counts[dual._LEFT]
        return found

    monkeypatch.setattr(dual, "_improve", counting)
    tasks = [Task(box=whole(middle), above=None, start=None, known=None, target=-math.inf)] * 3
    with threads(number) as workers:
        complete = examined(workers, middle, tasks, never)
        needed, evaluations = evaluations, 0
        stopped = examined(workers, middle, tasks, lambda: evaluations >= 5)
    # What a thread is at is done first: a small box, or an evaluation of a large one.
    assert 5 <= evaluations < min(needed, number * dual.EVALUATIONS)
    for all_of, part in zip(complete, stopped, strict=True):
        assert all_of.bound is not None
        assert part.bound is not None
        assert all_of.bound.value <= part.bound.value < math.inf
        assert part.cuts == ()


SCRIPT = """
import math
from mad_ip.backends import Profile
from mad_ip.solve import solve
from mad_ip.spec import Spec

spec = Spec.load({path!r})
asked = []

def watch(report):
    if not asked:
        print("ready", flush=True)
    asked.append(report)

try:
    solve(spec, profile=Profile("decomposition"), gap=0.0, threads=2, watch=watch)
except KeyboardInterrupt:
    print("closed", flush=True)
"""


def started(tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(path=str(ZOO / "mobile" / "spec.toml"))))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_ends_the_threads(tmp_path: Path) -> None:
    process = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("closed\n", "", 0)


def test_without_dask_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(InputError, match=r"pip install 'mad-ip\[cluster\]'"), cluster("tcp://127.0.0.1:8786"):
        pass


def test_no_scheduler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad_ip.lagrangian.cluster._PATIENCE", 1)
    with socket.socket() as unused:
        # Bound but not listening: nobody answers, and nobody else takes the port.
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        sentence = f"{address}: no Dask scheduler answers there within 1 s"
        with pytest.raises(InputError, match=sentence), cluster(address):
            pass
    with pytest.raises(InputError, match="no Dask scheduler"), cluster("no such scheme://"):
        pass
