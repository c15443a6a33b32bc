"""The command line: thin, everything heavy is imported by the command that needs it."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mad_ip import __version__
from mad_ip.errors import InputError, MadIpError, MadIpWarning
from mad_ip.files import STANDARD_OUTPUT, printable, write_output
from mad_ip.keys import SIDES, THREADS, WIDTHS
from mad_ip.stopping import Stopped, interruptible, stoppable

if TYPE_CHECKING:
    from mad_ip.solve import Report

__all__ = ["app", "main"]

_SENTENCE = 2_000
"""Characters of a sentence on standard error."""

_INTERPOLATE = "Fill what a table of times lacks between its rows."
_SPEC = "Its spec.toml (default: the one with its hash, beside it or in the zoo)."

app = typer.Typer(
    help="Design convolutional networks by exact mathematical programming.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; every error that a user can meet is one sentence and an exit code."""
    _open_streams()
    others = warnings.showwarning

    def warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, MadIpWarning):
            _say(str(message))
        else:
            others(message, category, *place, **more)

    warnings.showwarning = warn
    try:
        # Completion asks for the command by the name that it was installed for, python -m mad_ip has another.
        with stoppable():
            app(prog_name="mad-ip")
    except (MadIpError, Stopped) as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            # The help, which is printed by others.
            with suppress(InputError):
                write_output("")
            _say(f"standard output: cannot be written ({error.strerror})")
            sys.exit(2)
        if not _out_of_memory(error):
            raise
        _say("out of memory; a larger limit (ulimit -v), fewer threads or a smaller space is needed")
        sys.exit(3)


def _open_streams() -> None:
    """Give what is closed of the standard streams a place, or the next file that is opened takes it.

    What an encoding lacks is written as an escape.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, "w" if descriptor else "r"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and descriptor > 0:
            stream.reconfigure(errors="backslashreplace")


def _say(sentence: str) -> None:
    """One sentence on standard error; of a very long one both ends."""
    text = printable(sentence).replace("\n", "\\n")
    text = text if len(text) <= _SENTENCE else f"{text[: _SENTENCE // 2]} ... {text[-_SENTENCE // 4 :]}"
    # Where standard error is full, too, there is the exit code.
    with suppress(OSError):
        print(f"mad-ip: {text}", file=sys.stderr)  # noqa: T201


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that the system gave no more memory: also for a thread or a library."""
    while error is not None:
        told = ("allocate memory", "failed to map segment", "can't start new thread", "bad_alloc")
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if any(text in str(error).lower() for text in told):
            return True
        error = error.__cause__ or error.__context__
    return False


