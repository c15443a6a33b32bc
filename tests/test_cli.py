"""The command line in processes of its own: exit codes, output, interruption, and what is left behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mad_ip import __version__
from mad_ip.cli import app, main
from mad_ip.design import Design, violations
from mad_ip.errors import MadIpError
from mad_ip.spec import Spec

MODELS = Path(__file__).parent.parent / "models"
R18 = MODELS / "coarse" / "deepmad-r18.toml"
FINE = MODELS / "deepmad-r18" / "spec.toml"
"""Is too fine to list."""
LONG = MODELS / "mobile" / "spec.toml"
"""Takes minutes with the MACs of :func:`long`: the parameters bind, and thousands of architectures nearly tie."""
TOY = MODELS / "toy" / "spec.toml"
PROMPT = 10
"""Seconds within which a busy machine too has stopped what would take it minutes."""
MAD_IP = [sys.executable, "-c", "from mad_ip.cli import main; main()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAD_IP, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def long(folder: Path) -> Path:
    """A spec in a folder, with another for outputs."""
    (folder / "out").mkdir(exist_ok=True)
    path = folder / "long.toml"
    text = LONG.read_text()
    assert "macs = 0.30e9" in text
    path.write_text(text.replace("macs = 0.30e9", "macs = 0.60e9"))
    return path


def feasible(path: Path) -> Design:
    """The design of an unfinished solve of :func:`long`: valid, feasible, with a bound, and alone in its folder."""
    design = Design.load(path)
    assert violations(Spec.load(long(path.parents[1])), design) == []
    assert design.certificate is not None
    assert design.certificate.status == "feasible"
    # The zoo's design is within these limits, too.
    known = Design.load(LONG.with_name("design.json")).metrics.score
    assert 0 < max(design.metrics.score, known) <= design.certificate.bound < math.inf
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return design


def test_json_is_the_design_and_nothing_else() -> None:
    done = run("solve", TOY, "--json", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    content = json.loads(done.stdout)
    assert content["certificate"]["status"] == "optimal"
    assert Design.from_content(content).to_json() == done.stdout


def test_a_space_too_fine_to_list_is_shown_and_refused_without_reduction() -> None:
    shown = run("show", FINE)
    assert shown.returncode == 0
    assert "347,033,616 options, too many to list" in shown.stdout
    refused = run("solve", FINE, "--solver", "highs-monolithic", "--quiet")
    assert refused.returncode == 2
    assert "347,033,616 options are too many to list" in refused.stderr


def test_time_limit_leaves_a_feasible_design(tmp_path: Path) -> None:
    done = run("solve", long(tmp_path), "--time-limit", 2, "--out", tmp_path / "out" / "design.json", "--quiet")
    assert done.returncode == 3, done.stderr
    certificate = feasible(tmp_path / "out" / "design.json").certificate
    assert certificate is not None
    assert certificate.seconds < 2 + PROMPT
    assert "not proven" in run("show", tmp_path / "out" / "design.json").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_leaves_a_feasible_design(tmp_path: Path, number: signal.Signals) -> None:
    arguments = [*MAD_IP, "solve", str(long(tmp_path)), "--out", str(tmp_path / "out" / "design.json")]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs the tests may ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "branch and bound" in line and "incumbent -" not in line:
                break
        process.send_signal(number)
        began = time.perf_counter()
        process.communicate(timeout=60)
    assert time.perf_counter() - began < PROMPT
    assert process.returncode == 3
    feasible(tmp_path / "out" / "design.json")


def test_infeasible_names_the_budget_and_what_is_reachable(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(R18.read_text().replace("macs = 1.82e9", "macs = 1e7"))
    done = run("solve", spec, "--quiet", "--out", tmp_path / "design.json")
    assert done.returncode == 4
    assert "budget.macs cannot be met" in done.stderr
    assert "params" in done.stderr
    assert not (tmp_path / "design.json").exists()


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(TOY.read_text().replace("resolution =", "resolutions ="))
    for arguments in (["solve", spec], ["solve", tmp_path], ["show", tmp_path / "none.json"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"mad-ip: {arguments[1]}")
        assert done.stderr.count("\n") == 1


def test_torch_is_not_imported_by_solve_show_and_help() -> None:
    for arguments in (["solve", str(TOY), "--quiet"], ["show", str(TOY)], ["--help"]):
        code = (
            "import sys; sys.argv[1:] = " + repr(arguments) + "\n"
            "from mad_ip.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_a_solve_leaves_the_statistics_of_scipy_alone() -> None:
    """Pyomo loads them wherever it meets SciPy, which numba loads."""
    code = (
        "import sys\nimport numba, scipy.sparse\nfrom mad_ip.solve import solve\nfrom mad_ip.spec import Spec\n"
        f"assert solve(Spec.load({str(TOY)!r})).certificate.status == 'optimal'\n"
        "assert 'pyomo.environ' in sys.modules and 'scipy.stats' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_telling_the_kind_of_a_file_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mad_ip import kinds\n"
        f"assert kinds.spec_kind({str(TOY)!r}) is kinds.CNN\n"
        f"assert kinds.design_kind({str(TOY.with_name('design.json'))!r}) is kinds.CNN\n"
        "assert not {'torch', 'pyomo', 'scipy', 'rich'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_kind_or_format_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, design = tmp_path / "spec.toml", tmp_path / "design.json"
    spec.write_text('kind = "rnn"\n' + TOY.read_text())
    assert refused(monkeypatch, capsys, "solve", spec) == f"mad-ip: {spec}: kind = 'rnn': must be 'mlp'\n"
    design.write_text('{"format": "mad-ip/design/9"}')
    allowed = "one of mad-ip/design/1, mad-ip/mlp-design/1"
    for command in ("show", "build", "verify"):
        line = refused(monkeypatch, capsys, command, design)
        assert line == f"mad-ip: {design}: format = 'mad-ip/design/9': must be {allowed}\n"


def test_build_checks_and_saves(tmp_path: Path) -> None:
    done = run("build", MODELS / "toy" / "design.json", "--out", tmp_path / "net.pt")
    assert done.returncode == 0, done.stderr
    assert "measured as modelled" in done.stdout
    assert (tmp_path / "net.pt").stat().st_size > 100_000


@pytest.mark.parametrize("command", ["", *get_command(app).commands])
def test_every_command_has_its_help_by_either_name(command: str) -> None:
    short, long = (CliRunner().invoke(app, [*command.split(), option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "Usage:" in short.output


def test_version_is_that_of_the_package_however_it_is_called() -> None:
    for call in ([sys.executable, "-m", "mad_ip"], MAD_IP):
        done = subprocess.run([*call, "--version"], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, f"mad-ip {__version__}\n")


def test_the_shell_completes_commands_and_options() -> None:
    for words, found in (("mad-ip ver", "verify"), ("mad-ip verify --js", "--json")):
        own = {"_MAD_IP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            MAD_IP, env={**os.environ, **own}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout.split() == [found], done.stderr


def test_a_spec_is_shown_as_json(tmp_path: Path) -> None:
    done = run("show", TOY, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    parts = {part["part"]: part for part in content["parts"]}
    assert list(parts) == ["stem", "stage 1", "stage 2", "stage 3"]
    table = tomllib.loads(TOY.read_text())
    for number, stage in enumerate(table["stage"], start=1):
        part = parts[f"stage {number}"]
        assert [part[key] for key in ("block", "channels", "mid", "kernel")] == [
            stage[key] for key in ("block", "channels", "mid", "kernel")
        ]
        assert part["depth"] == list(range(stage["depth"]["min"], stage["depth"]["max"] + 1))
    assert content["budget"] == table["budget"]
    widths = itertools.product(*(stage["channels"] for stage in table["stage"]))
    # Two inner widths, two kernels and four depths, three times.
    assert content["architectures"] == sum(a <= b <= c for a, b, c in widths) * (2 * 2 * 4) ** 3
    certificate = Design.load(TOY.with_name("design.json")).certificate
    assert certificate is not None
    assert content["undominated"] == sum(part["undominated"] for part in content["parts"]) == certificate.options
    fine = json.loads(run("show", FINE, "--json").stdout)
    assert (fine["options"], fine["undominated"]) == (347_033_616, None)
    mlp = json.loads(run("show", MODELS.parent / "examples" / "mlp.toml", "--json").stdout)
    assert mlp["widths"] == list(range(16, 1025, 16))
    assert mlp["architectures"] == sum(64 ** (depth - 1) for depth in range(2, 21))


def test_a_verdict_is_printed_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(*arguments: object) -> tuple[object, dict]:
        monkeypatch.setattr(sys, "argv", ["mad-ip", "verify", *map(str, arguments), "--json", "--quiet"])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert output.err == ""
        return end.value.code, json.loads(output.out)

    toy = TOY.with_name("design.json")
    score = Design.load(toy).metrics.score
    code, content = verdict(toy, "--method", "exhaustion")
    assert (code, content["verdict"], content["methods"]) == (0, "proven", ["audit", "exhaustion"])
    assert (content["name"], content["score"], content["architectures"], content["reasons"]) == (
        "toy",
        score,
        86_016,
        [],
    )
    assert content["bound"] == pytest.approx(score)
    assert 0 <= content["gap"] < 1e-9 < content["seconds"]
    code, content = verdict(FINE.with_name("design.json"), "--time-limit", 0)
    assert (code, content["verdict"], len(content["reasons"])) == (3, "stopped", 1)
    code, content = verdict(toy, "--spec", FINE, "--method", "audit")
    assert (code, content["verdict"]) == (1, "failed")
    assert any("spec_sha256" in reason for reason in content["reasons"])


def test_a_comparison_is_printed_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mad_ip.reports import comparison

    def compare(specs: object, solvers: object, settings: object, folder: Path, **options: object) -> None:
        (folder / "report.json").write_text('{"runs": []}\n')

    monkeypatch.setattr(comparison, "compare", compare)
    done = CliRunner().invoke(app, ["compare", str(TOY), "--out", str(tmp_path), "--json"])
    assert (done.exit_code, done.stdout) == (0, '{"runs": []}\n')


# Which spec a design is of --------------------------------------------------------------------------------------------


def test_show_and_verify_find_the_spec_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the design, whatever lies there too, else in the zoo, from any folder."""
    monkeypatch.chdir(tmp_path)
    content = json.loads(TOY.with_name("design.json").read_text())
    own = TOY.read_text() + "\n# A remark makes it another file.\n"
    zoo, other = tmp_path / "zoo.json", tmp_path / "other.json"
    zoo.write_text(json.dumps(content))
    other.write_text(json.dumps({**content, "spec_sha256": hashlib.sha256(own.encode()).hexdigest()}))

    def audited(path: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["mad-ip", "verify", str(path), "--method", "audit"])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code

    def budgets(path: Path, *more: object) -> list[str]:
        done = CliRunner().invoke(app, ["show", str(path), *map(str, more)])
        assert done.exit_code == 0
        (row,) = (line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["macs"])
        return row[2:]

    known = ["20,000,000", "6.684%"]
    assert (audited(zoo), budgets(zoo)) == (0, known)
    assert (audited(other), budgets(other)) == (2, [])
    assert "other.json: its spec is neither beside it nor in the zoo; --spec must" in capsys.readouterr().err
    assert "its spec is neither beside it nor in the zoo" in CliRunner().invoke(app, ["show", str(other)]).stdout
    for name in ("other.toml", "spec.toml"):
        (tmp_path / name).write_text(own)
        assert (audited(other), budgets(other)) == (0, known)
        # What has another hash is left aside.
        assert (audited(zoo), budgets(zoo)) == (0, known)
        (tmp_path / name).unlink()
    (tmp_path / "spec.toml").write_text(R18.read_text())
    assert (audited(other), budgets(other)) == (1, [])
    assert budgets(other, "--spec", TOY) == known
    capsys.readouterr()
    line = refused(monkeypatch, capsys, "show", other, "--spec", MODELS.parent / "examples" / "mlp.toml")
    assert "mlp.toml: is an MLP; must be the spec of a CNN as" in line
    line = refused(monkeypatch, capsys, "show", other, "--spec", MODELS / "mcu-f412" / "spec.toml")
    assert "spec.toml: budget.activation: is one of a device" in line
    line = refused(monkeypatch, capsys, "show", other, "--spec", TOY, "--device", "stm32f412")
    assert line.startswith(f"mad-ip: --spec = {TOY}: ")
    assert refused(monkeypatch, capsys, "show", TOY, "--spec", TOY).startswith(f"mad-ip: {TOY}: is a spec; ")


