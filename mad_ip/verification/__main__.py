"""``python -m mad_ip.verification [MODEL ...]``: re-prove the designs of ``models/``, each in a process of its own.

Every folder of ``models/`` (in the working folder) that holds a spec.toml and a design.json is audited, enumerated
where its space is small enough, bounded where it is not, and attacked. Exit code 0 when every verdict is proven, 1 when
one is failed or open, 3 when one was stopped, 2 for bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mad_ip.design import Design
from mad_ip.errors import InputError, MadIpError
from mad_ip.reports.terminal import Terminal
from mad_ip.reports.verification import Model, display, show
from mad_ip.spec import Spec
from mad_ip.stopping import Stopped, stoppable
from mad_ip.verification.attack import EVALUATIONS
from mad_ip.verification.parallel import Job, verify_all
from mad_ip.verification.verdict import GAP, check_settings

__all__ = ["main"]

MODELS = Path("models")

QUICK = ("toy", "resnet-basic")
"""The models of ``--quick``: the toy, and the real one that takes least."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mad_ip.verification", description="Re-prove the designs of models/."
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="a folder of models/; default: all with a design")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--gap", type=float, default=GAP, help=f"what the bound may leave, relative (default {GAP:g})")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds for each model")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help=f"of the attack (default {EVALUATIONS:,})")
    parser.add_argument("--write", action="store_true", help="store what was proven in design.json")
    options = parser.parse_args(arguments)
    if options.quick and options.models:
        parser.error("--quick chooses the models itself: name models or say --quick")
    errors = Terminal(stderr=True)
    settings = {"gap": options.gap, "seconds": options.time_limit, "evaluations": options.evaluations}
    try:
        check_settings(**settings)
        folders, without = _folders(QUICK if options.quick else options.models)
        jobs = [Job(at.name, Spec.load(at / "spec.toml"), Design.read(at / "design.json")) for at in folders]
        # One model has all cores; of several, each has its share.
        cores = os.cpu_count() or 1
        shared = {**settings, "threads": max(1, cores // len(jobs))}
        with stoppable(), display([job.name for job in jobs], errors) as watch:
            verdicts = verify_all(jobs, shared, cores, watch)
    except (MadIpError, Stopped) as error:
        errors.print(str(error), style="red", soft_wrap=True)
        return error.exit_code
    models = [Model(job.name, job.spec, job.design, verdict) for job, verdict in zip(jobs, verdicts, strict=True)]
    show(models, without)
    for model in models:
        if options.write and model.verdict.verdict == "proven":
            proven = dataclasses.replace(model.design, verification=model.verdict.verification)
            proven.save(MODELS / model.name / "design.json")
    codes = {model.verdict.exit_code for model in models}
    return next((code for code in (1, 3) if code in codes), 0)


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


if __name__ == "__main__":
    sys.exit(main())
