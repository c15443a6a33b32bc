"""Hostile files, places, numbers and signals: one sentence and an exit code, and nothing else is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pty
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mad_ip import files
from mad_ip.backends import Profile
from mad_ip.cli import main
from mad_ip.design import Design
from mad_ip.errors import InputError, MadIpWarning
from mad_ip.lagrangian import kernels
from mad_ip.solve import solve
from mad_ip.spec import Budget, Spec, Stage
from mad_ip.stopping import Stopped, interruptible, stoppable
from mad_ip.verification.verdict import verify

TOY = Path(__file__).parent.parent / "models" / "toy" / "spec.toml"
TEXT = TOY.read_text()
SEVERAL = "depth = {min = 1, max = 4}"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command line; gives the exit code, and what is on standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mad-ip", *map(str, words)])
        # What a command sets up for its process stays there.
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None)), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def design() -> Design:
    return Design.load(TOY.with_name("design.json"))


@pytest.fixture
def unsolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be solved."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("solved before it was refused")

    monkeypatch.setattr("mad_ip.solve.solve", fail)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch, design: Design) -> None:
    """A solve takes no time."""
    monkeypatch.setattr("mad_ip.solve.solve", lambda *_, **__: design)


def refused(outcome: tuple[int, str, str], *parts: str, code: int = 2) -> None:
    """One sentence on standard error that has all parts, and an exit code."""
    found, out, errors = outcome
    assert (found, out) == (code, "")
    assert errors.startswith("mad-ip: ")
    assert errors.count("\n") == 1
    assert len(errors) <= 2_010
    assert errors[:-1].isprintable()
    for part in parts:
        assert part in errors


def device(path: Path, kind: str, minor: int) -> Path:
    """A node of its own for a device of memory, whose major number is 1."""
    assert kind == "character"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        path.open("rb").close()
    except OSError as error:
        pytest.skip(f"no device nodes here: {error}")
    return path


@pytest.mark.usefixtures("answered")
def test_an_output_that_is_a_device_is_written_to(tmp_path: Path, run: Run) -> None:
    node = device(tmp_path / "null", "character", 3)
    assert run("solve", TOY, "--quiet", "--out", node)[0] == 0
    assert stat.S_ISCHR(node.lstat().st_mode)


@pytest.mark.usefixtures("answered")
def test_a_design_that_cannot_be_written_is_printed(tmp_path: Path, run: Run, design: Design) -> None:
    node = device(tmp_path / "full", "character", 7)
    code, out, errors = run("solve", TOY, "--quiet", "--out", node)
    assert (code, out) == (2, design.to_json())
    assert "No space left on device" in errors
    assert stat.S_ISCHR(node.lstat().st_mode)
    assert os.listdir(tmp_path) == ["full"]


@pytest.mark.usefixtures("answered")
def test_an_output_that_is_a_pipe_is_written_to(tmp_path: Path, run: Run, design: Design) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, out, errors = run("solve", TOY, "--quiet", "--out", pipe)
    assert (code, out) == (2, design.to_json())
    assert "pipe: cannot be written" in errors
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    thread.start()
    while run("solve", TOY, "--quiet", "--out", pipe)[0]:
        # Nobody reads yet.
        pass
    thread.join(10)
    assert read == [design.to_json().encode()]
    assert pipe.is_fifo()


@pytest.mark.usefixtures("answered")
def test_an_output_that_is_a_link_stays_one(tmp_path: Path, run: Run, design: Design) -> None:
    for target in (tmp_path / "old.json", tmp_path / "new.json"):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target.name)
        if target.stem == "old":
            target.write_text("{}")
        assert run("solve", TOY, "--quiet", "--out", link)[0] == 0
        assert link.is_symlink()
        assert target.read_text() == design.to_json()


@pytest.mark.usefixtures("answered")
def test_standard_output_is_an_output(
    tmp_path: Path, run: Run, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("solve", TOY, "--quiet", "--out", "-") == (0, design.to_json(), "")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("unsolved")
def test_outputs_are_checked_before_the_solve(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "spec.toml"
    spec.write_text(TEXT)
    (tmp_path / "link.toml").symlink_to("spec.toml")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for place in (spec, tmp_path / "folder" / ".." / "spec.toml", "link.toml"):
        refused(run("solve", spec, "--out", place), "--out", "another")
    for place in ("folder", "", "/proc/design.json", "x" * 300, "none/design.json", "loop"):
        refused(run("solve", spec, "--out", place), "--out")
    refused(run("solve", spec, "--top", 2, "--out", "x" * 250 + ".json"), "--out", "too long")
    assert spec.read_text() == TEXT
    assert sorted(os.listdir(tmp_path)) == ["folder", "link.toml", "loop", "spec.toml"]


def test_names_mean_files_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("solvers").mkdir()
    planted = Path("solvers/highs.toml")
    planted.write_text('backend = "highs"\n[options]\nlog_file = "elsewhere.log"\n')
    assert not Path(Profile.load("highs").source).samefile(planted)
    assert Profile.load("highs").options == {}
    assert Profile.load(str(planted)).options == {"log_file": "elsewhere.log"}
    Path("models/toy").mkdir(parents=True)
    Path("models/toy/spec.toml").write_text("")
    assert files.read_bytes("models/toy/spec.toml") == b""
    assert all(not path.is_relative_to(tmp_path) for path in files.resources("models/*/*.toml"))
    for name in ("none", "x" * 300, "null\0"):
        with pytest.raises(InputError, match="no such profile"):
            Profile.load(name)


@pytest.mark.parametrize("key", ["log_file", "solution_file", "write_model_file", "read_solution_file"])
def test_options_that_name_files_are_refused(tmp_path: Path, run: Run, key: str) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(f'backend = "highs"\n[options]\n{key} = "{tmp_path}/elsewhere"\n')
    refused(run("solve", TOY, "--quiet", "--solver", profile), f"options.{key}", "must be left out")
    assert os.listdir(tmp_path) == ["profile.toml"]


def test_machine_code_is_kept_where_only_this_user_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"mad-ip-{os.getuid()}"
    assert kernels._temporary() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert kernels._temporary() is None
    folder.rmdir()
    (tmp_path / "others").mkdir()
    folder.symlink_to("others")
    assert kernels._temporary() is None


def test_a_read_only_system_keeps_machine_code_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usual = Path(kernels._folder.__wrapped__() or "")
    allowed = os.access
    monkeypatch.setattr(kernels.os, "access", lambda path, mode: tmp_path in Path(path).parents and allowed(path, mode))
    monkeypatch.setattr(kernels.numba.config, "CACHE_DIR", "")
    found = kernels._folder.__wrapped__()
    assert found == str(tmp_path / f"mad-ip-{os.getuid()}" / usual.name)
    compiled = Path(kernels.__file__).parent / "__pycache__" / usual.name
    if compiled.is_dir():
        assert {path.name for path in Path(found).rglob("*.nbi")} == {path.name for path in compiled.rglob("*.nbi")}


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        (SEVERAL, "depth = [1000000000]", ("stage[1].depth", "at most 1000")),
        (SEVERAL, "depth = {min = 1, max = 1000000000}", ("stage[1].depth", "4,096")),
        ("channels = [16, 32, 48]", "channels = {min = 1, max = 100000}", ("stage[1].channels", "4,096")),
        ("resolution = 32", "resolution = 1000000000000", ("input.resolution", "65536")),
        ("classes = 10", f"classes = {10**30}", ("input.classes",)),
        ("stride = 2", "stride = 2\nweight = 1e30", ("stage[2].weight = 1e+30", "1e+06")),
        ("stride = 2", "stride = 2\nweight = 1e308", ("stage[2].weight", "1e+06")),
        ("stride = 2", "stride = 2\nweight = 1e-300", ("stage[2].weight", "0.001")),
        ("[stem]", "[objective]\ndepth_penalty = 1e-13\n[stem]", ("objective.depth_penalty = 1e-13", "1e-12")),
        ("[stem]", "[objective]\ndepth_penalty = 1e-300\n[stem]", ("objective.depth_penalty",)),
        ("[stem]", "[objective]\ndepth_penalty = 1e20\n[stem]", ("objective.depth_penalty", "1e+06")),
        ("[stem]", "[objective]\ndepth_penalty = 1e300\n[stem]", ("objective.depth_penalty",)),
        ('name = "toy"', f'{"a." * 20_000}a = 1\nname = "toy"', ("at most 64 parts",)),
        ('name = "toy"', f'{"a" * 1_000_000} = 1\nname = "toy"', ("unknown key",)),
        ('name = "toy"', f"name = {'[' * 5_000}{']' * 5_000}", ()),
        ("[stem]", "".join(f"x{n} = 1\n" for n in range(10_000)) + "[stem]", ("and 9992 more",)),
    ],
)
def test_sizes_and_numbers_are_judged_first(
    tmp_path: Path, run: Run, before: str, after: str, parts: tuple[str, ...]
) -> None:
    spec = tmp_path / "spec.toml"
    assert before in TEXT
    spec.write_text(TEXT.replace(before, after, 1))
    refused(run("solve", spec, "--quiet"), str(spec), *parts)


@pytest.mark.parametrize("depth", [10**9, 10**30])
@pytest.mark.parametrize("command", ["show", "verify", "build", "score"])
def test_the_sizes_of_a_design_are_judged_first(tmp_path: Path, run: Run, command: str, depth: int) -> None:
    content = json.loads(TOY.with_name("design.json").read_text())
    content["stages"][0]["depth"] = depth
    path = tmp_path / "design.json"
    path.write_text(json.dumps(content))
    words = ["--spec", TOY] if command == "verify" else []
    refused(run(command, path, *words), "stages[1].depth", "1,000")


def test_the_sizes_of_a_structure_are_judged_first(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "structure.txt"
    stem = "{'class': 'ConvKXBNRELU', 'in': 3, 'k': 3, 'out': 16, 's': 2}"
    stage = "{'class': 'SuperResK1KXK1', 'L': 1000000000, 'btn': 16, 'in': 16, 'k': 3, 'out': 32, 's': 2}"
    path.write_text(f"[{stem}, {stage}]")
    refused(run("import", path), "1000000000")


@pytest.mark.parametrize("limit", ["macs = 1e300", "macs = 1e19", "params = 1e20", "macs = 1e-300"])
def test_limits_of_any_size_are_solved(tmp_path: Path, limit: str) -> None:
    spec = tmp_path / "spec.toml"
    key = limit.partition(" ")[0]
    given = next(line for line in TEXT.splitlines() if line.startswith(f"{key} = "))
    spec.write_text(TEXT.replace(given, limit))
    problem = Spec.load(spec)
    if problem.budget.sums[key] < 1:
        with pytest.raises(Exception, match=f"budget.{key} cannot be met"):
            solve(problem)
        return
    found = solve(problem)
    assert found.certificate is not None
    assert found.certificate.status == "optimal"
    # Without the limit the best design is the same.
    free = Budget(**{other: value for other, value in problem.budget.given.items() if other != key})
    assert found.path == solve(dataclasses.replace(problem, budget=free)).path


def test_names_are_no_markup(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "[/red]"
    folder.mkdir(parents=True)
    spec = folder / "[bold]spec.toml"
    spec.write_text(TEXT.replace('name = "toy"', 'name = "[/red] :smile:"'))
    out = folder / "design.json"
    code, printed, errors = run("solve", spec, "--out", out)
    assert (code, printed.splitlines()[0].strip()) == (0, "[/red] :smile: (paper)"), errors
    for words in (["show", out], ["show", spec], ["verify", out, "--spec", spec, "--method", "audit"]):
        code, printed, errors = run(*words)
        assert code == 0, errors
        assert "[/red] :smile:" in printed
    refused(run("solve", folder / "[/none].toml"), "[/none].toml")


def test_controls_of_a_terminal_are_not_sent_to_it(tmp_path: Path, run: Run) -> None:
    spec, out = tmp_path / "spec.toml", tmp_path / "design.json"
    spec.write_text(TEXT.replace('name = "toy"', 'name = "\\u001b[31mred\\nline"'))
    printed = [
        run("solve", spec, "--out", out),
        run("show", out),
        run("show", spec),
        run("verify", out, "--spec", spec),
    ]
    for code, shown, errors in printed:
        assert code == 0
        assert "\x1b" not in shown + errors
        assert "\\x1b[31mred" in shown
    path = tmp_path / "\x1b[31mred.toml"
    refused(run("solve", path), "\\x1b[31mred.toml: cannot be read")
    path.write_text(TEXT)
    code, out, _ = run("export-model", path, "--out", tmp_path / "\x1b[31mred.mps", "--quiet")
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31mred.mps: written" in out


def test_controls_in_any_text_of_a_design_are_not_sent_to_a_terminal(tmp_path: Path, run: Run) -> None:
    content = json.loads(TOY.with_name("design.json").read_text())
    content["certificate"]["version"] = "0.1\x1b[0m"
    path = tmp_path / "design.json"
    path.write_text(json.dumps(content))
    code, out, _ = run("show", path)
    assert code == 0
    assert "\x1b" not in out
    assert "0.1\\x1b[0m" in out


def test_inputs_are_read_up_to_a_size(tmp_path: Path, run: Run) -> None:
    large = tmp_path / "large.toml"
    large.write_text(TEXT.replace("channels = [16, 32, 48]", f"channels = [{'16, ' * 600_000}16]"))
    refused(run("solve", large), "large.toml", "at most 100,000")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(run("solve", pipe), "name is missing")
    refused(run("show", device(tmp_path / "zero", "character", 5)), "zero: is too large to read")
    refused(run("solve", tmp_path), "cannot be read")


def test_a_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "w") as stream:
            for line in TEXT.splitlines(keepends=True):
                time.sleep(0.005)
                stream.write(line)
                stream.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert files.read_bytes(f"/dev/fd/{reader}").decode() == TEXT
    finally:
        os.close(reader)
        thread.join(10)


def test_a_byte_order_mark_is_no_content(tmp_path: Path, design: Design) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_bytes(b"\xef\xbb\xbf" + TOY.read_bytes())
    found = Spec.load(spec)
    assert found == Spec.load(TOY)
    assert found.sha256 == hashlib.sha256(spec.read_bytes()).hexdigest()
    path = tmp_path / "design.json"
    path.write_bytes(b"\xef\xbb\xbf" + design.to_json().encode())
    assert Design.load(path) == design


@pytest.mark.parametrize("threads", [10**20, 100_000, 0])
def test_threads_have_a_range(run: Run, threads: int) -> None:
    code, _, errors = run("solve", TOY, "--threads", threads)
    assert code == 2
    assert "--threads" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("gap", ["inf", "1.5", "nan", "-1"])
@pytest.mark.usefixtures("unsolved")
def test_a_gap_has_a_range(run: Run, gap: str) -> None:
    refused(run("solve", TOY, "--gap", gap, "--time-limit", 0), "--gap", "at least 0 and at most 1")


def command(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    line = [sys.executable, "-m", "mad_ip", *map(str, words)]
    return subprocess.run(line, text=True, timeout=300, check=False, **options)


def test_standard_output_that_is_full_or_closed(tmp_path: Path) -> None:
    out = tmp_path / "schema.json"
    with open("/dev/full", "w") as full:
        done = command("show", TOY, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "mad-ip: standard output: cannot be written (No space left on device)\n"
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true"):
        out.unlink(missing_ok=True)
        line = f"'{sys.executable}' -m mad_ip schema --out '{out}' {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), closed
        assert json.loads(out.read_text())["title"] == "spec.toml of a CNN"


def test_a_small_limit_of_memory_is_one_sentence(tmp_path: Path) -> None:
    done = command("solve", TOY, "--quiet", preexec_fn=limited(300 << 20), capture_output=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("mad-ip: out of memory")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_wish(number: signal.Signals) -> None:
    def own(*_: object) -> None:
        raise AssertionError

    before = signal.signal(number, own)
    try:
        with interruptible() as interrupted:
            assert not interrupted()
            signal.raise_signal(number)
            assert interrupted()
            with pytest.raises(Stopped, match=number.name):
                signal.raise_signal(number)
        with stoppable(), pytest.raises(Stopped, match=number.name):
            signal.raise_signal(number)
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(), interruptible() as interrupted:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGHUP, before)


def end_itself(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_solver_that_is_killed_leaves_the_incumbent_and_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad_ip.backends.process._solve", end_itself)
    best = Design.load(TOY.with_name("design.json")).metrics.score
    with pytest.warns(MadIpWarning, match="highs ended without a result"):
        found = solve(Spec.load(TOY))
    assert found.certificate is not None
    assert found.metrics.score <= best * (1 + 1e-9) <= found.certificate.bound * (1 + 2e-9)
    if found.certificate.status == "optimal":
        assert found.metrics.score == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("key", "value"), [("status", "best"), ("bound", 1.0), ("gap", 0.5), ("bound", "x"), ("seconds", None)]
)
def test_a_certificate_that_contradicts_itself_is_refused(tmp_path: Path, run: Run, key: str, value: object) -> None:
    content = json.loads(TOY.with_name("design.json").read_text())
    content["certificate"][key] = value
    path = tmp_path / "design.json"
    path.write_text(json.dumps(content))
    refused(run("show", path), "certificate.")


@pytest.mark.parametrize("key", ["score", "upper", "gap"])
def test_a_proof_holds_numbers(tmp_path: Path, key: str, design: Design) -> None:
    spec = Spec.load(TOY)
    certificate = dict(verify(spec, design, method="bound", certify=True).certificate)
    certificate[key] = "x"
    with pytest.raises(InputError, match=key):
        verify(spec, design, method="bound", certificate=certificate)


def test_what_is_changed_in_code_is_no_longer_the_file(design: Design) -> None:
    spec = Spec.load(TOY)
    assert design.spec_sha256 == spec.sha256
    smaller = dataclasses.replace(spec, budget=Budget(macs=10e6))
    assert smaller.sha256 == hashlib.sha256(smaller.to_toml().encode()).hexdigest() != spec.sha256
    assert dataclasses.replace(smaller, source="elsewhere").sha256 == smaller.sha256
    assert dataclasses.replace(spec, source="elsewhere").sha256 == spec.sha256
    found = solve(smaller)
    assert verify(smaller, found).verdict == "proven"


def changes() -> Iterator[dict[str, Any]]:
    spec = Spec.load(TOY)
    first, *others = spec.stages

    def stages(**values: Any) -> tuple[Stage, ...]:
        return (dataclasses.replace(first, **values), *others)

    yield {"stages": stages(kernel=(2, 4))}
    yield {"stages": stages(block="foo")}
    yield {"stages": stages(depth=(10**9,))}
    yield {"stages": ()}
    yield {"stages": spec.stages * 30}
    yield {"budget": Budget(macs=float("nan"))}
    yield {"objective": dataclasses.replace(spec.objective, depth_penalty=1e300)}
    yield {"name": " "}


@pytest.mark.parametrize("values", list(changes()), ids=lambda values: next(iter(values)))
def test_code_is_held_to_what_files_are(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(Spec.load(TOY), **values)


def test_a_backend_is_not_asked_for_more_threads_than_there_may_be() -> None:
    with pytest.raises(InputError, match="threads = 100000"):
        solve(Spec.load(TOY), threads=100_000)


def test_memory_that_ends_leaves_the_incumbent_and_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("mad_ip.solve.compile_model", end)
    best = Design.load(TOY.with_name("design.json")).metrics.score
    with pytest.warns(MadIpWarning, match="out of memory"):
        found = solve(Spec.load(TOY))
    assert found.certificate is not None
    assert found.metrics.score <= best * (1 + 1e-9) <= found.certificate.bound * (1 + 2e-9)


def test_a_network_that_no_memory_holds_is_not_built(tmp_path: Path, run: Run, design: Design) -> None:
    stages = tuple(dataclasses.replace(stage, channels=1 << 20, mid=1 << 20) for stage in design.stages)
    huge = dataclasses.replace(design, stages=stages, certificate=None, verification=None)
    dataclasses.replace(huge, metrics=huge.measure(10.0)).save(tmp_path / "design.json")
    refused(run("build", tmp_path / "design.json"), "parameters: must be at most")


def test_a_terminal_that_is_closed_takes_no_design_with_it(tmp_path: Path) -> None:
    out = tmp_path / "design.json"
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "mad_ip", "solve", str(TOY), "--out", str(out)]
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        assert process.wait(120) in (0, 2, 3)
    assert Design.load(out).metrics.score > 0


@pytest.mark.usefixtures("answered")
def test_a_design_is_written_before_it_is_explained(
    tmp_path: Path, run: Run, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("mad_ip.explanation.explain", end)
    out = tmp_path / "design.json"
    refused(run("solve", TOY, "--quiet", "--explain", "--out", out), "out of memory", code=3)
    assert Design.load(out) == design


def test_standard_output_has_nothing_but_what_is_written_there(run: Run) -> None:
    code, out, _ = run("schema", "--out", "-")
    assert code == 0
    assert json.loads(out)["title"] == "spec.toml of a CNN"
    code, out, _ = run("show", TOY.with_name("design.json"), "--html", "-")
    assert code == 0
    assert out.rstrip().endswith("</html>")
    refused(run("solve", TOY, "--log", "-"), "--log = -")


def test_a_spec_may_come_through_a_pipe() -> None:
    line = f"cat '{TOY}' | '{sys.executable}' -m mad_ip show /dev/stdin --json"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == "toy"


def test_integers_that_python_does_not_write_are_told(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(TEXT.replace("classes = 10", f"classes = 0x{'f' * 10_000}"))
    refused(run("show", path), "input.classes", "too long")


@pytest.mark.parametrize("name", ["many.json", "many.toml"])
def test_values_are_counted_before_they_are_parsed(tmp_path: Path, run: Run, name: str) -> None:
    path = tmp_path / name
    path.write_text(f'{{"a": [{"[]," * 300_000}[]]}}' if name == "many.json" else f"a = [{'[],' * 300_000}[]]\n" + TEXT)
    refused(run("show", path), name, "at most 100,000")


@pytest.mark.parametrize("factors", ["entropy = 1e-6\ndepth_penalty = 1e-6", "depth_penalty = 1e-12"])
def test_small_factors_are_solved(tmp_path: Path, factors: str) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(TEXT.replace("[stem]", f"[objective]\n{factors}\n[stem]", 1))
    problem = Spec.load(spec)
    found = solve(problem)
    best = solve(problem, profile=Profile("enumerate"))
    assert found.certificate is not None
    assert found.certificate.status == "optimal"
    assert found.metrics.score == pytest.approx(best.metrics.score, rel=1e-6)


def test_a_limit_below_all_normal_numbers_is_infeasible(tmp_path: Path, run: Run) -> None:
    small = "effectiveness = 5e-324"
    spec = tmp_path / "spec.toml"
    spec.write_text(re.sub(r"effectiveness = .*", small, TEXT))
    assert small in spec.read_text()
    refused(run("solve", spec, "--quiet"), "budget.effectiveness cannot be met", code=4)
    refused(run("sample", spec, "--quiet", "--number", 4, "--out", tmp_path / "runs"), "no design spends")


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_that_torch_warns_of_is_refused(
    tmp_path: Path, run: Run, recwarn: pytest.WarningsRecorder
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"\x80\x6d}q\x00.")
    words = ("export", TOY.with_name("design.json"), "--format", "safetensors", "--checkpoint", weights)
    refused(run(*words, "--out", tmp_path / "out.safetensors"), "weights.pt: torch.load cannot read it")
    assert not recwarn.list
