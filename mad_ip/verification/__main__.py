"""``python -m mad_ip.verification [MODEL ...] [--quick]``: re-prove the designs of ``models/``.

Every folder of ``models/`` (in the working folder) that holds a spec.toml and a design.json is audited, and enumerated
where its space is small enough. Exit code 0 when nothing failed, 1 when something did, 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from mad_ip.design import Design
from mad_ip.errors import InputError, MadIpError
from mad_ip.files import read_bytes
from mad_ip.spec import Spec
from mad_ip.verification.audit import audit
from mad_ip.verification.exhaustion import LIMIT, architectures, prove

__all__ = ["Verdict", "main", "verify"]

MODELS = Path("models")

QUICK = ("toy",)
"""The models of ``--quick``."""

_STYLES = {"proven": "green", "audited": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Verdict:
    """``verdict`` is proven, audited or failed; ``reasons`` says why it failed; ``seconds`` is what it took."""

    model: str
    design: Design
    architectures: int
    verdict: str
    reasons: tuple[str, ...]
    seconds: float


def verify(folder: Path, progress: Progress | None = None) -> Verdict:
    """Audit the design of one folder, and enumerate its space where that is small enough.

    Raises :class:`InputError` when spec.toml or design.json is missing or is not such a file.
    """
    began = time.perf_counter()
    spec = Spec.load(folder / "spec.toml")
    design = _read(folder / "design.json")
    total = architectures(spec)
    reasons = audit(spec, design)
    small = total <= LIMIT
    if small:
        task = None if progress is None else progress.add_task(escape(folder.name), total=total)

        def follow(done: int, _total: int) -> None:
            if progress is not None and task is not None:
                progress.update(task, completed=done)

        reasons += prove(spec, design, follow).reasons
    verdict = "failed" if reasons else "proven" if small else "audited"
    return Verdict(folder.name, design, total, verdict, tuple(reasons), time.perf_counter() - began)


def _read(path: Path) -> Design:
    """A design without the check of :meth:`Design.load`: metrics that do not fit are the audit's to report."""
    raw = read_bytes(path)
    try:
        content = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    return Design.from_content(content, str(path))


def _folders(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders to verify and the names of those without a design; with ``names`` exactly those."""
    if not MODELS.is_dir():
        raise InputError(f"{MODELS}: no such folder here; run from the folder of the project")
    if names:
        for name in names:
            if not (MODELS / name).is_dir():
                raise InputError(f"{MODELS / name}: no such folder; a model is a folder of {MODELS}")
        return [MODELS / name for name in dict.fromkeys(names)], []
    specified = sorted(path.parent for path in MODELS.glob("*/spec.toml"))
    complete = [folder for folder in specified if (folder / "design.json").is_file()]
    if not complete:
        raise InputError(f"{MODELS}: no folder with a spec.toml and a design.json; there is nothing to verify")
    return complete, [folder.name for folder in specified if folder not in complete]


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Verification of the certified designs", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for header in ("architectures", "score", "bound", "gap"):
        table.add_column(header, justify="right", overflow="fold")
    table.add_column("verdict")
    table.add_column("seconds", justify="right")
    for item in verdicts:
        certificate = item.design.certificate
        bound, gap = ("-", "-") if certificate is None else (f"{certificate.bound:.6g}", f"{certificate.gap:.1e}")
        style = _STYLES[item.verdict]
        table.add_row(
            escape(item.model),
            f"{item.architectures:,}" if item.architectures <= LIMIT else f"{Decimal(item.architectures):.2e}",
            f"{item.design.metrics.score:.6g}",
            bound,
            gap,
            f"[{style}]{item.verdict}[/]",
            f"{item.seconds:.1f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mad_ip.verification", description="Re-prove the designs of models/."
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="a folder of models/; default: all with a design")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    options = parser.parse_args(arguments)
    if options.quick and options.models:
        parser.error("--quick chooses the models itself: name models or say --quick")
    console, errors = Console(), Console(stderr=True)
    try:
        folders, without = _folders(QUICK if options.quick else options.models)
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
            verdicts = [verify(folder, progress) for folder in folders]
    except MadIpError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    console.print(_table(verdicts))
    notes = {
        "proven": "proven: audited, and every architecture of the space was enumerated; none is better.",
        "audited": "audited: structure, budgets, metrics and certificate are consistent. A space of more than"
        f" {LIMIT:.0e} architectures is too large for exhaustion: that nothing is better rests on the solver's bound"
        " and is not re-proven here.",
    }
    for verdict, note in notes.items():
        if any(item.verdict == verdict for item in verdicts):
            console.print(note, markup=False, highlight=False)
    if without:
        console.print(f"no design.json, not verified: {', '.join(without)}", markup=False, highlight=False)
    failed = [item for item in verdicts if item.verdict == "failed"]
    for item in failed:
        for reason in item.reasons:
            console.print(f"failed: {item.model}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
