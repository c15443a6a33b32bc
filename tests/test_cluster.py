"""A Dask cluster that is not what it should be: TLS, what is lost and what never comes, other versions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
import trustme
from dask.distributed import Client

from mad_ip import __version__, decomposition
from mad_ip.backends import Profile
from mad_ip.decomposition import Found
from mad_ip.errors import InputError, MadIpWarning
from mad_ip.lagrangian.cluster import cluster
from mad_ip.lagrangian.workers import Workers, threads
from mad_ip.solve import solve
from mad_ip.spec import Spec

ROOT = Path(__file__).parents[1]
TOY = ROOT / "models" / "toy" / "spec.toml"
TLS = "distributed.comm.tls"


class Dask:
    """A scheduler and workers, each in a process of its own."""

    def __init__(self, folder: Path, host: str = "tcp://127.0.0.1", **settings: str) -> None:
        self.file = folder / "scheduler.json"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._started("scheduler", "--host", host, "--port", "0")
        self.address: str = self._awaited(lambda: self.file.exists() and json.loads(self.file.read_text())["address"])

    def add(self, *options: str) -> None:
        """One more worker, which is still on its way."""
        self.workers.append(self._started("worker", "--no-nanny", "--nthreads", "1", *options))

    def remove(self) -> None:
        """One worker less, which says goodbye."""
        process = self.workers.pop()
        process.terminate()
        process.wait()

    def await_workers(self, number: int = 1) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(number, timeout=60)

    def kill(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _started(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self.file)]
        return subprocess.Popen(
            [*command, "--no-dashboard", *options],
            cwd=self.file.parent,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _awaited(self, condition: Callable[[], Any]) -> Any:
        for _ in range(1200):
            try:
                if found := condition():
                    return found
            except ValueError:
                # Half-written.
                pass
            time.sleep(0.05)
        raise TimeoutError


@contextmanager
def dasks(folder: Path, **settings: str) -> Iterator[Dask]:
    started = Dask(folder, **settings)
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    """A scheduler without workers."""
    with dasks(tmp_path_factory.mktemp("lonely")) as started:
        yield started


@pytest.fixture(scope="module")
def spec() -> Spec:
    return Spec.load(TOY)


@pytest.fixture(scope="module")
def alone(spec: Spec) -> Found:
    with threads(1) as workers:
        return decomposition.optimise(spec, workers, gap=1e-6)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad_ip.lagrangian.cluster._PATIENCE", 2.0)


def before(box: int, workers: Workers, act: Callable[[], object]) -> Workers:
    """Do something before a box is begun while others are under way."""
    begun = 0

    def begin(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == box:
            act()
        return workers(*arguments)

    return begin


Caught = list[warnings.WarningMessage]

IDLE = "no worker has been there for 2 s"


def said(lost: Dask, reason: str) -> str:
    return f"--cluster {lost.address}: {reason}; this process goes on with what is left to it"


@pytest.fixture(autouse=True)
def caught() -> Iterator[Caught]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", MadIpWarning)
        yield found


def sentences(caught: Caught) -> list[str]:
    return [str(warning.message) for warning in caught if issubclass(warning.category, MadIpWarning)]


def test_workers_and_then_the_scheduler_are_lost(
    tmp_path: Path,
    spec: Spec,
    alone: Found,
    impatient: None,
    caught: Caught,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with dasks(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as lost:
        lost.add()
        lost.await_workers()
        with cluster(lost.address) as workers:
            assert decomposition.optimise(spec, before(20, workers, lost.workers[0].kill), gap=1e-6) == alone
        # Whichever box was under way counts as what killed it, if any was; the others wait for a worker.
        idle, killed = (said(lost, reason) for reason in (IDLE, "several workers died over the same box"))
        assert {idle} <= set(sentences(caught)) <= {idle, killed}

        caught.clear()
        lost.add()
        lost.await_workers()
        with cluster(lost.address) as workers:
            assert decomposition.optimise(spec, before(20, workers, lost.scheduler.kill), gap=1e-6) == alone
        assert sentences(caught) == [said(lost, "the scheduler is gone")]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_scheduler_that_says_nothing_is_left(
    lonely: Dask, spec: Spec, alone: Found, impatient: None, caught: Caught
) -> None:
    try:
        with cluster(lonely.address) as workers:
            stopped = before(2, workers, lambda: lonely.scheduler.send_signal(signal.SIGSTOP))
            assert decomposition.optimise(spec, stopped, gap=1e-6) == alone
        assert sentences(caught) == [said(lonely, IDLE)]
        with pytest.raises(InputError, match="no Dask scheduler answers there within 2 s"), cluster(lonely.address):
            pass
    finally:
        lonely.scheduler.send_signal(signal.SIGCONT)


def test_a_wish_to_stop_is_heard_while_nobody_works(lonely: Dask, spec: Spec, alone: Found) -> None:
    wishes = 0

    def wished() -> bool:
        nonlocal wishes
        wishes += 1
        return wishes > 20

    with cluster(lonely.address, wished=wished) as workers:
        found = decomposition.optimise(spec, workers, gap=1e-6, watch=lambda _: wishes > 20)
    assert found.paths
    assert found.score <= alone.score <= found.bound < math.inf
    assert found.nodes == 1


def test_a_time_limit_is_kept_while_nobody_works(lonely: Dask, spec: Spec, alone: Found) -> None:
    design = solve(spec, profile=Profile("decomposition", {"cluster": lonely.address}), time_limit=3)
    certificate = design.certificate
    assert certificate is not None
    assert certificate.status == "feasible"
    assert design.metrics.score <= alone.score <= certificate.bound < math.inf
    assert 3 <= certificate.seconds < 3 + 6


def test_workers_of_other_versions_are_left_alone_or_refused(
    lonely: Dask, spec: Spec, alone: Found, caught: Caught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mad_ip.lagrangian.cluster._PATIENCE", 60.0)
    with cluster(lonely.address) as workers:
        # It comes when the solve is under way.
        other = ("--preload", "import mad_ip; mad_ip.__version__ = '0.0.1'")
        assert decomposition.optimise(spec, before(1, workers, lambda: lonely.add(*other)), gap=1e-6) == alone
    assert sentences(caught) == [said(lonely, f"a worker has mad-ip 0.0.1, here it is {__version__}")]
    refused = rf"{lonely.address}: the worker tcp://\S+ has mad-ip 0\.0\.1, here it is \S+; must have the same"
    with pytest.raises(InputError, match=refused), cluster(lonely.address):
        pass
    lonely.remove()

    lonely.add("--preload", "import sys; sys.modules['mad_ip'] = None")
    lonely.await_workers()
    with pytest.raises(InputError, match=r"the worker tcp://\S+ cannot run mad-ip \("), cluster(lonely.address):
        pass
    lonely.remove()


def test_connecting_takes_the_time_limit_at_most_and_stops_when_told_to(spec: Spec) -> None:
    with socket.socket() as deaf:
        # It takes connections, and never says a word.
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InputError, match=f"{address}: .* within 0.5 s; must be"), cluster(address, seconds=0.5):
            pass
        assert time.monotonic() - began < 5
        with cluster(address, wished=lambda: True) as workers:
            assert decomposition.optimise(spec, workers, gap=1e-6, watch=lambda _: True).paths
        assert time.monotonic() - began < 10


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Files of an authority and of what it vouches for."""

    authority: Path
    own: Path

    @classmethod
    def issued(cls, folder: Path) -> Certificates:
        folder.mkdir()
        authority, made = trustme.CA(), cls(folder / "ca.pem", folder / "own.pem")
        authority.cert_pem.write_to_path(made.authority)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(made.own)
        return made

    def settings(self, role: str) -> dict[str, str]:
        return {f"{TLS}.ca-file": str(self.authority), f"{TLS}.{role}.cert": str(self.own)}

    def environment(self) -> dict[str, str]:
        settings = {**self.settings("scheduler"), **self.settings("worker")}
        return {f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": value for key, value in settings.items()}


def test_tls_is_as_dask_is_configured(tmp_path: Path) -> None:
    right, wrong = Certificates.issued(tmp_path / "right"), Certificates.issued(tmp_path / "wrong")
    with dasks(tmp_path, host="tls://127.0.0.1", **right.environment()) as secret:
        assert secret.address.startswith("tls://")
        secret.add()
        named = r"distributed\.comm\.tls\.ca-file, client\.cert and client\.key of Dask's configuration"
        with pytest.raises(InputError, match=rf"TLS is not set up; {named}"), cluster(secret.address):
            pass
        with (
            dask.config.set(wrong.settings("client")),
            pytest.raises(InputError, match=rf"TLS fails \(.*CERTIFICATE_VERIFY_FAILED.*\); {named}"),
            cluster(secret.address),
        ):
            pass
        with (
            dask.config.set({**right.settings("client"), f"{TLS}.ca-file": str(tmp_path / "none.pem")}),
            pytest.raises(InputError, match=rf"TLS cannot be set up \(.*No such file.*\); {named}"),
            cluster(secret.address),
        ):
            pass
        with (
            dask.config.set({"distributed.comm.require-encryption": True}),
            pytest.raises(InputError, match=r"encryption required .* must be an address that begins with tls://"),
            cluster(secret.address.replace("tls", "tcp")),
        ):
            pass
        with dask.config.set(right.settings("client")):
            secret.await_workers()
        configuration = tmp_path / "dask"
        configuration.mkdir()
        (configuration / "tls.yaml").write_text(
            json.dumps(
                {
                    "distributed": {
                        "comm": {"tls": {"ca-file": str(right.authority), "client": {"cert": str(right.own)}}}
                    }
                }
            )
        )
        done = subprocess.run(
            [sys.executable, "-m", "mad_ip", "solve", str(TOY), "--cluster", secret.address, "--quiet"],
            cwd=ROOT,
            env={**os.environ, "DASK_CONFIG": str(configuration)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