def _print_version(wanted: bool) -> None:
    if wanted:
        _print(f"mad-ip {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What the command itself takes; its help is that of the app."""


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
    threads: Annotated[int, typer.Option(min=1, max=THREADS, help="Threads of the solver.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the first incumbent and of the solver.")] = 0,
    top: Annotated[
        int, typer.Option(min=1, max=1000, help="How many of the best designs to find, each proven in its rank.")
    ] = 1,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers share the decomposition.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write design.json (with --top: also design-2.json and so on).")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Where the solver writes its own log: highs and scip.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the design.json object (with --top: a list) and nothing else.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what binds, what more is worth (two solves for each budget that binds)."),
    ] = False,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Solve a spec to a design with a certificate.

    Exit codes: 0 proven optimal, 3 feasible but not proven, 4 infeasible, 2 bad input, 1 internal error.
    """
    from mad_ip.files import require_new
    from mad_ip.kinds import spec_kind

    _require_limits(time_limit, gap)
    outputs = [] if out is None or out == STANDARD_OUTPUT else [out, *(_numbered(out, n) for n in range(2, top + 1))]
    for path in outputs:
        require_new("--out", path, spec)
    if log is not None:
        if log == STANDARD_OUTPUT:
            raise InputError("--log = -: is written by the solver itself; must be a file")
        require_new("--log", log, spec, *outputs)
    kind = spec_kind(spec)
    if not kind.profiles:
        ranked = top if top > 1 else None
        for option, value in (("--solver", solver), ("--cluster", cluster), ("--top", ranked), ("--log", log)):
            if value is not None:
                raise InputError(
                    f"{option} = {value}: {spec} is {kind.noun}, which has an exact method of its own; must be left out"
                )
    if explain and json:
        raise InputError("--explain: is a text; must be left out with --json (mad-ip show --explain --json has both)")
    if explain and not kind.profiles:
        raise InputError(f"--explain: {spec} is {kind.noun}, whose optimum is not explained; must be left out")
    problem = kind.load_spec(spec)
    if interpolate:
        problem = _interpolated(spec, kind, problem)

    from mad_ip.reports.progress import given_to, line
    from mad_ip.reports.terminal import Terminal, progress

    given = ""
    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:

        def follow(report: Report) -> None:
            nonlocal given
            given = given_to(report) or given
            if watch is not None:
                watch(report)

        options: dict[str, Any] = {"time_limit": time_limit, "gap": gap, "watch": follow, "interrupted": interrupted}
        if kind.profiles:
            options.update(profile=_profile(solver, cluster, log, top), threads=threads, seed=seed, top=top)
        designs, table = kind.solve(problem, **options)
        texts = [design.to_json() for design in designs]
        text = texts[0] if top == 1 else "[" + ",\n".join(each.rstrip() for each in texts) + "]\n"
        try:
            for path, design in zip(outputs, designs, strict=False):
                design.save(path)
        except InputError:
            # What took minutes to find is not lost with the place that it was for.
            write_output(text)
            raise
        explanation = _explanation(problem, designs[0], threads, watch, interrupted) if explain else None
    if json or out == STANDARD_OUTPUT:
        write_output(text)
    else:
        _print(table)
        if given:
            _print(given)
        if explanation is not None:
            from mad_ip.reports.explanation import explanation_table

            _print(explanation_table(explanation))
    raise typer.Exit(0 if all(design.certificate.status == "optimal" for design in designs) else 3)


def _numbered(out: Path, number: int) -> Path:
    """Where the design of a rank from 2 on is written."""
    return out.with_stem(f"{out.stem}-{number}")


def _explanation(spec: Any, design: Any, threads: int, watch: Any, interrupted: Callable[[], bool]) -> Any:
    """Why a design is what it is; without its neighbours where it was stopped."""
    from mad_ip.explanation import explain
    from mad_ip.sweep import Interrupted

    try:
        return explain(spec, design, threads=threads, watch=watch, interrupted=interrupted)
    except Interrupted:
        return explain(spec, design, neighbours=False)


def _profile(solver: str | None, cluster: str | None, log: Path | None, top: int) -> Any:
    """The profile named, with the address of a cluster and the place of a log where they are given.

    ``None`` leaves the choice to the solve.
    """
    import dataclasses

    from mad_ip.backends import Profile

    profile = None if solver is None else Profile.load(solver)
    if cluster is not None:
        profile = profile or Profile("decomposition")
        if profile.backend != "decomposition":
            raise InputError(
                f"--cluster = {cluster}: only the decomposition takes a cluster; --solver must be left out"
            )
        profile = dataclasses.replace(profile, options={**profile.options, "cluster": cluster})
    if log is not None:
        profile = profile or (Profile() if top == 1 else Profile("decomposition"))
        profile = dataclasses.replace(profile, log=str(log))
    return profile


@app.command()
def sweep(
    spec: Annotated[Path, typer.Argument(help="The spec.toml whose front is wanted.")],
    out: Annotated[Path, typer.Option(help="Folder for designs/, front.csv and index.html.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=FIRST:LAST:NUMBER",
            help="A budget and its limits: macs=200e6:2e9:20, or params=2e6,4e6; repeatable, for all combinations.",
        ),
    ] = None,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    time_limit: Annotated[float, typer.Option(help="Seconds for each point.")] = math.inf,
    threads: Annotated[int, typer.Option(min=1, max=THREADS, help="Threads of the solver.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the first incumbents.")] = 0,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers share the solves.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="A network that the page shows beside, as in mad-ip score: torchvision:resnet18; repeatable."
        ),
    ] = None,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Solve a spec at every point of a grid of budgets; the same command goes on with a sweep that was cut.

    Exit codes: 0 every point proven optimal or infeasible, 3 stopped, or not all proven, 2 bad input.
    """
    from mad_ip.files import require_place
    from mad_ip.kinds import load_cnn
    from mad_ip.reports import front as pages

    _require_limits(time_limit, gap)
    problem = load_cnn(spec)
    if interpolate:
        problem = problem.interpolating()
    require_place("--out", out)
    without_page = pages.missing_for_page()
    if without_page and network:
        raise InputError(f"--network = {network[0]}: is shown on the page; {without_page}")

    from mad_ip.reports.progress import line
    from mad_ip.reports.sweep import front_table
    from mad_ip.reports.terminal import Terminal, progress
    from mad_ip.scoring import measure
    from mad_ip.sweep import DESIGNS, FRONT, PAGE, Interrupted, grid
    from mad_ip.sweep import sweep as run

    limits = grid(over or [])
    networks = [measure(name, problem.convention, problem.input.resolution) for name in network or []]
    stopped: MadIpError | None = None
    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:
        try:
            front = run(
                problem,
                limits,
                out=out,
                gap=gap,
                time_limit=time_limit,
                threads=threads,
                seed=seed,
                cluster=cluster,
                watch=watch,
                interrupted=interrupted,
            )
        except Interrupted as error:
            front, stopped = error.front, error
    if front.points:
        _print(front_table(front))
        if not without_page:
            pages.save(front, out / PAGE, networks)
        written = [FRONT, f"{DESIGNS}/", *([] if without_page else [PAGE])]
        _print(f"{out}: {', '.join(written)}" + (f"; no {PAGE}: {without_page}" if without_page else ""))
    if stopped is not None:
        raise stopped
    raise typer.Exit(0 if front.proven else 3)


