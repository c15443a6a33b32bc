"""Workers: the same tree whoever examines the boxes, processes that die, Ctrl-C, and a Dask cluster."""

from __future__ import annotations

import dataclasses
import functools
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import oracle
import pytest

from mad_ip import decomposition
from mad_ip.decomposition.workers import Workers, cluster, processes, relaxation, serial
from mad_ip.design import Design
from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.tree import Node, Task, Tree, branch_and_bound
from mad_ip.spec import Spec

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


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with processes(2) as workers:
        yield workers


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
    """The tree of the first rounds, which bound the whole space and nothing prunes."""
    tree = branch_and_bound(
        relaxation(spec),
        lambda: -math.inf,
        lambda _: -math.inf,
        workers=functools.partial(workers, spec),
        watch=lambda state: state.nodes >= 25,
    )
    return records(tree.root)


def optimise(spec: Spec, workers: Any) -> tuple[Tree, float]:
    """The finished tree and the best score that it came across, starting without one."""
    best = -math.inf
    exact = {
        ((x.structure[0], 1, 1, 1), *x.structure[1]): x.score
        for x in oracle.architectures(spec)
        if oracle.fits(spec.budget, x)
    }

    def judge(path: Any) -> float:
        nonlocal best
        best = max(best, exact.get(path, -math.inf))
        return exact.get(path, -math.inf)

    return branch_and_bound(relaxation(spec), lambda: best, judge, workers=functools.partial(workers, spec)), best


@pytest.fixture(scope="module")
def expected(spec: Spec, middle: Spec) -> dict[str, list[Any]]:
    """What this process finds by itself, without the module under test."""
    tree = branch_and_bound(relaxation(middle), lambda: -math.inf, lambda _: -math.inf, watch=lambda s: s.nodes >= 25)
    return {"middle": records(tree.root)}


@pytest.mark.parametrize("who", ["serial", "1 process", "2 processes", "cluster"])
def test_the_tree_is_the_same_bit_by_bit(who: str, middle: Spec, spec: Spec, expected: Any, request: Any) -> None:
    with ExitStack() as stack:
        if who == "serial":
            workers = stack.enter_context(serial())
        elif who == "1 process":
            workers = stack.enter_context(processes(1))
        elif who == "2 processes":
            workers = request.getfixturevalue("pool")
        else:
            workers = stack.enter_context(cluster(request.getfixturevalue("scheduler").scheduler_address))
        assert begun(middle, workers) == expected["middle"]
        # The same workers, another spec: a solve goes from coarse to fine grids.
        tree, best = optimise(spec, workers)
    assert {"split", "leaf"} <= {record[0] for record in records(tree.root)}
    optimum = oracle.enumerate_best(spec)
    assert optimum is not None
    assert best == optimum.score
    assert tree.state.open == 0 or tree.state.bound <= best


def killing(workers: Workers, pids: list[int], killed: list[int]) -> Workers:
    """Kill a process while the third round is under way."""
    rounds = 0

    def kill() -> None:
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    def examine(spec: Spec, tasks: Any) -> Any:
        nonlocal rounds
        rounds += 1
        timer = threading.Timer(0.01, kill)
        if rounds == 3:
            timer.start()
        try:
            return workers(spec, tasks)
        finally:
            if rounds == 3:
                timer.join()

    return examine


def children() -> list[int]:
    return [process.pid or 0 for process in multiprocessing.active_children()]


def test_a_killed_process_costs_its_tasks_only(middle: Spec, expected: Any) -> None:
    before, killed = set(children()), list[int]()
    with processes(2) as workers:
        pids = [pid for pid in children() if pid not in before]
        assert len(pids) == 2
        workers(middle, [Task(whole(middle), None, None, math.inf, math.inf, False, False)] * 4)
        assert begun(middle, killing(workers, pids, killed)) == expected["middle"]
        assert killed == pids[:1]
        assert not set(pids) & set(children())
        assert len(set(children()) - before) == 2
    assert set(children()) == before


def test_a_killed_worker_of_a_cluster_costs_its_tasks_only(scheduler: Any, middle: Spec, expected: Any) -> None:
    killed: list[int] = []
    with cluster(scheduler.scheduler_address) as workers, distributed.Client(scheduler, set_as_default=False) as client:
        pids = list(client.run(os.getpid).values())
        assert len(pids) == 2
        assert begun(middle, killing(workers, pids, killed)) == expected["middle"]
        client.wait_for_workers(2)
        assert killed == pids[:1]
        assert pids[0] not in client.run(os.getpid).values()


