"""Running cases in forks of a process that has loaded everything, so that no case can take it along.

A fork runs some cases one after another, each in an empty folder, with limits on memory, on the size of files and on
time; where it dies, the first case without an outcome is the one to blame, and another fork goes on after it.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import itertools
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tools.fuzz.cases import Case
from tools.fuzz.judge import MEMORY, Outcome, judge, where

__all__ = ["LATE", "Result", "prepare", "run", "run_one", "solve_here"]

LATE = "no end in time in "
"""How the kind of a case begins that took too long, which need not be its fault on a busy machine."""

_BATCH = 50
"""Cases of a fork, which takes 40 ms."""

_ROOM = MEMORY * 3 // 2
"""Bytes of address space for a case; what it holds of them is measured."""

_FILE = 10**8
"""Bytes of a file that a case may write."""

_CLOCK = 8
"""Seconds of the clock that a case may take for each of a processor: the machine may be busy."""

_GRACE = 10.0
"""Seconds beyond its time after which a fork that does not even end itself is killed."""


@dataclass(frozen=True)
class Result:
    """What came of the case of a number; ``kind`` is what is wrong with it, empty where nothing is."""

    number: int
    case: Case
    kind: str
    outcome: Outcome


Drawn = Callable[[int], Case]


def prepare(folder: Path) -> dict[str, bytes]:
    """Load what commands load, once, let them build their options once, and return the files to begin with.

    Nothing here may leave a thread, which a fork would lose.
    """
    import highspy  # noqa: F401 (loaded for the forks)
    import scipy.sparse  # noqa: F401
    import typer.main

    import mad_ip.calibration
    import mad_ip.cli
    import mad_ip.explanation
    import mad_ip.formulation
    import mad_ip.mcunet
    import mad_ip.model_files
    import mad_ip.networks.export
    import mad_ip.networks.training
    import mad_ip.reports.calibration
    import mad_ip.reports.front
    import mad_ip.sampling
    import mad_ip.scoring
    import mad_ip.start
    import mad_ip.sweep
    import mad_ip.tinynas
    import mad_ip.verification
    from tools.fuzz.material import make, oracle

    oracle()
    typer.main.get_command = functools.cache(typer.main.get_command)
    # As in the tests: the search for the optimum of a calibration takes seconds.
    for name, value in (("_GENERATIONS", 20), ("_LIMITS", 9), ("_RESAMPLED", 60)):
        if hasattr(mad_ip.calibration, name):
            setattr(mad_ip.calibration, name, value)
    _solve_here(True)
    with _silent():
        files = make(folder / "material")
        _warm(folder / "material")
    gc.collect()
    gc.freeze()
    return files


_WARM = (
    "show small.toml",
    "solve small.toml --quiet --explain",
    "solve small.toml --quiet --top 2 --json",
    "show small.json",
    "verify small.json --spec small.toml --quiet --threads 1 --evaluations 100",
    "sweep small.toml --over macs=2e6 --quiet --out front",
    "export-model small.toml --quiet --out small.mps",
    "score small.json",
    "build small.json --out small.safetensors",
    "nothing",
)
"""Commands whose first run takes longer than others: there is machine code to load."""


def _warm(folder: Path) -> None:
    from mad_ip.cli import main

    here, arguments = os.getcwd(), sys.argv
    os.chdir(folder)
    for line in _WARM:
        sys.argv = ["mad-ip", *line.split()]
        with suppress(SystemExit):
            main()
    os.chdir(here)
    sys.argv = arguments


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is printed, from C neither."""
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def run(
    numbers: Iterator[int], drawn: Drawn, folder: Path, *, workers: int, seconds: float, stop: Callable[[], bool]
) -> Iterator[Result]:
    """The results of cases as they come, of so many forks at a time; ``seconds`` is what each case may take."""
    slots = [_Slot(folder / str(place), drawn, seconds) for place in range(workers)]
    try:
        while True:
            for slot in slots:
                if not slot.waiting and not stop():
                    slot.waiting.extend(itertools.islice(numbers, _BATCH))
                if slot.waiting and slot.pipe is None:
                    slot.start()
            pipes: dict[Any, _Slot] = {slot.pipe: slot for slot in slots if slot.pipe is not None}
            if not pipes:
                return
            ready = connection.wait(list(pipes), _GRACE)
            for pipe in ready:
                yield from pipes[pipe].receive()
            for slot in slots:
                slot.kill_if_late()
    finally:
        for slot in slots:
            slot.end()


def run_one(case: Case, folder: Path, seconds: float) -> Result:
    """The result of one case in a fork of its own."""
    (result,) = run(iter([0]), lambda number: case, folder, workers=1, seconds=seconds, stop=lambda: False)
    return result


