"""Run the fuzzer: ``python -m tools.fuzz``; see docs/reliability.md."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import markdown
from tools.fuzz.cases import Case, draw_case, shown
from tools.fuzz.judge import PATIENCE
from tools.fuzz.shrink import shrunk, size
from tools.fuzz.work import LATE, Result, prepare, run, run_one

__all__ = ["Finding", "main"]


_SHRINKING = 12.0
"""Seconds spent on making the input of a kind smaller."""

_SHRINKING_ALL = 180.0
"""Seconds spent on that in all."""


@dataclass
class Finding:
    """What is wrong in the same way with so many cases, and the smallest of them."""

    cases: int
    smallest: Result
    again: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases until time or number is reached; say what was found; 1 where something was."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to run cases (10)")
    parser.add_argument("--cases", type=int, help="how many cases to run at most (as many as there is time for)")
    parser.add_argument("--seed", type=int, default=0, help="other cases for every seed (0)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run the case of this number alone and show it")
    parser.add_argument("--workers", type=int, default=2, help="forks at a time (2)")
    parser.add_argument("--patience", type=float, default=PATIENCE, help=f"seconds that a case may take ({PATIENCE:g})")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder for findings (build/fuzz)")
    options = parser.parse_args(arguments)
    # Before torch is loaded: forks must find no threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    out = options.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files = prepare(out)
    fuzzer = _Fuzzer(files, options.seed, options.workers, options.patience, out)
    if options.only is not None:
        return fuzzer.show(options.only)
    return fuzzer.run(options.minutes * 60, options.cases)


class _Fuzzer:
    def __init__(self, files: dict[str, bytes], seed: int, workers: int, patience: float, out: Path) -> None:
        self.files, self.seed, self.workers, self.patience, self.out = files, seed, workers, patience, out
        self.findings: dict[str, Finding] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)

    def drawn(self, number: int) -> Case:
        return draw_case(self.files, self.seed, number)

    def show(self, number: int) -> int:
        case = self.drawn(number)
        result = run_one(case, self.out / "work", self.patience)
        _write(self.out / str(number), case, result, 1)
        print((self.out / str(number) / "finding.txt").read_text())
        return int(bool(result.kind))

    def run(self, seconds: float, cases: int | None) -> int:
        began = time.monotonic()
        numbers = itertools.count() if cases is None else iter(range(cases))
        results = run(
            numbers,
            self.drawn,
            self.out / "work",
            workers=self.workers,
            seconds=self.patience,
            stop=lambda: time.monotonic() - began > seconds,
        )
        for result in results:
            self._note(result)
        took = time.monotonic() - began
        self._confirm()
        self._shrink()
        shutil.rmtree(self.out / "work", ignore_errors=True)
        print(_ends(self.ends, self.seconds))
        print(f"{self.ends.total():,} cases in {took:,.0f} s, seed {self.seed}")
        if not self.findings:
            print("nothing found")
            return 0
        ordered = sorted(self.findings.items(), key=lambda item: -item[1].cases)
        rows = []
        for place, (kind, finding) in enumerate(ordered, start=1):
            name = f"{place:02}-{re.sub('[^a-z0-9]+', '-', kind.lower())[:60].strip('-')}"
            _write(self.out / name, finding.smallest.case, finding.smallest, finding.cases)
            alone = "" if finding.again else " (not when it runs alone)"
            rows.append((str(finding.cases), kind + alone, str(finding.smallest.number), name))
        print(markdown.table(("cases", "what", "a case", "folder"), rows))
        print(f"{len(self.findings)} kinds of findings; each with its input in {self.out}")
        return 1

    def _note(self, result: Result) -> None:
        code = result.outcome.code
        self.ends[result.case.kind, "finding" if result.kind else str(code)] += 1
        self.seconds[result.case.kind] += result.outcome.seconds
        if not result.kind:
            return
        known = self.findings.get(result.kind)
        if known is None:
            self.findings[result.kind] = Finding(1, result)
            print(f"found: {result.kind}: case {result.number}: {shown(result.case.words)}", flush=True)
            return
        known.cases += 1
        if size(result.case) < size(known.smallest.case):
            known.smallest = result

    def _confirm(self) -> None:
        """Run a case of every kind again, alone; what was late and is not any more was the machine's fault.

        Or that of a solver in the case's own process, where nothing ends it.
        """
        for kind, finding in list(self.findings.items()):
            late = kind.startswith(LATE)
            case = finding.smallest.case
            again = run_one(dataclasses.replace(case, apart=case.apart or late), self.out / "work", self.patience)
            finding.again = again.kind == kind or (late and again.kind.startswith(LATE))
            if late and not finding.again:
                del self.findings[kind]

    def _shrink(self) -> None:
        begun = time.monotonic()
        for kind, finding in self.findings.items():
            now = time.monotonic()
            if kind.startswith(LATE) or not finding.again or now - begun > _SHRINKING_ALL:
                continue

            def wanted(case: Case, kind: str = kind) -> bool:
                return run_one(case, self.out / "work", self.patience).kind == kind

            def stop(now: float = now) -> bool:
                return time.monotonic() - now > _SHRINKING

            case = shrunk(finding.smallest.case, wanted, stop)
            result = run_one(case, self.out / "work", self.patience)
            finding.smallest = Result(finding.smallest.number, case, kind, result.outcome)


def _write(folder: Path, case: Case, result: Result, cases: int) -> None:
    """The input of a finding, the command and what came of it."""
    for name, content in case.files.items():
        place = folder / "input" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    outcome = result.outcome
    lines = [
        f"what: {result.kind or 'nothing wrong'}",
        f"cases: {cases}, such as number {result.number}, kind {case.kind}",
        f"command, in the folder input: mad-ip {shown(case.words, 10**6)}",
        *([f"then: mad-ip {shown(case.then)}"] if case.then else []),
        f"exit code: {outcome.code}, seconds: {outcome.seconds:.2f}, memory: {outcome.memory / 1e6:.0f} MB",
        *(f"\n{name}:\n{text[:4000]}" for name, text in _texts(result) if text),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finding.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def _texts(result: Result) -> tuple[tuple[str, str], ...]:
    outcome = result.outcome
    return ("standard output", outcome.output), ("standard error", outcome.errors), ("trace", outcome.trace)


def _ends(ends: Counter[tuple[str, str]], seconds: Mapping[str, float]) -> str:
    """How cases ended, by their kind, and the seconds of processors that they took."""
    columns = sorted({end for _, end in ends})
    kinds = sorted({kind for kind, _ in ends})
    rows = [(kind, *(str(ends[kind, end]) for end in columns), f"{seconds[kind]:.0f}") for kind in kinds]
    return markdown.table(("kind", *(f"exit {end}" if end != "finding" else end for end in columns), "seconds"), rows)


if __name__ == "__main__":
    sys.exit(main())
