"""The command line: thin, everything heavy is imported by the command that needs it."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mad_ip.errors import InputError, MadIpError

if TYPE_CHECKING:
    from mad_ip.solve import Report

__all__ = ["app", "main"]

app = typer.Typer(
    help="Design convolutional networks by exact mathematical programming.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; every error that a user can meet is one sentence and an exit code."""
    try:
        app()
    except MadIpError as error:
        print(f"mad-ip: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


@app.command()
def solve(
    spec: Annotated[Path, typer.Argument(help="The spec.toml to solve.")],
    solver: Annotated[
        str | None,
        typer.Option(help="Solver profile: a name under solvers/ or a .toml file (default: highs)."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which the best design so far is returned.")
    ] = math.inf,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the solver.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first incumbent and of the solver.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many of the best designs to find, each proven in its rank.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers share the decomposition.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write design.json (with --top: also design-2.json and so on).")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the design.json object (with --top: a list) and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Solve a spec to a design with a certificate.

    Exit codes: 0 proven optimal, 3 feasible but not proven, 4 infeasible, 2 bad input, 1 internal error.
    """
    from mad_ip.files import require_folder
    from mad_ip.kinds import spec_kind

    _require_limits(time_limit, gap)
    if out is not None:
        require_folder("--out", out)
    kind = spec_kind(spec)
    if not kind.profiles:
        for option, value in (("--solver", solver), ("--cluster", cluster), ("--top", top if top > 1 else None)):
            if value is not None:
                raise InputError(
                    f"{option} = {value}: {spec} is {kind.noun}, which has an exact method of its own; must be left out"
                )
    problem = kind.load_spec(spec)

    from rich.console import Console

    from mad_ip.reports.progress import given_to, line
    from mad_ip.reports.terminal import progress

    given = ""
    with _interruptible() as interrupted, progress(Console(stderr=True), quiet, line) as watch:

        def follow(report: Report) -> None:
            nonlocal given
            given = given_to(report) or given
            if watch is not None:
                watch(report)

        options: dict[str, Any] = {"time_limit": time_limit, "gap": gap, "watch": follow, "interrupted": interrupted}
        if kind.profiles:
            options.update(profile=_profile(solver, cluster), threads=threads, seed=seed, top=top)
        designs, table = kind.solve(problem, **options)
    if out is not None:
        for number, design in enumerate(designs, start=1):
            design.save(out if number == 1 else out.with_stem(f"{out.stem}-{number}"))
    if json:
        texts = [design.to_json() for design in designs]
        sys.stdout.write(texts[0] if top == 1 else "[" + ",\n".join(text.rstrip() for text in texts) + "]\n")
    else:
        _print(table)
        if given:
            _print(given)
    raise typer.Exit(0 if all(design.certificate.status == "optimal" for design in designs) else 3)


def _profile(solver: str | None, cluster: str | None) -> Any:
    """The profile named, with the address of a cluster where one is given; ``None`` leaves the choice to the solve."""
    import dataclasses

    from mad_ip.backends import Profile

    profile = None if solver is None else Profile.load(solver)
    if cluster is None:
        return profile
    profile = profile or Profile("decomposition")
    if profile.backend != "decomposition":
        raise InputError(f"--cluster = {cluster}: only the decomposition takes a cluster; --solver must be left out")
    return dataclasses.replace(profile, options={**profile.options, "cluster": cluster})


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="DESIGN", help="The design.json to verify.")],
    spec: Annotated[Path | None, typer.Option(help="Its spec.toml (default: the spec.toml beside it).")] = None,
    method: Annotated[str, typer.Option(help="auto, audit, exhaustion, bound or attack.")] = "auto",
    gap: Annotated[float, typer.Option(help="Relative gap that the bound may leave.")] = 1e-4,
    time_limit: Annotated[float, typer.Option(help="Seconds after which the verification stops.")] = math.inf,
    certificate: Annotated[
        Path | None, typer.Option(help="Replay this certificate instead of searching for the bound.")
    ] = None,
    write_certificate: Annotated[Path | None, typer.Option(help="Where to write the bound's certificate.")] = None,
    evaluations: Annotated[int, typer.Option(help="Architectures that the attack evaluates.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the attack.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the bound (default: all cores).")] = None,
    write: Annotated[bool, typer.Option("--write", help="Store what was proven in the design.json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Prove without the solver that a design is the best of its spec, or say why not.

    Exit codes: 0 proven, 1 failed or not proven, 3 stopped before a proof, 2 bad input.
    """
    import dataclasses
    import json
    import os

    from rich.console import Console
    from rich.markup import escape

    from mad_ip.design import Design
    from mad_ip.files import read_json, require_folder, write_atomically
    from mad_ip.kinds import require_cnn
    from mad_ip.reports.terminal import progress
    from mad_ip.reports.verification import Model, line, sentences
    from mad_ip.spec import Spec
    from mad_ip.verification.verdict import verify as run

    _require_limits(time_limit, gap)
    for name, file in (("--certificate", certificate), ("--write-certificate", write_certificate)):
        if file is not None and method not in ("auto", "bound"):
            raise InputError(f"{name}: a certificate is the bound's; --method = {method} must be auto or bound")
    if certificate is not None and write_certificate is not None:
        raise InputError("--certificate replays a certificate and --write-certificate writes one; name one of them")
    if write_certificate is not None:
        require_folder("--write-certificate", write_certificate)
    require_cnn(path)
    design = Design.read(path)
    problem = Spec.load(path.parent / "spec.toml" if spec is None else spec)
    boxes = None if certificate is None else read_json(certificate)
    if certificate is not None and not isinstance(boxes, dict):
        raise InputError(f"{certificate}: must be a JSON object")
    with _interruptible() as interrupted, progress(Console(stderr=True), quiet, line) as watch:
        verdict = run(
            problem,
            design,
            method=method,
            gap=gap,
            seconds=time_limit,
            evaluations=evaluations,
            seed=seed,
            certificate=boxes,
            certify=write_certificate is not None,
            threads=threads or os.cpu_count() or 1,
            watch=lambda report: bool(watch and watch(report)) or interrupted(),
        )
    if write_certificate is not None and verdict.certificate:
        write_atomically(write_certificate, (json.dumps(verdict.certificate) + "\n").encode())
    if write and verdict.exit_code == 0:
        dataclasses.replace(design, verification=verdict.verification).save(path)
    for sentence in sentences(Model(design.name, problem, design, verdict)):
        _print(escape(sentence))
    raise typer.Exit(verdict.exit_code)


@app.command()
def show(path: Annotated[Path, typer.Argument(help="A design.json or a spec.toml.")]) -> None:
    """Show a design, or the size of a spec's space and catalogue without solving it."""
    from mad_ip.files import read_bytes
    from mad_ip.kinds import design_kind, spec_kind

    if path.suffix == ".json" or read_bytes(path).lstrip().startswith(b"{"):
        kind = design_kind(path)
        _print(kind.design_table(kind.load_design(path)))
    else:
        kind = spec_kind(path)
        _print(kind.space_table(kind.load_spec(path)))


@app.command()
def build(
    design: Annotated[Path, typer.Argument(help="The design.json to build.")],
    out: Annotated[Path | None, typer.Option(help="State dict: .safetensors, .pt or .pth (beside the design).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights.")] = 0,
) -> None:
    """Build the PyTorch network, check its measured against its modelled cost, and save its initial weights."""
    from mad_ip.kinds import design_kind

    kind = design_kind(design)
    content = kind.load_design(design)

    import torch

    from mad_ip.networks import save_weights

    torch.manual_seed(seed)
    network = kind.network(content)
    kind.verify_cost(network, content)
    target = out or design.with_suffix(".safetensors")
    save_weights(network, target)
    metrics = content.metrics
    _print(f"{target}: {metrics.macs:,} MACs and {metrics.params:,} parameters, measured as modelled")


@app.command()
def export(
    design: Annotated[Path, typer.Argument(help="The design.json to export.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, torch-export, safetensors, python or tinynas.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Trained weights: .safetensors, .pt or .pth (default: initial weights).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the file (beside the design).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights.")] = 0,
) -> None:
    """Write the network for those who have no mad-ip, once it computes what the network computes."""
    from mad_ip.design import Design
    from mad_ip.kinds import require_cnn

    require_cnn(design)
    content = Design.load(design)

    from mad_ip.networks.export import default_path
    from mad_ip.networks.export import export as run

    target = out or default_path(design, kind)
    run(content, kind, target, checkpoint=checkpoint, seed=seed)
    _print(f"{target}: written")


@app.command()
def score(
    networks: Annotated[
        list[str],
        typer.Argument(help="design.json, torchvision:NAME, timm:NAME or FILE.py:FACTORY.", show_default=False),
    ],
    convention: Annotated[
        str | None, typer.Option(help="paper or tinynas (default: the design's own, else paper).")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Input resolution (default: the network's own, else 224).")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--against", help="A spec.toml, or default: a space around the network itself.")
    ] = None,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    time_limit: Annotated[float, typer.Option(help="Seconds for each optimum.")] = math.inf,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list and nothing else.")] = False,
) -> None:
    """Measure networks that others made: entropy, effectiveness, MACs and parameters, resolution by resolution.

    With --against also the proven optimum within the network's own MACs, parameters and effectiveness; exit code 3
    where the time limit came before its proof.
    """
    from json import dumps, loads

    from mad_ip.design import Design
    from mad_ip.kinds import require_cnn
    from mad_ip.reports.scores import optimum_text, score_table
    from mad_ip.scoring import against, default_spec, of_design
    from mad_ip.spec import Spec

    _require_limits(time_limit, gap)
    _require_convention(convention)
    given = None if reference in (None, "default") else Spec.load(str(reference))
    contents = []
    proven = True
    with _interruptible() as interrupted:
        for name in networks:
            if name.endswith(".json"):
                require_cnn(name)
                measured = of_design(Design.load(name), convention, resolution)
            else:
                from mad_ip.networks import score as tracing

                module, own = tracing.load(name)
                measured = tracing.score(
                    module, name=name, resolution=resolution or own, convention=convention or "paper"
                )
            content = measured.content()
            if not json:
                _print(score_table(measured))
            if reference is not None:
                spec = default_spec(measured) if given is None else given
                optimum = against(measured, spec, gap=gap, time_limit=time_limit, interrupted=interrupted)
                proven = proven and optimum.proven
                content["optimum"] = {
                    "share": optimum.share,
                    "least": optimum.least,
                    "design": loads(optimum.design.to_json()),
                }
                if not json:
                    _print(optimum_text(measured, optimum))
            contents.append(content)
    if json:
        sys.stdout.write(dumps(contents, indent=2) + "\n")
    raise typer.Exit(0 if proven else 3)


@app.command("import")
def read(
    structure: Annotated[Path, typer.Argument(help="The structure of the reference toolbox (TinyNAS).")],
    resolution: Annotated[int, typer.Option(min=1, help="Input resolution.")] = 224,
    classes: Annotated[int, typer.Option(min=0, help="Outputs of the head; 0: no head.")] = 1000,
    convention: Annotated[str, typer.Option(help="paper or tinynas.")] = "paper",
    out: Annotated[Path | None, typer.Option(help="Where to write design.json (beside the structure).")] = None,
) -> None:
    """Read a structure of the reference toolbox as a design.json; mad-ip export --format tinynas is the way back."""
    from mad_ip import tinynas
    from mad_ip.reports.table import design_table

    _require_convention(convention)
    target = out or structure.with_suffix(".json")
    if target == structure:
        raise InputError(f"{structure}: the design.json would take its place; --out is needed")
    design = tinynas.load(structure, resolution=resolution, classes=classes, convention=convention)
    design.save(target)
    _print(design_table(design))


@app.command()
def compare(
    specs: Annotated[list[Path], typer.Argument(help="The spec.toml files to solve.")],
    solver: Annotated[
        list[str] | None, typer.Option(help="Solver profile, repeatable: a name under solvers/ or a .toml file (all).")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for each run.")] = 60.0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a randomised solver, with seeds from 0.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every solver.")] = 1,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md, report.json and plots/.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare solvers on specs, each run in a process of its own, and write a report.

    A solver that is missing or fails becomes a row of the report; Ctrl-C writes what there is.
    """
    _require_limits(time_limit, gap)

    from mad_ip.reports import comparison

    settings = comparison.Settings(time_limit, gap, threads, seeds)
    with _interruptible() as interrupted:
        comparison.compare(specs, solver or [], settings, out, interrupted=interrupted)
    _print(f"{out / 'report.html'}: written")


def _print(content: object) -> None:
    from mad_ip.reports.terminal import show

    show(content)


def _require_limits(time_limit: float, gap: float) -> None:
    for name, value in (("--time-limit", time_limit), ("--gap", gap)):
        if math.isnan(value) or value < 0:
            raise InputError(f"{name} = {value}: must be a number of at least 0")


def _require_convention(convention: str | None) -> None:
    from mad_ip.spec import CONVENTIONS

    if convention is not None and convention not in CONVENTIONS:
        raise InputError(f"--convention = {convention}: must be one of {', '.join(CONVENTIONS)}")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish to stop; a second one ends the program as usual."""
    wished = threading.Event()

    def handle(number: int, frame: object) -> None:
        if wished.is_set():
            raise KeyboardInterrupt
        wished.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield wished.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