@dataclass
class _Slot:
    """A place for one fork after another, with its folder."""

    folder: Path
    drawn: Drawn
    seconds: float
    waiting: deque[int] = field(default_factory=deque)
    pipe: Connection | None = None
    child: int = 0
    heard: float = 0.0

    def start(self) -> None:
        """Fork for what waits."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "case").mkdir(parents=True)
        ours, theirs = Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        self.heard = time.monotonic()
        self.child = os.fork()
        if self.child == 0:
            # Whatever happens: this process never returns to what the parent does next.
            try:
                ours.close()
                _serve(list(self.waiting), self.drawn, self.folder, self.seconds, theirs)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(9)
        theirs.close()
        self.pipe = ours

    def receive(self) -> Iterator[Result]:
        """What the fork has to say, or what is to be said of its end."""
        assert self.pipe is not None
        try:
            result = self.pipe.recv()
        except (EOFError, OSError):
            yield from self._ended()
            return
        self.heard = time.monotonic()
        self.waiting.popleft()
        yield result

    def _ended(self) -> Iterator[Result]:
        status = self.end()
        if status in (0, 8):
            return
        number = self.waiting.popleft()
        case = self.drawn(number)
        trace = _text(self.folder / "trace")
        said = Outcome(None, _text(self.folder / "output"), _text(self.folder / "errors"), trace, 0.0, 0)
        if status in (-signal.SIGKILL, -signal.SIGPROF) or "Timeout" in trace:
            kind = f"{LATE}{where(trace)}"
        else:
            kind = f"the process ends with {status} in {where(trace or said.errors)}"
        yield Result(number, case, kind, said)

    def kill_if_late(self) -> None:
        """End a fork that has not ended itself."""
        if self.pipe is not None and time.monotonic() - self.heard > self.seconds * _CLOCK * 2 + _GRACE:
            os.kill(self.child, signal.SIGKILL)

    def end(self) -> int:
        """End the fork, and what it has started; its exit code, or minus the signal that ended it."""
        if self.pipe is None:
            return 0
        self.pipe.close()
        self.pipe = None
        # Its group outlives it: solvers that it has started.
        done, status = os.waitpid(self.child, os.WNOHANG)
        if not done:
            time.sleep(0.02)
            done, status = os.waitpid(self.child, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)
        if not done:
            _, status = os.waitpid(self.child, 0)
        return os.waitstatus_to_exitcode(status)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""


def _serve(numbers: Sequence[int], drawn: Drawn, folder: Path, seconds: float, pipe: Connection) -> None:
    """The fork: cases one after another."""
    os.setpgid(0, 0)
    _redirect(folder)
    _limit()
    trace = (folder / "trace").open("wb")
    faulthandler.enable(trace)
    # It says where the process was, and then the signal ends it.
    faulthandler.register(signal.SIGPROF, trace, chain=True)
    for number in numbers:
        case = drawn(number)
        result = _case(number, case, folder, seconds, trace)
        pipe.send(result)
        # After these the process may not be what it was.
        if "MemoryError" in result.outcome.trace or result.outcome.memory > MEMORY // 2:
            os._exit(8)
    os._exit(0)


def _redirect(folder: Path) -> None:
    """Standard output and error go to files, with which Python and C can both write; there is no input."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = Path("/proc/self/statm")
    if size.exists():
        limit = int(size.read_text().split()[0]) * resource.getpagesize() + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _case(number: int, case: Case, folder: Path, seconds: float, trace: Any) -> Result:
    place = folder / "case"
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in case.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    os.chdir(place)
    _solve_here(not case.apart)
    outcome = _command(case.words, place, seconds, trace)
    kind = judge(case, outcome, place)
    if not kind and outcome.code == 0 and case.then:
        after = _command(case.then, place, seconds, trace)
        if after.code != 0:
            kind = f"{case.words[0]} writes what {case.then[0]} refuses"
            outcome = after
    return Result(number, case, kind, outcome)


def _command(words: Sequence[str], place: Path, seconds: float, trace: Any) -> Outcome:
    from mad_ip.cli import main

    for descriptor in (1, 2, trace.fileno()):
        os.ftruncate(descriptor, 0)
    trace.seek(0)
    before = set(_names(place))
    base = _usage()
    code: int | None = None
    said = ""
    sys.argv = ["mad-ip", *words]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(seconds * _CLOCK, exit=True, file=trace)
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        said = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    used = _usage()
    grown = max(used[0] - base[0], used[1] if used[1] > base[1] else 0)
    output, errors = (_text(place.parent / name)[: 10**6] for name in ("output", "errors"))
    left = tuple(name for name in _names(place) if name not in before)
    return Outcome(code, output, errors, said, used[2] - base[2], grown, left)


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]


def _usage() -> tuple[int, int, float]:
    """Peak memory in bytes, that of ended children, and seconds of processors of all of them."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024
    spent = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    return own.ru_maxrss * unit, children.ru_maxrss * unit, spent


def solve_here(profile: Any, problem: Any, limits: Any, watch: Callable[[Any], bool]) -> Any:
    """Instead of :func:`mad_ip.backends.solve_apart`: a small solve takes less time than the start of its process."""
    from mad_ip import backends

    raised: list[Exception] = []

    def guarded(progress: Any) -> bool:
        # A solver that calls from C would lose it.
        try:
            return bool(watch(progress))
        except Exception as error:
            raised.append(error)
            return True

    outcome = backends.load_backend(profile).solve(problem, limits, guarded)
    if raised:
        raise raised[0]
    return outcome


def _solve_here(here: bool) -> None:
    """Have solvers run in this process, or in one of their own."""
    from mad_ip import backends

    # The package has a function of that name.
    module: Any = importlib.import_module("mad_ip.solve")
    module.solve_apart = solve_here if here else backends.solve_apart
