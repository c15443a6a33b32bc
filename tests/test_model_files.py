"""The files of export-model: what other solvers read in them is the problem that mad-ip solves."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import oracle
import pyscipopt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import specs

from mad_ip import catalogue as catalogues
from mad_ip import cli
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.model_files import ModelFiles, decoded, format_of, model_files
from mad_ip.solve import InfeasibleError, program
from mad_ip.spec import Spec

MODELS = Path(__file__).parents[1] / "models"
TOY = MODELS / "toy" / "spec.toml"
COARSE = MODELS / "coarse" / "deepmad-29m.toml"
FINE = MODELS / "deepmad-r18" / "spec.toml"
MLP = MODELS.parent / "examples" / "mlp.toml"
FORMATS = ("mps", "lp", "nl")


class Written:
    """A model in a folder, as another solver finds it."""

    def __init__(self, folder: Path, spec: Spec, kind: str, *, reduced: bool = False) -> None:
        self.spec, self.kind = spec, kind
        self.files: ModelFiles = model_files(program(spec, reduced=reduced), kind)
        self.model, self.start, self.names = (folder / f"model.{end}" for end in (kind, "sol", "json"))
        self.model.write_bytes(self.files.model)
        self.start.write_bytes(self.files.start)
        self.names.write_bytes(self.files.names)
        self.columns: list[dict[str, Any]] = json.loads(self.files.names)["columns"]

    def highs(self) -> highspy.Highs:
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("mip_rel_gap", 1e-9)
        assert solver.readModel(str(self.model)) == highspy.HighsStatus.kOk
        return solver

    def scip(self) -> pyscipopt.Model:
        solver = pyscipopt.Model()
        solver.hideOutput()
        solver.readProblem(str(self.model))
        solver.setParam("limits/gap", 1e-9)
        return solver

    def by_highs(self) -> tuple[float, Design]:
        solver = self.highs()
        solver.run()
        assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
        values = dict(zip(solver.getLp().col_names_, solver.getSolution().col_value, strict=True))
        return solver.getInfo().objective_function_value, decoded(self.spec, self.names, values)

    def by_scip(self) -> tuple[float, Design]:
        solver = self.scip()
        solver.optimize()
        assert solver.getStatus() in ("optimal", "gaplimit")
        found = {variable.name: solver.getVal(variable) for variable in solver.getVars()}
        if self.kind == "nl":
            found = {self.columns[at]["name"]: found[name] for name, at in numbered(found).items()}
        return solver.getObjVal(), decoded(self.spec, self.names, found)

    def readers(self) -> list[Callable[[], tuple[float, Design]]]:
        return [self.by_scip] if self.kind == "nl" else [self.by_highs, self.by_scip]


def numbered(names: Iterable[str]) -> dict[str, int]:
    """SCIP names the variables of an nl file by kind and number, b37 or x3, and adds one for a constant."""
    return {name: int(name[1:]) for name in names if name != "objconstant"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    spec = Spec.load(TOY)
    return {kind: Written(tmp_path_factory.mktemp(kind), spec, kind) for kind in FORMATS}


def test_highs_and_scip_find_the_optimum_of_the_toy(toys: dict[str, Written]) -> None:
    known = Design.load(TOY.with_name("design.json"))
    for objective, design in (toys["mps"].by_highs(), toys["mps"].by_scip()):
        assert math.isclose(objective, known.metrics.score, rel_tol=1e-6)
        assert design.path == known.path


@settings(
    max_examples=4, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(spec=specs(limit=60))
def test_all_readers_find_the_optimum_of_small_specs(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> None:
    best = oracle.enumerate_best(spec)
    for kind in FORMATS:
        try:
            written = Written(tmp_path_factory.mktemp(kind), spec, kind)
        except InfeasibleError:
            assert best is None
            return
        assert best is not None
        for read in written.readers():
            objective, design = read()
            assert math.isclose(objective, best.score, rel_tol=1e-6, abs_tol=1e-6)
            assert math.isclose(design.metrics.score, best.score, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_written_again_is_the_same_to_the_byte(kind: str, toys: dict[str, Written]) -> None:
    assert model_files(program(Spec.load(TOY)), kind) == toys[kind].files


@pytest.mark.parametrize("kind", ["mps", "lp"])
def test_the_start_is_read_and_feasible(kind: str, toys: dict[str, Written]) -> None:
    """By SCIP's own check, and by the matrix that HiGHS has read."""
    written = toys[kind]
    score = program(written.spec).start.metrics.score
    scip = written.scip()
    solution = scip.readSolFile(str(written.start))
    assert scip.checkSol(solution)
    assert math.isclose(scip.getSolObjVal(solution), score, rel_tol=1e-9)

    highs = written.highs()
    assert highs.readSolution(str(written.start), 0) == highspy.HighsStatus.kOk
    values = np.array(highs.getSolution().col_value)
    model = highs.getLp()
    assert math.isclose(np.array(model.col_cost_) @ values + model.offset_, score, rel_tol=1e-9)
    assert math.isclose(
        decoded(written.spec, written.names, dict(zip(model.col_names_, values, strict=True))).metrics.score, score
    )