@app.command()
def sample(
    spec: Annotated[Path, typer.Argument(help="The spec.toml whose designs are wanted.")],
    out: Annotated[Path, typer.Option(help="Folder for the designs and index.csv.")],
    number: Annotated[int, typer.Option(help="How many designs in all, the optima among them.")] = 40,
    fill: Annotated[
        float, typer.Option(help="Least share that random designs spend of every budget but activation, effectiveness.")
    ] = 0.95,
    effectiveness: Annotated[
        list[float] | None,
        typer.Option(
            metavar="RHO",
            help="Add the proven optimum of this limit, repeatable; the largest also bounds the random designs "
            "(default: the spec's limit, its half, quarter and eighth, where random designs reach them).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random designs.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Sample designs to train: random ones near the budgets, spread over the space, and proven optima."""
    from mad_ip.files import require_place
    from mad_ip.kinds import load_cnn

    problem = load_cnn(spec)
    require_place("--out", out)

    from mad_ip import sampling
    from mad_ip.reports.progress import line
    from mad_ip.reports.sampling import sample_table
    from mad_ip.reports.terminal import Terminal, progress

    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:
        designs = sampling.sample(
            problem,
            number,
            fill=fill,
            effectiveness=effectiveness or (),
            seed=seed,
            watch=watch,
            interrupted=interrupted,
            accept=lambda design: sampling.require_same(out, design),
        )
    sampling.save(designs, problem, out)
    _print(sample_table(designs, problem))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="DESIGN", help="The design.json to verify.")],
    spec: Annotated[Path | None, typer.Option(help=_SPEC)] = None,
    method: Annotated[str, typer.Option(help="auto, audit, exhaustion, bound or attack.")] = "auto",
    gap: Annotated[float, typer.Option(help="Relative gap that the bound may leave.")] = 1e-4,
    time_limit: Annotated[float, typer.Option(help="Seconds after which the verification stops.")] = math.inf,
    certificate: Annotated[
        Path | None, typer.Option(help="Replay this certificate instead of searching for the bound.")
    ] = None,
    write_certificate: Annotated[Path | None, typer.Option(help="Where to write the bound's certificate.")] = None,
    evaluations: Annotated[
        int, typer.Option(min=0, max=10**12, help="Architectures that the attack evaluates.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the attack.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=THREADS, help="Threads of the bound (default: all cores).")
    ] = None,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    write: Annotated[bool, typer.Option("--write", help="Store what was proven in the design.json.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as a JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Prove without the solver that a design is the best of its spec, or say why not.

    Exit codes: 0 proven, 1 failed or not proven, 3 stopped before a proof, 2 bad input.
    """
    import dataclasses
    import os
    from json import dumps

    from mad_ip.design import Design
    from mad_ip.files import read_json, require_new, write_atomically
    from mad_ip.kinds import find_spec, require_cnn
    from mad_ip.reports.terminal import Terminal, progress
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
        require_new("--write-certificate", write_certificate, path, spec)
    if write:
        require_new("--write", path)
    require_cnn(path)
    design = Design.read(path)
    beside = path.with_name("spec.toml")
    # A spec.toml beside it with another hash is the audit's to judge.
    source = spec or find_spec(path, design.spec_sha256) or (beside if beside.is_file() else None)
    if source is None:
        raise InputError(f"{path}: its spec is neither beside it nor in the zoo; --spec must name its spec.toml")
    problem = Spec.load(source)
    if interpolate:
        problem = problem.interpolating()
    boxes = None if certificate is None else read_json(certificate, proof=True)
    if certificate is not None and not isinstance(boxes, dict):
        raise InputError(f"{certificate}: must be a JSON object")
    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:
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
    if json:
        content = {"name": design.name, "score": design.metrics.score, **verdict.content()}
        write_output(dumps(content, indent=2, allow_nan=False) + "\n")
    else:
        for sentence in sentences(Model(design.name, problem, design, verdict)):
            _print(sentence, write_certificate)
    if write_certificate is not None and verdict.certificate:
        write_atomically(write_certificate, (dumps(verdict.certificate) + "\n").encode())
    if write and verdict.exit_code == 0:
        dataclasses.replace(design, verification=verdict.verification).save(path)
    raise typer.Exit(verdict.exit_code)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A design.json or a spec.toml.")],
    spec: Annotated[Path | None, typer.Option(help=_SPEC)] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Measure a design for a board or a device.toml.")
    ] = None,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object and nothing else.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Where to write a design as one page that needs no network.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what binds, what more is worth, and why no change of a choice is better."),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, max=THREADS, help="Threads of the solves that explain.")] = 1,
) -> None:
    """Show a design, or the size of a spec's space and catalogue without solving it."""
    from json import dumps

    from mad_ip.files import read_bytes, require_new, write_atomically
    from mad_ip.kinds import design_kind, require_cnn, spec_kind

    if path.suffix == ".json" or read_bytes(path).lstrip().startswith(b"{"):
        kind = design_kind(path)
        if device is not None or html is not None:
            require_cnn(path)
        if html is not None:
            require_new("--html", html, path)
        design = kind.load_design(path)
        if interpolate and device is None:
            raise InputError("--interpolate: fills the table of a --device; must be left out without one")
        if device is not None and spec is not None:
            raise InputError(f"--spec = {spec}: a --device has budgets of its own; must be left out beside one")
        place = _place(device, interpolate)
        if place is not None:
            design = design.on(place)
        problem = _spec_of(path, kind, design, spec) if device is None else None
        budget = _board(device) if problem is None else problem.budget
        explanation = None
        if explain:
            require_cnn(path)
            if problem is None:
                raise InputError(
                    f"--explain: the spec of {path} is neither beside it nor in the zoo; --spec must name it"
                )
            with interruptible() as interrupted:
                explanation = _explanation(problem, design, threads, None, interrupted)
        if html is not None:
            from mad_ip.reports.front import design_page

            prices = () if explanation is None else [each.price for each in explanation.spendings]
            write_atomically(html, design_page(design, problem, prices, budget=budget).encode())
        if json:
            write_output(_shown(design, budget, explanation))
            return
        _print(kind.design_table(design, budget, problem), html)
        if problem is None and device is None and design.spec_sha256:
            _print("its spec is neither beside it nor in the zoo: --spec FILE shows its budgets, too", html)
        if explanation is not None:
            from mad_ip.reports.explanation import explanation_table

            _print(explanation_table(explanation), html)
        if html is not None:
            _print(f"{html}: written", html)
    elif device is not None or spec is not None or html is not None or explain:
        raise InputError(f"{path}: is a spec; --device, --spec, --html and --explain are for a design.json")
    else:
        kind = spec_kind(path)
        problem = kind.load_spec(path)
        if interpolate:
            problem = _interpolated(path, kind, problem)
        if json:
            write_output(dumps(kind.space_content(problem), indent=2, allow_nan=False) + "\n")
        else:
            _print(kind.space_table(problem))


@app.command()
def init(
    macs: Annotated[float | None, typer.Option(help="Multiply-accumulates of an image, as 600e6.")] = None,
    params: Annotated[float | None, typer.Option(help="Parameters, as 5e6.")] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, max=SIDES, help="Side of the image in pixels (default: the network's own, else 224)."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="basic, bottleneck, inverted or inverted_se (default: the network's, or inverted)."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=0, max=WIDTHS, help="Outputs of the classifier (default: the network's own, else 1000)."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            help="Strides, family, input and costs of a design.json, torchvision:NAME, timm:NAME or FILE.py:FACTORY.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="A board, whose memory and flash are budgets, or a device.toml."),
    ] = None,
    effectiveness: Annotated[
        float | None,
        typer.Option(help="Limit on rho (default: 0.3, 0.5 for inverted blocks, more where no design has that)."),
    ] = None,
    activation: Annotated[str | None, typer.Option(help='Peak of live activations, as "256 kB".')] = None,
    flash: Annotated[str | None, typer.Option(help='Flash, as "1 MB".')] = None,
    latency: Annotated[str | None, typer.Option(help='Time of an image on the device.toml, as "8 ms".')] = None,
    name: Annotated[str | None, typer.Option(help="Name of the spec (default: by family or network).")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it (default, and -: standard output).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file at --out.")] = False,
) -> None:
    """Write a commented spec.toml that can be solved as it stands, from budgets or around a network.

    Without either, some questions are asked.
    """
    from mad_ip import start
    from mad_ip.files import require_new, write_atomically

    target = None if out in (None, STANDARD_OUTPUT) else out
    if target is not None:
        require_new("--out", target, like)
        if target.exists() and not force:
            raise InputError(f"--out = {target}: there is such a file; --force replaces it, another name keeps it")
    budget: dict[str, Any] = {"macs": macs, "params": params, "effectiveness": effectiveness}
    budget |= {"activation": activation, "flash": flash, "latency": latency}
    limits = [value for key, value in budget.items() if key != "effectiveness" and value is not None]
    if like is None and device is None and not limits:
        if not sys.stdin.isatty():
            raise InputError("--macs, --params, --device or --like is missing: at least one of them is needed")
        resolution = typer.prompt("Side of the image in pixels", resolution or start.RESOLUTION, type=int)
        classes = typer.prompt("Classes", start.CLASSES if classes is None else classes, type=int)
        family = typer.prompt("Family of blocks (basic, bottleneck, inverted, inverted_se)", family or start.FAMILY)
        budget["macs"] = typer.prompt("Multiply-accumulates of an image", "600e6", type=float)
        budget["params"] = typer.prompt("Parameters", "5e6", type=float)
    text = start.first(
        target or Path("spec.toml"),
        budget,
        like=like,
        device=device,
        resolution=resolution,
        family=family,
        classes=classes,
        name=name,
    )
    if target is None:
        write_output(text)
        return
    write_atomically(target, text.encode())
    _print(f"{target}: written", target)


@app.command()
def schema(
    kind: Annotated[str, typer.Option(help="Of which specs: cnn or mlp.")] = "cnn",
    out: Annotated[Path | None, typer.Option(help="Where to write it (default: standard output).")] = None,
) -> None:
    """Print the JSON Schema of spec.toml, from which editors complete and check it."""
    from json import dumps

    from mad_ip.files import require_new, write_atomically
    from mad_ip.keys import json_schema
    from mad_ip.kinds import KINDS

    kinds = {found.key or "cnn": found for found in KINDS}
    if kind not in kinds:
        raise InputError(f"--kind = {kind}: must be one of {', '.join(kinds)}")
    text = dumps(json_schema(f"spec.toml of {kinds[kind].noun}", kinds[kind].keys), indent=2) + "\n"
    if out is None:
        write_output(text)
        return
    require_new("--out", out)
    write_atomically(out, text.encode())
    _print(f"{out}: written", out)


@app.command()
def build(
    design: Annotated[Path, typer.Argument(help="The design.json to build.")],
    out: Annotated[Path | None, typer.Option(help="State dict: .safetensors, .pt or .pth (beside the design).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the initial weights.")] = 0,
) -> None:
    """Build the PyTorch network, check its measured against its modelled cost, and save its initial weights."""
    from mad_ip.files import require_new
    from mad_ip.kinds import design_kind

    target = out or design.with_suffix(".safetensors")
    require_new("--out", target, design)
    kind = design_kind(design)
    content = kind.load_design(design)

    import torch

    from mad_ip.networks import save_weights

    torch.manual_seed(seed)
    network = kind.network(content)
    kind.verify_cost(network, content)
    save_weights(network, target)
    metrics = content.metrics
    _print(f"{target}: {metrics.macs:,} MACs and {metrics.params:,} parameters, measured as modelled")


@app.command()
def train(
    design: Annotated[Path, typer.Argument(help="The design.json whose network is trained.")],
    data: Annotated[
        Path, typer.Option(help="A folder with cifar-10-batches-py, one with train and val, or an .npz of JPEGs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights.safetensors, log.csv and result.json.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 128,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate (default: 0.2 for sgd, else 0.001, for every 128 images of a batch)."),
    ] = None,
    optimiser: Annotated[str, typer.Option(help="sgd or any name that timm knows.")] = "sgd",
    momentum: Annotated[float, typer.Option(help="Momentum, of optimisers that have one.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Weight decay, not of biases and normalisations.")] = 5e-4,
    warmup: Annotated[
        float | None, typer.Option(help="Epochs in which the rate grows (default: 1, of a single epoch half).")
    ] = None,
    smoothing: Annotated[float, typer.Option(help="Share of a label that goes to all classes.")] = 0.1,
    mixup: Annotated[float, typer.Option(help="Alpha of mixup, 0 for none.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Alpha of cutmix, 0 for none.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, order and augmentation.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Train on so many images only, as many of each class (default: all).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch (default: its own choice).")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    evaluate_every: Annotated[int, typer.Option(help="Epochs from one test to the next.")] = 1,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints within an epoch.")] = 5.0,
    runs: Annotated[Path | None, typer.Option(help="A CSV file that gets a row for the finished run.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train a design's network on labelled images; the same command goes on with a run that was cut.

    Exit codes: 0 trained, 3 stopped by Ctrl-C with a checkpoint, 2 bad input.
    """
    from mad_ip.design import Design
    from mad_ip.kinds import require_cnn
    from mad_ip.reports.terminal import Terminal, progress
    from mad_ip.reports.training import line

    require_cnn(design)
    content = Design.load(design)

    from mad_ip.networks import training

    recipe = training.Recipe(
        epochs=epochs,
        batch=batch,
        lr=lr,
        optimiser=optimiser,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup=warmup,
        smoothing=smoothing,
        mixup=mixup,
        cutmix=cutmix,
        seed=seed,
        limit=limit,
    )
    if runs is not None:
        training.require_runs(runs)
    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:
        result = training.train(
            content,
            data,
            out,
            recipe,
            device=device,
            threads=threads,
            evaluate_every=evaluate_every,
            checkpoint_minutes=checkpoint_minutes,
            watch=watch,
            interrupted=interrupted,
        )
    if runs is not None:
        training.record(runs, design, result)
    _print(f"{out / training.WEIGHTS}: accuracy {result.accuracy:.2%} of {result.test_images:,} test images")


@app.command()
def calibrate(
    spec: Annotated[Path, typer.Argument(help="The spec.toml whose designs were trained.")],
    runs: Annotated[Path, typer.Option(help="A CSV file with the columns design, accuracy and, if any, seed.")],
    out: Annotated[Path, typer.Option(help="Where to write the spec with the objective that ranks such designs best.")],
    page: Annotated[Path | None, typer.Option(help="Where to write a page with figures and coefficients.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the cross-validation and of the intervals.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object and nothing else.")] = False,
) -> None:
    """Fit the objective of a spec to the accuracies of trained designs, and say whether it is of use."""
    from mad_ip import calibration
    from mad_ip.files import require_new, write_atomically
    from mad_ip.kinds import load_cnn
    from mad_ip.reports import calibration as report
    from mad_ip.runs import read_runs

    problem = load_cnn(spec)
    table = read_runs(runs, problem)
    inputs = [path.resolve() for path in (spec, runs, *table.files)]
    require_new("--out", out.resolve(), *inputs, None if page is None else page.resolve())
    if page is not None:
        require_new("--page", page.resolve(), *inputs)
        report.require_page()
    found = calibration.calibrate(problem, table, seed)
    contents = {out: found.to_toml().encode()} | ({} if page is None else {page: report.page(found)})
    for path, content in contents.items():
        write_atomically(path, content)
    if json:
        from json import dumps

        write_output(dumps(found.content(), indent=2, allow_nan=False) + "\n")
        return
    _print(found.verdict, *contents)
    _print(report.calibration_table(found), *contents)
    for path in contents:
        _print(f"{path}: written", path)


@app.command()
def export(
    design: Annotated[Path, typer.Argument(help="The design.json to export.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, torch-export, tflite, safetensors, python or tinynas.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Trained weights: .safetensors, .pt or .pth (default: initial weights).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the file (beside the design).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the initial weights.")] = 0,
    images: Annotated[
        Path | None,
        typer.Option(help="tflite: a folder of images, or an .npy, to calibrate on (default: random ones)."),
    ] = None,
    quantised: Annotated[bool, typer.Option("--int8/--float32", help="tflite: numbers of the file.")] = True,
    activation: Annotated[
        str | None, typer.Option(help="tflite: ReLU or ReLU6 in the place of the design's own.")
    ] = None,
) -> None:
    """Write the network for those who have no mad-ip, once it computes what the network computes."""
    from mad_ip.design import Design
    from mad_ip.kinds import require_cnn

    require_cnn(design)
    content = Design.load(design)

    from mad_ip.networks.export import default_path
    from mad_ip.networks.export import export as run

    target = out or default_path(design, kind)
    options: dict[str, Any] = {"images": images, "quantised": quantised, "activation": activation}
    fidelity = run(content, kind, target, checkpoint=checkpoint, seed=seed, **options)
    _print(f"{target}: written" if fidelity is None else f"{target}: written, {fidelity}")


@app.command("export-model")
def export_model(
    spec: Annotated[Path, typer.Argument(help="The spec.toml whose mixed-integer program is wanted.")],
    out: Annotated[Path, typer.Option(help="Where to write it: .mps, .lp or .nl.")],
    kind: Annotated[str | None, typer.Option("--format", help="mps, lp or nl (default: by the name of --out).")] = None,
    start: Annotated[
        Path | None, typer.Option(help="mps, lp: where to write a feasible start, for HiGHS, SCIP and Gurobi.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="Where to write, as JSON, what every column means.")] = None,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Only the options that branch and bound leaves, with a bound on the rest.")
    ] = False,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Write the mixed-integer program of a spec for other solvers.

    Exit codes: 0 written, 3 stopped, 4 infeasible, 2 bad input.
    """
    from mad_ip.files import require_new, write_atomically
    from mad_ip.kinds import load_cnn
    from mad_ip.model_files import format_of

    chosen = format_of(kind, out)
    places = {"--out": out, "--start": start, "--names": names}
    for option, path in places.items():
        if path is not None:
            require_new(option, path, spec, *(other for key, other in places.items() if key != option))
    if start is not None and chosen == "nl":
        raise InputError(f"--start = {start}: an nl file has its start inside; must be left out")
    problem = load_cnn(spec)
    if interpolate:
        problem = problem.interpolating()

    from mad_ip.model_files import model_files
    from mad_ip.reports.progress import line
    from mad_ip.reports.terminal import Terminal, progress
    from mad_ip.solve import program

    with interruptible() as interrupted, progress(Terminal(stderr=True), quiet, line) as watch:
        found = program(problem, reduced=reduced, watch=watch, interrupted=interrupted)
        files = model_files(found, chosen)
    _print(files.summary)
    for path, content in ((out, files.model), (start, files.start), (names, files.names)):
        if path is not None:
            write_atomically(path, content)
            _print(f"{path}: written", path)


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
        int | None, typer.Option(min=1, max=SIDES, help="Input resolution (default: the network's own, else 224).")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--against", help="A spec.toml, or default: a space around the network itself.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Measure memory and time, too, on a board or a device.toml.")
    ] = None,
    interpolate: Annotated[bool, typer.Option("--interpolate", help=_INTERPOLATE)] = False,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    time_limit: Annotated[float, typer.Option(help="Seconds for each optimum.")] = math.inf,
    levels: Annotated[
        bool, typer.Option("--levels", help="Show every resolution of each network where there are several.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list and nothing else.")] = False,
) -> None:
    """Measure networks that others made: entropy, effectiveness, MACs and parameters, resolution by resolution.

    With --against also the proven optimum within the network's own MACs, parameters and effectiveness; exit code 3
    where the time limit came before its proof.
    """
    from json import dumps, loads

    from mad_ip.reports.scores import optimum_text, score_table, scores_table
    from mad_ip.scoring import against, default_spec, measure
    from mad_ip.spec import Spec

    _require_limits(time_limit, gap)
    _require_convention(convention)
    given = None if reference in (None, "default") else Spec.load(str(reference))
    place = _place(device, interpolate)
    optima = []
    with interruptible() as interrupted:
        scores = [measure(name, convention, resolution, place) for name in networks]
        if not json:
            for table in map(score_table, scores) if levels or len(scores) == 1 else [scores_table(scores)]:
                _print(table)
        for measured in scores if reference is not None else ():
            spec = default_spec(measured) if given is None else given
            optima.append(against(measured, spec, gap=gap, time_limit=time_limit, interrupted=interrupted))
            if not json:
                _print(optimum_text(measured, optima[-1]))
    if json:
        contents = [measured.content() for measured in scores]
        for content, optimum in zip(contents, optima, strict=False):
            content["optimum"] = {
                "share": optimum.share,
                "least": optimum.least,
                "design": loads(optimum.design.to_json()),
            }
        write_output(dumps(contents, indent=2) + "\n")
    raise typer.Exit(0 if all(optimum.proven for optimum in optima) else 3)


@app.command("import")
def read(
    structure: Annotated[
        Path, typer.Argument(help="A structure of the reference toolbox (TinyNAS) or a network of MCUNet's zoo.")
    ],
    kind: Annotated[
        str | None, typer.Option("--format", help="tinynas or mcunet (default: mcunet for .json, else tinynas).")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=SIDES, help="Input resolution (default: MCUNet's own, 224 for TinyNAS).")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=0, max=WIDTHS, help="Outputs of the head; 0: no head (default: MCUNet's own, 1000 for TinyNAS)."
        ),
    ] = None,
    convention: Annotated[str, typer.Option(help="paper or tinynas.")] = "paper",
    out: Annotated[Path | None, typer.Option(help="Where to write design.json (beside the structure).")] = None,
) -> None:
    """Read a network of another project as a design.json; mad-ip export --format tinynas is TinyNAS's way back."""
    from mad_ip import mcunet, tinynas
    from mad_ip.files import require_new
    from mad_ip.reports.table import design_table

    _require_convention(convention)
    kind = kind or ("mcunet" if structure.suffix == ".json" else "tinynas")
    loaders: dict[str, Callable[..., Any]] = {"tinynas": tinynas.load, "mcunet": mcunet.load}
    if kind not in loaders:
        raise InputError(f"--format = {kind}: must be one of {', '.join(loaders)}")
    target = out or structure.with_suffix(".json")
    if target == structure:
        raise InputError(f"{structure}: the design.json would take its place; --out is needed")
    require_new("--out", target, structure)
    given = {"resolution": resolution, "classes": classes}
    options = {key: value for key, value in given.items() if value is not None}
    design = loaders[kind](structure, convention=convention, **options)
    design.save(target)
    _print(design_table(design), target)


device_app = typer.Typer(help="How long layers and networks take on a device.", no_args_is_help=True)
app.add_typer(device_app, name="device")


@device_app.command("import")
def import_table(
    table: Annotated[Path, typer.Argument(help="A latency table of TinyNAS (plain or .gz) or of Once-for-all (YAML).")],
    out: Annotated[Path, typer.Option(help="Where to write device.toml.")],
    kind: Annotated[
        str | None, typer.Option("--format", help="tinynas or once-for-all (default: by the table's first line).")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch whose times count; they are of the whole batch.")] = 1,
    number_bytes: Annotated[
        int, typer.Option("--bytes", min=1, max=8, help="Bytes of a number: 4 for fp32, 2 for fp16, 1 for int8.")
    ] = 4,
) -> None:
    """Read a latency table of another project as a device.toml."""
    from mad_ip import latency_tables
    from mad_ip.files import require_new

    require_new("--out", out, table)
    found = latency_tables.read(table, kind, batch=batch, number_bytes=number_bytes)
    latency_tables.write(found.device, out, found.measured())
    for sentence in found.sentences():
        _print(sentence, out)
    _print(f"{out}: written", out)


@device_app.command("profile")
def device_profile(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Whose layers to measure: spec.toml files.")],
    out: Annotated[Path, typer.Option(help="Where to write device.toml.")],
    runtime: Annotated[str, typer.Option(help="onnxruntime, torch (its CPU) or cuda.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    layers: Annotated[
        int, typer.Option(min=20, max=100_000, help="Layers to measure of every spec; a fifth is held out.")
    ] = 240,
    networks: Annotated[
        int, typer.Option(min=4, max=10_000, help="Networks to measure of every spec; a quarter held out.")
    ] = 16,
    name: Annotated[str, typer.Option(help="Name of the device (default: that of the processor).")] = "",
    table: Annotated[
        bool, typer.Option("--table", help="Write the times of a grid of layers, interpolated, instead of a model.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Where to draw predicted against measured: .svg or .png.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure the layers that a spec needs on this machine, fit a model of latency, and write device.toml."""
    from mad_ip.files import require_new
    from mad_ip.kinds import CNN, spec_kind
    from mad_ip.profiling import load_spec, profile
    from mad_ip.reports.device import line, profile_table, require_plot
    from mad_ip.reports.device import plot as draw
    from mad_ip.reports.terminal import Terminal, progress

    require_new("--out", out, *specs)
    if plot is not None:
        require_new("--plot", plot, out, *specs)
        require_plot(plot)
    for path in specs:
        if spec_kind(path) is not CNN:
            raise InputError(f"{path}: has no convolutions to measure; must be a spec of a convolutional network")
    problems = [load_spec(path) for path in specs]

    from mad_ip.networks.timing import Runtime

    chosen = Runtime(runtime, threads)
    with progress(Terminal(stderr=True), quiet, line) as watch:
        found = profile(problems, chosen, name=name, number=layers, whole=networks, seed=seed, table=table, watch=watch)
    found.save(out)
    _print(profile_table(found), out)
    _print(f"{out}: written", out)
    if plot is not None:
        draw(found, plot)


@device_app.command("measure")
def device_measure(
    design: Annotated[Path, typer.Argument(help="The design.json whose network is measured on this machine.")],
    device: Annotated[
        str | None, typer.Option(help="A device.toml that predicts it (default: the design's own device).")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, torch (its CPU) or cuda.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
) -> None:
    """Measure a whole network on this machine, beside its prediction and the noise of the measurement."""
    from mad_ip.design import Design
    from mad_ip.device import Device
    from mad_ip.kinds import require_cnn
    from mad_ip.profiling import compared
    from mad_ip.reports.device import comparison_table

    require_cnn(design)
    content = Design.load(design)
    named = None if device is None else Device.named(device)
    own = content.device if content.device is not None and content.device.latency is not None else None

    from mad_ip.networks.timing import Runtime

    _print(comparison_table(compared(content, named or own, Runtime(runtime, threads))))


@app.command()
def compare(
    specs: Annotated[list[Path], typer.Argument(help="The spec.toml files to solve.")],
    solver: Annotated[
        list[str] | None, typer.Option(help="Solver profile, repeatable: a name under solvers/ or a .toml file (all).")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for each run.")] = 60.0,
    seeds: Annotated[int, typer.Option(min=1, max=1_000, help="Runs of a randomised solver, with seeds from 0.")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=THREADS, help="Threads of every solver.")] = 1,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md, report.json and plots/.")] = Path(
        "comparison"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print the content of report.json and nothing else.")] = False,
) -> None:
    """Compare solvers on specs, each run in a process of its own, and write a report.

    A solver that is missing or fails becomes a row of the report; Ctrl-C writes what there is. Exit codes: 0 all runs
    made, 3 stopped, 2 bad input.
    """
    _require_limits(time_limit, gap)

    from mad_ip.files import require_place
    from mad_ip.reports import comparison

    require_place("--out", out)
    settings = comparison.Settings(time_limit, gap, threads, seeds)
    with interruptible() as interrupted:
        comparison.compare(specs, solver or [], settings, out, interrupted=interrupted)
        stopped = interrupted()
    if json:
        write_output((out / "report.json").read_text())
    else:
        _print(f"{out / 'report.html'}: written")
    raise typer.Exit(3 if stopped else 0)


def _place(device: str | None, interpolate: bool) -> Any:
    """The device named, with its table interpolated if asked."""
    from mad_ip.device import Device

    if device is None:
        return None
    place = Device.named(device)
    return place.interpolating() if interpolate else place


def _interpolated(path: Path, kind: Any, spec: Any) -> Any:
    """A spec whose device's table is interpolated; raise :class:`InputError` for a kind that has no device."""
    if not kind.profiles:
        raise InputError(f"--interpolate: {path} is {kind.noun}, which has no device; must be left out")
    return spec.interpolating()


def _board(device: str | None) -> Any:
    """The budgets of a board by its name; ``None`` for what is none."""
    from mad_ip.device import BOARDS
    from mad_ip.spec import Budget

    board = BOARDS.get(device or "")
    return None if board is None else Budget(activation=board.activation, flash=board.flash)


def _spec_of(path: Path, kind: Any, design: Any, given: Path | None) -> Any:
    """The spec that is given, else the one that a design came from; ``None`` where there is none.

    Raises :class:`InputError` for one whose budgets the design cannot be held to.
    """
    from mad_ip.kinds import find_spec, spec_kind

    source = given or find_spec(path, design.spec_sha256)
    if source is None:
        return None
    own = spec_kind(source)
    if own is not kind:
        raise InputError(f"{source}: is {own.noun}; must be the spec of {kind.noun} as {path} is")
    spec = kind.load_spec(source)
    if kind.profiles:
        missing = [key for key in spec.budget.given if key != "effectiveness" and key not in design.costs]
        if missing:
            raise InputError(
                f"{source}: budget.{missing[0]}: is one of a device, which {path} is not for; --spec must name "
                "the spec that it came from"
            )
    return spec


def _shown(design: Any, budget: Any, explanation: Any) -> str:
    """The design.json text, with where the memory of a device goes, and what explains the design."""
    from json import dumps, loads

    from mad_ip.memory import memory_of

    content = loads(design.to_json())
    if getattr(design, "device", None) is not None:
        content["memory"] = memory_of(design, budget).content()
    if explanation is not None:
        content["explanation"] = explanation.content()
    return dumps(content, indent=2) + "\n"


def _print(content: object, *outputs: Path | None) -> None:
    """Show a table or a text; not where standard output is one of the ``outputs``, and has what is written there."""
    from mad_ip.reports.terminal import show

    if STANDARD_OUTPUT not in outputs:
        show(content)


def _require_limits(time_limit: float, gap: float) -> None:
    if math.isnan(time_limit) or time_limit < 0:
        raise InputError(f"--time-limit = {time_limit}: must be a number of at least 0")
    if not 0 <= gap <= 1:
        raise InputError(f"--gap = {gap}: must be a number of at least 0 and at most 1")


def _require_convention(convention: str | None) -> None:
    from mad_ip.spec import CONVENTIONS

    if convention is not None and convention not in CONVENTIONS:
        raise InputError(f"--convention = {convention}: must be one of {', '.join(CONVENTIONS)}")