BAD_SPECS = {
    "unknown key": ("macs = 1.82e9", "mac = 1.82e9", "budget.mac"),
    "missing stage": ("[[stage]]", "[[tail]]", "stage is missing"),
    "empty domain": ("kernel = [3, 5]", "kernel = []", "stage[1].kernel"),
    "even kernel": ("kernel = [3, 5]", "kernel = [4]", "stage[1].kernel"),
    "kernel larger than the feature map": ("kernel = [3, 5]", "kernel = [9]", "stage[5].kernel"),
    "resolution": ("resolution = 224", "resolution = 225", "input.resolution"),
    "negative budget": ("macs = 1.82e9", "macs = -1.82e9", "budget.macs"),
    "not a number": ("macs = 1.82e9", "macs = nan", "budget.macs"),
    "mid_ratio that empties a stage": ("[stem]", "[space]\nmid_ratio = [30, 40]\n[stem]", "space.mid_ratio"),
    "monotone that empties the path": ("channels = [16", "channels = [4096] #", "space.monotone"),
    "not TOML": ("[stem]", "[stem", "not a TOML file"),
}


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that ``mad-ip`` leaves on standard error with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["mad-ip", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_bad_spec_names_file_and_key(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, key = BAD_SPECS[case]
    good = R18.read_text()
    assert old in good
    spec, out = tmp_path / "spec.toml", tmp_path / "design.json"
    spec.write_text(good.replace(old, new))
    line = refused(monkeypatch, capsys, "solve", spec, "--out", out)
    assert line.startswith(f"mad-ip: {spec}: ")
    assert key in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("format", "mad-ip/design/2"), ("metrics", {"macs": 1}), ("stages", []), ("more", 1)]
)
def test_a_bad_design_names_file_and_key(
    key: str,
    value: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads((MODELS / "toy" / "design.json").read_text())
    content[key] = {**content[key], **value} if isinstance(value, dict) else value
    design = tmp_path / "design.json"
    design.write_text(json.dumps(content))
    for command in ("show", "build"):
        line = refused(monkeypatch, capsys, command, design)
        assert line.startswith(f"mad-ip: {design}: ")
        assert key in line


def test_the_zoo_is_at_hand_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec with a device.toml beside it, too; a file of the same name in the folder goes first."""
    monkeypatch.chdir(tmp_path)
    for name in ("mobile", "r18-latency"):
        assert CliRunner().invoke(app, ["show", f"models/{name}/spec.toml"]).exit_code == 0
    own = tmp_path / "models/mobile/spec.toml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    with pytest.raises(MadIpError, match=r"models/mobile/spec\.toml"):
        CliRunner().invoke(app, ["show", "models/mobile/spec.toml"], catch_exceptions=False)
    with pytest.raises(MadIpError, match=r"models/none/spec\.toml: cannot be read"):
        CliRunner().invoke(app, ["show", "models/none/spec.toml"], catch_exceptions=False)