def test_the_start_is_inside_an_nl_file(toys: dict[str, Written]) -> None:
    lines = toys["nl"].files.model.decode().splitlines()
    first = next(number for number, line in enumerate(lines) if re.match(r"x\d+\b", line))
    number = int(re.findall(r"\d+", lines[first])[0])
    pairs = (line.split()[:2] for line in lines[first + 1 : first + 1 + number])
    inside = {toys["nl"].columns[int(at)]["name"]: float(value) for at, value in pairs}
    given = dict(line.split() for line in toys["mps"].files.start.decode().splitlines()[1:])
    assert {name: value for name, value in inside.items() if value} == {name: float(v) for name, v in given.items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_column_has_a_name_that_is_legal_and_its_own(kind: str, toys: dict[str, Written]) -> None:
    names = [column["name"] for column in toys[kind].columns]
    assert len(set(names)) == len(names) == 328
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in names)
    scip = toys[kind].scip()
    read = {variable.name for variable in scip.getVars()}
    expected = {"mps": set(names), "lp": {*names, "ONE_VAR_CONSTANT"}}
    if kind in expected:
        assert read == expected[kind]
    else:
        assert sorted(numbered(read).values()) == list(range(328))


def test_the_columns_cost_what_their_options_cost(toys: dict[str, Written]) -> None:
    """The row of the MACs, in MACs, on one column of every segment, against the network that these make."""
    written = toys["mps"]
    model = written.highs().getLp()
    row = list(model.row_names_).index("budget_macs")
    matrix, costs = model.a_matrix_, {}
    for j, name in enumerate(model.col_names_):
        for entry in range(matrix.start_[j], matrix.start_[j + 1]):
            if matrix.index_[entry] == row:
                costs[name] = matrix.value_[entry] * 20e6 / 1e4
    options = [column for column in written.columns if column["variable"] == "x"]
    assert set(costs) == {column["name"] for column in options}
    checked = 0
    for last in options:
        if last["segment"] == "stage 3":
            before = [last]
            for segment in ("stage 2", "stage 1", "stem"):
                before.append(next(o for o in options if o["segment"] == segment and o["c"] == before[-1]["c_in"]))
            taken = dict.fromkeys((column["name"] for column in before), 1.0)
            design = decoded(written.spec, written.names, taken)
            assert [stage.depth for stage in design.stages] == [column["L"] for column in before[2::-1]]
            assert math.isclose(sum(costs[name] for name in taken), design.metrics.macs, rel_tol=1e-12)
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("path", [TOY, COARSE])
def test_a_reduced_model_says_what_bounds_the_rest(path: Path, tmp_path: Path) -> None:
    """The bound is that of branch and bound, which knows nothing of the model; it closes what HiGHS finds."""
    written = Written(tmp_path, Spec.load(path), "mps", reduced=True)
    objective, design = written.by_highs()
    assert violations(written.spec, design) == []
    assert math.isclose(objective, design.metrics.score, rel_tol=1e-6)
    options = [column for column in written.columns if column["variable"] == "x"]
    assert 0 < len(options) < catalogues.raw_options(written.spec) / 3
    comments = [line for line in written.files.model.decode().splitlines() if line.startswith("* ")]
    (bound,) = (float(n) for line in comments for n in re.findall(r"scores above ([\d.]+):", line))
    assert math.isclose(bound, objective, rel_tol=1e-6)


def test_a_whole_model_needs_no_bound(toys: dict[str, Written]) -> None:
    for kind in ("mps", "lp"):
        assert "scores above" not in toys[kind].files.model.decode()
        assert "an optimum of this model is one of the spec." in toys[kind].files.model.decode()


def test_a_name_cannot_leave_its_comment(tmp_path: Path) -> None:
    text = TOY.read_text().replace('name = "toy"', r'name = "toy *\\\nend\nx"')
    (tmp_path / "spec.toml").write_text(text)
    spec = Spec.load(tmp_path / "spec.toml")
    for kind in FORMATS:
        assert Written(tmp_path, spec, kind).scip().getNVars() in (328, 329)


def test_decoding_refuses_what_is_no_solution_of_the_model(toys: dict[str, Written], tmp_path: Path) -> None:
    written = toys["mps"]
    with pytest.raises(InputError, match="the solution takes no option of stem"):
        decoded(written.spec, written.names, {})
    other = tmp_path / "spec.toml"
    other.write_text(TOY.read_text() + "# another\n")
    with pytest.raises(InputError, match=r"model.json: spec_sha256 = .*: must be that of .*spec.toml"):
        decoded(Spec.load(other), written.names, {})
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(InputError, match="format is missing"):
        decoded(written.spec, tmp_path / "empty.json", {})


def test_the_format_is_that_of_the_name() -> None:
    assert [format_of(None, Path(f"a.{kind}")) for kind in FORMATS] == list(FORMATS)
    assert format_of("lp", Path("a.txt")) == "lp"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([TOY, "--out", "a.txt"], "--out = a.txt: its name says no format; --format must be one of mps, lp, nl"),
        ([TOY, "--out", "a.mps", "--format", "gms"], "--format = gms: must be one of mps, lp, nl"),
        ([TOY, "--out", "a.nl", "--start", "a.sol"], "--start = a.sol: an nl file has its start inside"),
        ([TOY, "--out", "a.mps", "--start", "a.mps"], "--out = a.mps: would take the place of another file"),
        ([TOY, "--out", "none/a.mps"], "--out = none/a.mps: its folder does not exist"),
        ([MLP, "--out", "a.mps"], "is an MLP, which has no convolutions"),
        ([FINE, "--out", "a.mps"], "347,033,616 options are too many to list"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments: list[Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error, redirect_stdout(io.StringIO()):
        cli.app(["export-model", *map(str, arguments), "--quiet"], standalone_mode=False)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: dict[str, Written]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["export-model", str(TOY), "--out", "a.lp", "--start", "a.sol", "--names", "a.json", "--quiet"]
    with redirect_stdout(io.StringIO()):
        cli.app(arguments, standalone_mode=False)
    files = toys["lp"].files
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {"a.lp": files.model, "a.sol": files.start, "a.json": files.names}
    assert violations(toys["lp"].spec, toys["lp"].by_highs()[1]) == []
