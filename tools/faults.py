"""What becomes of commands whose processes are killed: ``python -m tools.faults`` (``make faults``).

A solve, two kinds of verification, a sweep, a training and a comparison run again and again, each in a folder of its
own. At a random moment, which the seed determines, one of their processes gets SIGKILL, or the command gets SIGTERM,
SIGHUP or SIGINT, alone, with its process group as from a terminal, or with all its processes as from a batch queue.
Then it must end with its right result, with a result that says what it lacks, or with a sentence; leave only whole
files and no process; and run again to its end. What is wrong stays in build/faults.

Linux is needed: processes are found by their environment.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mad_ip.design import FORMAT, Design, StageChoice, StemChoice
from mad_ip.errors import InputError

__all__ = ["SCENARIOS", "Reference", "Result", "Scenario", "Strike", "inject", "judged", "main", "table", "undisturbed"]

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
OUT = ROOT / "build" / "faults"

MARK = "MAD_IP_FAULTS"
"""The variable by whose value all processes of a run are found."""

POLITE = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals on which a command is to stop with what it has."""

PATIENCE = 5.0
"""Seconds after a command's end in which all its processes must be gone."""

LIMIT = 180.0
"""Seconds in which a command must end after a signal, or at all."""

TOLERANCE = 1e-6
"""Relative difference of a score from the known optimum that counts as none."""

_POLL = 0.02


@dataclass(frozen=True)
class Scenario:
    """A command to disturb; its processes have a role each, by how many others stand between them and the user.

    ``command`` follows ``python -m``, in a folder that ``prepare`` has filled. A ``repeatable`` command
    leaves the same bytes however often it was cut, but for the seconds that it took. In a ``tolerant`` one a process
    that dies is a row of its result. ``optimum`` is a design.json with the proven score of what is solved.
    """

    name: str
    roles: tuple[str, ...]
    command: str
    prepare: Callable[[Path], object] = lambda folder: None
    repeatable: bool = False
    tolerant: bool = False
    optimum: Path | None = None


def _with(model: str, *names: str) -> Callable[[Path], object]:
    """Copies these files of a model of the zoo."""
    return lambda folder: [shutil.copy(MODELS / model / name, folder) for name in names]