def test_a_solve_on_a_cluster_that_loses_a_worker_ends_at_the_same_optimum(scheduler: Any) -> None:
    spec = Spec.load(ZOO / "coarse" / "deepmad-29m.toml")
    with serial() as workers:
        alone = decomposition.optimise(spec, workers, gap=1e-4)
    killed: list[int] = []
    with cluster(scheduler.scheduler_address) as workers, distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2)
        pids = list(client.run(os.getpid).values())
        found = decomposition.optimise(spec, killing(workers, pids, killed), gap=1e-4)
        assert found == alone
        client.wait_for_workers(2)
    assert killed == pids[:1]


def test_solve_takes_the_address_of_a_cluster(scheduler: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mad_ip.cli import main; main()", "solve", str(ZOO / "toy" / "spec.toml")]
    options = ["--cluster", scheduler.scheduler_address, "--out", str(tmp_path / "design.json"), "--quiet"]
    subprocess.run([*command, *options], check=True, timeout=120, stdout=subprocess.DEVNULL)
    stored = Design.load(ZOO / "toy" / "design.json")
    assert Design.load(tmp_path / "design.json").metrics == stored.metrics


class Lethal:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_task_that_always_kills_ends_the_search(spec: Spec) -> None:
    before = set(children())
    with processes(1) as workers, pytest.raises(MadIpError, match="died 3 times"):
        workers(spec, [Task(Lethal(), None, None, math.inf, 0.0, False, False)])  # type: ignore[arg-type]
    assert set(children()) == before


@pytest.mark.parametrize("who", ["processes", "cluster"])
def test_an_exception_arrives_as_it_is_and_work_goes_on(who: str, spec: Spec, request: Any) -> None:
    good = Task(whole(spec), None, None, math.inf, 0.0, True, True)
    bad = dataclasses.replace(good, multipliers=np.zeros(0))
    with ExitStack() as stack:
        if who == "processes":
            workers = request.getfixturevalue("pool")
        else:
            workers = stack.enter_context(cluster(request.getfixturevalue("scheduler").scheduler_address))
        with serial() as here, pytest.raises(Exception, match=r"\w") as own:
            here(spec, [good, bad])
        with pytest.raises(own.type) as raised:
            workers(spec, [good, bad])
        assert str(raised.value) == str(own.value)
        (found,) = workers(spec, [good])
        assert found.bound is not None


SCRIPT = """
import math, multiprocessing, time
from mad_ip.decomposition.workers import processes
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.tree import Task
from mad_ip.spec import Spec

if __name__ == "__main__":
    spec = Spec.load({path!r})
    task = Task(whole(spec), None, None, math.inf, 0.0, True, True)
    with processes(2) as workers:
        pids = {{process.pid for process in multiprocessing.active_children()}}
        {warm}
        try:
            print("ready", flush=True)
            while True:
                workers(spec, [task] * 8)
        except KeyboardInterrupt:
            pass
        workers(spec, [task] * 2)
        assert {{process.pid for process in multiprocessing.active_children()}} == pids
    print("closed", flush=True)
"""


def started(tmp_path: Path, *, warm: bool) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT.format(path=str(ZOO / "mobile" / "spec.toml"), warm="workers(spec, [task])" * warm))
    )
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


@pytest.mark.parametrize("warm", [False, True])
def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path, warm: bool) -> None:
    """As a terminal sends it, to the whole group: while the processes start, and while they work."""
    process = started(tmp_path, warm=warm)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("closed\n", "", 0)


def test_processes_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = started(tmp_path, warm=True)
    process.kill()
    # The output ends when the last process that holds it is gone.
    _, errors = process.communicate(timeout=10)
    assert "Traceback" not in errors


def test_without_dask_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(InputError, match=r"pip install 'mad-ip\[cluster\]'"), cluster("tcp://127.0.0.1:8786"):
        pass


def test_no_scheduler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad_ip.decomposition.workers._PATIENCE", 1)
    with socket.socket() as unused:
        # Bound but not listening: nobody answers, and nobody else takes the port.
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        sentence = f"{address}: no Dask scheduler answers there within 1 s"
        with pytest.raises(InputError, match=sentence), cluster(address):
            pass
    with pytest.raises(InputError, match="no Dask scheduler"), cluster("no such scheme://"):
        pass