def _with_model(model: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(MODELS / model, folder / "models" / model)


def _with_images(folder: Path) -> None:
    """A network and images that are trained on in a second."""
    stages = (StageChoice("basic", 2, 16, 16, 3, 1, 1), StageChoice("basic", 2, 32, 32, 3, 1, 1))
    Design.create(
        name="small",
        spec_sha256="",
        convention="paper",
        resolution=16,
        image_channels=3,
        stem=StemChoice(3, 1, 8, 1),
        stages=stages,
        tail=None,
        classes=2,
        beta=10.0,
    ).save(folder / "design.json")
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, number in (("train", 128), ("test", 32)):
        encoded = []
        for label in range(number):
            content = io.BytesIO()
            pixels = random.normal(90 + 70 * (label % 2), 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(content, "JPEG")
            encoded.append(content.getvalue())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[f"{split}_end"] = np.cumsum([len(content) for content in encoded])
        arrays[f"{split}_label"] = (np.arange(number) % 2).astype(np.uint8)
    np.savez(folder / "images.npz", **arrays)


def _solve(model: str) -> Scenario:
    words = "mad_ip solve spec.toml --threads 2 --out design.json"
    optimum = MODELS / model / "design.json"
    return Scenario(f"solve {model}", ("main", "solver"), words, _with(model, "spec.toml"), optimum=optimum)


SCENARIOS = (
    _solve("toy"),
    _solve("mobile"),
    Scenario(
        "verify",
        ("main",),
        "mad_ip verify design.json --method bound --threads 2 --write --write-certificate certificate.json",
        _with("mobile", "spec.toml", "design.json"),
        repeatable=True,
    ),
    Scenario(
        "verify-optimality",
        ("main", "verification"),
        "mad_ip.verification toy --evaluations 200000 --write",
        _with_model("toy"),
        repeatable=True,
    ),
    Scenario(
        "sweep",
        ("main",),
        "mad_ip sweep spec.toml --over macs=10e6:20e6:6 --threads 2 --out front",
        _with("toy", "spec.toml"),
        repeatable=True,
    ),
    Scenario(
        "sweep side by side",
        ("main", "chain"),
        "mad_ip sweep deepmad-r18.toml --over macs=1.5e9:1.8e9:12 --threads 2 --out front",
        _with("coarse", "deepmad-r18.toml"),
        repeatable=True,
    ),
    Scenario(
        "train",
        ("main",),
        "mad_ip train design.json --data images.npz --epochs 8 --batch 16 --threads 1 --checkpoint-minutes 0 --out run "
        "--runs runs.csv",
        _with_images,
        repeatable=True,
    ),
    Scenario(
        "compare",
        ("main", "run", "solver"),
        "mad_ip compare spec.toml --solver highs --solver decomposition --time-limit 60 --threads 2 --out comparison",
        _with("toy", "spec.toml"),
        tolerant=True,
        optimum=MODELS / "toy" / "design.json",
    ),
)


@dataclass(frozen=True)
class Strike:
    """A signal to come: to the process of a role, to the command's ``group``, or to ``everyone``.

    ``moment`` is a share of the time that the target takes undisturbed; ``which``, of the processes of its role. One
    that hits ``writing`` waits from its moment on until a file is being written.
    """

    scenario: Scenario
    target: str
    signal: signal.Signals
    moment: float
    which: float
    writing: bool = False

    def __str__(self) -> str:
        text = f"{self.scenario.name}, {self.signal.name} to {self.target} at {self.moment:.0%}"
        return text + " or while it writes" * self.writing


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it left, and from when to when each process of a depth ran, in seconds."""

    folder: Path
    seconds: float
    lives: Mapping[int, Sequence[tuple[float, float]]]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """What became of a run: its outcome in a word, and what is wrong, one sentence each."""

    strike: Strike
    outcome: str
    status: int
    seconds: float
    faults: tuple[str, ...]


# Runs -----------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A command at work in ``folder``/files, what it prints beside that folder."""

    folder: Path
    process: Any
    mark: str
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def text(self, name: str) -> str:
        """What it printed."""
        return (self.folder / name).read_text(errors="replace")

    def writing(self) -> bool:
        """Whether a file of it is not whole yet."""
        # No time for more: it is there for a tenth of a millisecond.
        return any(name.endswith(".tmp") for _, _, names in os.walk(self.folder / "files") for name in names)

    def tree(self) -> dict[int, list[Any]]:
        """Its processes by depth."""
        depths = {self.process.pid: 0}
        found: dict[int, list[Any]] = {0: [self.process]}
        with suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    depth = depths.get(child.ppid(), 0) + 1
                    depths[child.pid] = depth
                    found.setdefault(depth, []).append(child)
        return found

    def alive(self) -> list[Any]:
        """All its processes, those included whose parents are gone."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ended(self) -> int | None:
        """Its exit status; ``None`` where it does not end."""
        try:
            return int(self.process.wait(LIMIT))
        except psutil.TimeoutExpired:
            return None


@contextmanager
def _running(scenario: Scenario, folder: Path) -> Iterator[_Run]:
    """Run a command; in the end none of its processes is left."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: mark}
    with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
        process = psutil.Popen(
            [sys.executable, "-m", *scenario.command.split()],
            cwd=folder / "files",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            # What runs this may ignore it, as nohup does.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
    run = _Run(folder, process, mark)
    try:
        yield run
    finally:
        for left in run.alive():
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def undisturbed(scenario: Scenario, folder: Path) -> Reference:
    """Run a command to its end; raise :class:`InputError` unless its result is what is known.

    Raises :class:`InputError`, too, where it has processes of other roles than the scenario says.
    """
    _prepare(scenario, folder)
    seen: dict[int, dict[int, tuple[float, float]]] = {}
    with _running(scenario, folder) as run:
        while run.process.poll() is None:
            for depth, processes in run.tree().items():
                lives = seen.setdefault(depth, {})
                for process in processes:
                    lives[process.pid] = (lives.get(process.pid, (run.seconds,))[0], run.seconds)
            time.sleep(_POLL)
        status, seconds = run.process.wait(), run.seconds
    if status != 0:
        raise InputError(f"{scenario.name}: ends with status {status} undisturbed: {_last(run.text('errors'))}")
    if max(seen) >= len(scenario.roles):
        raise InputError(f"{scenario.name}: has processes {max(seen)} deep; must be at most {len(scenario.roles) - 1}")
    files = folder / "files"
    scores = {name: design.metrics.score for name, design in _designs(files).items()}
    if scenario.optimum is not None:
        known = Design.load(scenario.optimum).metrics.score
        found = {**scores, "": known}
        if any(abs(score - known) > TOLERANCE * abs(known) for score in found.values()):
            raise InputError(f"{scenario.name}: finds {scores}; must be {known}")
        scores = found
    return Reference(files, seconds, {depth: sorted(lives.values()) for depth, lives in seen.items()}, scores)


def _prepare(scenario: Scenario, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    scenario.prepare(folder / "files")


def inject(strike: Strike, reference: Reference, folder: Path) -> Result:
    """Run a command, strike, look at what is there, and run it again unless it came to its end.

    A strike that comes too late is brought forward, or waits for no file any more. Raise :class:`InputError` where its
    target never appears.
    """
    _prepare(strike.scenario, folder)
    with _running(strike.scenario, folder) as run:
        handling = _hit(run, strike, reference)
        seconds = run.seconds
        if handling is not None:
            status = run.ended()
            faults = [f"did not end within {LIMIT:g} s"] if status is None else _orphans(run)
    if handling is None:
        if strike.moment < 1e-3:
            raise InputError(f"{strike}: there is no such process")
        sooner = strike.moment if strike.writing else strike.moment / 2
        return inject(dataclasses.replace(strike, moment=sooner, writing=False), reference, folder)
    texts = run.text("output"), run.text("errors")
    if status is None:
        return Result(strike, "endless", 0, seconds, tuple(faults))
    outcome, found = judged(strike, reference, folder / "files", status, *texts, handling=handling)
    faults += found
    if outcome != "optimal" and not faults:
        faults += _again(strike.scenario, reference, folder)
    return Result(strike, "wrong" if faults else outcome, status, seconds, tuple(faults))


def _hit(run: _Run, strike: Strike, reference: Reference) -> bool | None:
    """Send the signal at its moment; whether the command was at work by then, and not still being loaded.

    ``None`` where the target was gone.
    """
    roles = strike.scenario.roles
    depth = roles.index(strike.target) if strike.target in roles else 0
    lives = reference.lives[depth]
    number = int(strike.which * len(lives))
    first, last = lives[number]
    target = run.process if depth == 0 else _appeared(run, depth, number)
    if target is None:
        return None
    moment = run.seconds + (last - first) * strike.moment
    while run.process.poll() is None and run.seconds < moment:
        time.sleep(min(_POLL, max(0.0, moment - run.seconds)))
    while strike.writing and run.process.poll() is None and not run.writing():
        pass
    handling = strike.writing or bool(run.text("errors")) or len(run.tree()) > 1
    if run.process.poll() is not None or not target.is_running():
        return None
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        if strike.target == "group":
            os.killpg(run.process.pid, strike.signal)
        else:
            for process in run.alive() if strike.target == "everyone" else [target]:
                process.send_signal(strike.signal)
    return handling


def _appeared(run: _Run, depth: int, number: int) -> Any:
    """The process of a depth that is the ``number``-th to appear, waited for; ``None`` where none comes."""
    seen: dict[int, Any] = {}
    while run.process.poll() is None:
        for process in run.tree().get(depth, ()):
            seen.setdefault(process.pid, process)
        if len(seen) > number:
            return list(seen.values())[number]
        time.sleep(_POLL)
    return None


def _orphans(run: _Run) -> list[str]:
    """A sentence for every process that is still there after a while."""
    deadline = time.monotonic() + PATIENCE
    left = run.alive()
    while left and time.monotonic() < deadline:
        time.sleep(_POLL)
        left = run.alive()
    faults = []
    for process in left:
        with suppress(psutil.Error):
            faults.append(f"process {' '.join(process.cmdline())[-80:]!r} is left after {PATIENCE:g} s")
    return faults


def _again(scenario: Scenario, reference: Reference, folder: Path) -> list[str]:
    """Run a command again where it was cut; what is wrong with that."""
    with _running(scenario, folder) as run:
        status = run.ended()
    if status != 0:
        return [f"the same command again: status {status}: {_last(run.text('errors'))}"]
    files = folder / "files"
    return [f"the same command again: {fault}" for fault in _broken(files) or _incomplete(scenario, reference, files)]


# What a run leaves ----------------------------------------------------------------------------------------------------


def judged(
    strike: Strike, reference: Reference, files: Path, status: int, output: str, errors: str, *, handling: bool = True
) -> tuple[str, list[str]]:
    """The outcome of a run that was struck, and what is wrong with it.

    ``status`` is its exit code, or minus the signal that ended it; ``handling``, whether it was at work by then.
    """
    killed = strike.signal == signal.SIGKILL and strike.target == strike.scenario.roles[0]
    faults = _broken(files)
    if faults:
        return "wrong", faults
    faults = _untrue(files, reference)
    if not killed:
        faults += [f"{path.relative_to(files)}: is left" for path in _files(files) if path.suffix == ".tmp"]
        if handling and "Traceback" in errors:
            faults.append(f"prints a traceback: {_last(errors)}")
    feasible = any(design.certificate.status == "feasible" for design in _designs(files).values() if design.certificate)
    if status == 0:
        incomplete = _incomplete(strike.scenario, reference, files)
        if incomplete and strike.scenario.tolerant and strike.signal == signal.SIGKILL and not killed:
            return "stopped", faults
        return "optimal", faults + incomplete
    if status == 3 and feasible:
        return "feasible", faults
    if status in (2, 3):
        said = re.search(r"^(mad-ip: .+|stopped.*)$", errors, re.M) or "stopped" in output
        if not said and all(run["status"] == "optimal" for run in _runs(files)):
            faults.append(f"ends with status {status} and no sentence")
        return "stopped", faults
    if status == -strike.signal and not _incomplete(strike.scenario, reference, files):
        # Python was on its way out.
        return "optimal", faults
    if killed or not handling:
        return "restarted", faults
    return "stopped", [*faults, f"ends with status {status}: {_last(errors)}"]


def _last(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _files(files: Path) -> list[Path]:
    return sorted(path for path in files.rglob("*") if path.is_file())


def _designs(files: Path) -> dict[str, Design]:
    """All design.json files by their place."""
    return {path.relative_to(files).as_posix(): Design.load(path) for path in _files(files) if _is_design(path)}


def _is_design(path: Path) -> bool:
    return path.suffix == ".json" and FORMAT.encode() in path.read_bytes()[:100]


def _runs(files: Path) -> list[dict[str, Any]]:
    """The runs of all reports of comparisons."""
    return [run for path in files.rglob("report.json") for run in json.loads(path.read_bytes())["runs"]]


def _untrue(files: Path, reference: Reference) -> list[str]:
    """What designs and reports claim that the known optima contradict."""
    faults = []

    def compare(name: str, status: str, score: float, bound: float, known: float) -> None:
        most = TOLERANCE * abs(known)
        if score > known + most:
            faults.append(f"{name}: score {score} is above the optimum {known}")
        if bound < known - most:
            faults.append(f"{name}: bound {bound} is below the optimum {known}")
        if status == "optimal" and score < known - most:
            faults.append(f"{name}: is optimal with score {score}; the optimum is {known}")

    for name, design in _designs(files).items():
        known = reference.scores.get(name)
        if known is None:
            faults.append(f"{name}: is no design that the undisturbed run left")
        elif design.certificate is not None:
            compare(name, design.certificate.status, design.metrics.score, design.certificate.bound, known)
    for run in _runs(files):
        name, known = f"{run['spec']}, {run['solver']}", reference.scores[""]
        for status, row in [("", point) for point in run["trace"]] + [(run["status"], run)]:
            score = -math.inf if row["score"] is None else row["score"]
            compare(name, status, score, math.inf if row["bound"] is None else row["bound"], known)
    return faults


def _incomplete(scenario: Scenario, reference: Reference, files: Path) -> list[str]:
    """What a run lacks that ended as if it were complete."""
    found, wanted = _contents(files), _contents(reference.folder)
    faults = [f"{name}: is missing" for name in wanted.keys() - found.keys()]
    faults += [f"{name}: is not there undisturbed" for name in found.keys() - wanted.keys()]
    if scenario.repeatable:
        both = wanted.keys() & found.keys()
        faults += [f"{name}: differs from the undisturbed" for name in sorted(both) if found[name] != wanted[name]]
    for name, design in _designs(files).items():
        if design.certificate is not None and design.certificate.status != "optimal":
            faults.append(f"{name}: is not proven optimal")
    for run in _runs(files):
        if run["status"] != "optimal":
            faults.append(f"{run['spec']}, {run['solver']}: {run['status']} {run['message']}")
    return faults


def _contents(files: Path) -> dict[str, Any]:
    """What a user reads, by its place, without the seconds that it took."""
    return {
        path.relative_to(files).as_posix(): _timeless(path) for path in _files(files) if not path.name.startswith(".")
    }


def _timeless(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(
            path.read_bytes(), object_hook=lambda table: {k: v for k, v in table.items() if k != "seconds"}
        )
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            return [_without_seconds(row) for row in csv.DictReader(stream)]
    content = path.read_bytes()
    return re.sub(rb'seconds\\?": [\d.]+|[\d.,]+ s</p>', b"", content) if path.suffix == ".html" else content


def _without_seconds(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "seconds"}


def _broken(files: Path) -> list[str]:
    """A sentence for every file that is not whole."""
    faults = []
    for path in _files(files):
        try:
            _READERS.get(path.suffix, bytes)(path.read_bytes())
            if _is_design(path):
                Design.load(path)
        except Exception as error:  # of any reader
            faults.append(f"{path.relative_to(files)}: is not whole ({error!r})")
    return faults


def _read_table(content: bytes) -> None:
    rows = list(csv.reader(io.StringIO(content.decode()), strict=True))
    if len({len(row) for row in rows}) != 1 or not content.endswith(b"\n"):
        raise ValueError("rows differ in length")


def _read_text(content: bytes) -> None:
    if not content.decode().endswith("\n"):
        raise ValueError("has no end")


def _read_page(content: bytes) -> None:
    if not content.decode().rstrip().endswith("</html>"):
        raise ValueError("has no end")


def _read_weights(content: bytes) -> None:
    from safetensors.numpy import load

    load(content)


def _read_checkpoint(content: bytes) -> None:
    import torch

    torch.load(io.BytesIO(content), weights_only=True)


_READERS: dict[str, Callable[[bytes], object]] = {
    ".json": json.loads,
    ".toml": lambda content: tomllib.loads(content.decode()),
    ".csv": _read_table,
    ".md": _read_text,
    ".html": _read_page,
    ".png": lambda content: Image.open(io.BytesIO(content)).load(),
    ".npz": lambda content: dict(np.load(io.BytesIO(content))),
    ".safetensors": _read_weights,
    ".pt": _read_checkpoint,
}


# ----------------------------------------------------------------------------------------------------------------------


def strikes(scenario: Scenario, kills: int, signals: int, random: Random) -> list[Strike]:
    """So many SIGKILLs for each role, and so many of each other signal for each way in which it comes."""
    others = scenario.roles[1:]
    wanted = [(role, signal.SIGKILL, kills) for role in scenario.roles]
    # A command that is a single process is its own group.
    targets = ("main", "group", "everyone") if len(scenario.roles) > 1 else ("main",)
    wanted += [(target, number, signals) for number in POLITE for target in targets]
    return [
        # Every fifth waits for a file, where the target writes them.
        Strike(scenario, target, number, random.random(), random.random(), turn % 5 == 4 and target not in others)
        for target, number, times in wanted
        for turn in range(times)
    ]


def table(results: Sequence[Result]) -> Table:
    """How often which outcome came of what."""
    outcomes = ("optimal", "feasible", "stopped", "restarted")
    shown = Table(box=None, title="Signals at random moments", title_justify="left", title_style="bold")
    for name in ("scenario", "role", "signal"):
        shown.add_column(name)
    for name in ("kills", *outcomes, "wrong"):
        shown.add_column(name, justify="right")
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for result in results:
        strike = result.strike
        key = strike.scenario.name, strike.target, strike.signal.name
        counts.setdefault(key, Counter())["wrong" if result.faults else result.outcome] += 1
    for key, count in counts.items():
        shown.add_row(*key, *map(str, (count.total(), *(count[name] for name in outcomes), count["wrong"])))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description="Kill processes at random moments.")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs for each role of a process (default 100)")
    parser.add_argument("--signals", type=int, default=10, help="of each other signal, in each way (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--scenario", action="append", choices=names, help="repeatable; default: all")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what is wrong (default build/faults)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    chosen = [scenario for scenario in SCENARIOS if scenario.name in (options.scenario or names)]
    results = report(chosen, options.kills, options.signals, options.seed, options.out, console)
    return 1 if any(result.faults for result in results) else 0


def report(
    scenarios: Sequence[Scenario], kills: int, signals: int, seed: int, out: Path, console: Console
) -> list[Result]:
    """Run everything, print what is wrong and the table; the folders of what is wrong stay in ``out``.

    Ctrl-C ends it early, with the table of what there is.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    # Each has moments of its own, whichever others run.
    planned = [
        (scenario, strikes(scenario, kills, signals, Random(f"{seed} {scenario.name}")))  # noqa: S311
        for scenario in scenarios
    ]
    total = sum(len(found) for _, found in planned)
    results: list[Result] = []
    with suppress(KeyboardInterrupt), Progress(*_COLUMNS, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        for scenario, found in planned:
            place = out / scenario.name.replace(" ", "-")
            progress.update(bar, description=scenario.name)
            reference = undisturbed(scenario, place / "undisturbed")
            console.print(f"{scenario.name}: {reference.seconds:.1f} s undisturbed")
            for number, strike in enumerate(found):
                folder = place / f"{number:04}"
                result = inject(strike, reference, folder)
                results.append(result)
                progress.advance(bar)
                if result.faults:
                    text = f"{strike}, after {result.seconds:.1f} s: {'; '.join(result.faults)}"
                    (folder / "faults").write_text(text + "\n")
                    console.print(f"{folder.relative_to(out)}: {text}", markup=False, soft_wrap=True)
                else:
                    shutil.rmtree(folder)
    rows = [{**vars(result), "strike": str(result.strike)} for result in results]
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    console.print(table(results))
    wrong = sum(bool(result.faults) for result in results)
    part = "" if len(results) == total else f" of {total}"
    console.print(f"{len(results)}{part} signals, {wrong} wrong" + (f"; see {out}" if wrong else ""), soft_wrap=True)
    return results


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


if __name__ == "__main__":
    sys.exit(main())
