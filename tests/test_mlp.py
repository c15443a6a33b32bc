"""MLPs: the optimum against enumeration, the network against torch's counters, and the command line."""

from __future__ import annotations

import io
import itertools
import json
import math
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mad_ip
from mad_ip.cli import main
from mad_ip.errors import InputError, InternalError
from mad_ip.mlp import MlpDesign, MlpSpec
from mad_ip.mlp.optimum import _undominated, solve
from mad_ip.networks import mlp as networks
from mad_ip.solve import InfeasibleError, NoDesignError

EXAMPLE = Path(__file__).parent.parent / "examples" / "mlp.toml"
SMALL = """
kind = "mlp"
name = "small"
[input]
features = 12
classes = 3
[budget]
params = 900
effectiveness = 0.4
[space]
widths = [4, 7, 12, 16]
depth = {min = 1, max = 4}
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process, which has imported torch already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["mad-ip", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return path


def random_table(seed: int) -> dict[str, Any]:
    """A spec whose budgets are drawn around the costs of one network of its space, so that many are binding."""
    draw = random.Random(seed)
    features, classes = draw.randint(1, 40), draw.randint(1, 12)
    widths = draw.sample(range(1, 80), draw.randint(1, 7))
    depths = draw.sample(range(1, 6), draw.randint(1, 3))
    middle = quantities(features, [draw.choice(widths) for _ in range(draw.choice(depths) - 1)], classes)
    budget = {
        key: (1 if key == "layers" else draw.uniform(0.6, 1.5)) * float(middle[key])
        for key in ("macs", "params", "effectiveness", "layers")
        if draw.random() < (0.2 if key == "layers" else 0.6)
    }
    if {"macs", "params"} <= budget.keys() and draw.random() < 0.7:
        # Only a narrow band has both budgets binding.
        budget["macs"] = max(1.0, budget["params"] - draw.uniform(0, 2) * float(middle["params"] - middle["macs"]))
    return {
        "kind": "mlp",
        "name": f"random {seed}",
        "input": {"features": features, "classes": classes},
        "budget": budget,
        "space": {"widths": widths, "depth": depths},
    }


def quantities(features: int, hidden: list[int], classes: int) -> dict[str, Any]:
    """Costs of a network written out by hand, and the exact product of its input widths."""
    widths = [features, *hidden, classes]
    macs = sum(a * b for a, b in itertools.pairwise(widths))
    product = math.prod(widths[:-1])
    layers = len(widths) - 1
    return {
        "macs": macs,
        "params": macs + sum(widths[1:]),
        "layers": layers,
        "effectiveness": layers / product ** (1 / layers),
        "product": product,
    }


def enumerated(table: dict[str, Any]) -> int | None:
    """The largest product of widths of any network within the budgets, exact."""
    ends, space, budget = table["input"], table["space"], table["budget"]
    best = None
    for depth in space["depth"]:
        for hidden in itertools.product(space["widths"], repeat=depth - 1):
            found = quantities(ends["features"], list(hidden), ends["classes"])
            within = all(found[key] <= limit for key, limit in budget.items() if key != "effectiveness")
            if "effectiveness" in budget:
                # L / product^(1/L) <= rho, without roots.
                within = (
                    within and Fraction(depth) ** depth <= Fraction(budget["effectiveness"]) ** depth * found["product"]
                )
            if within and (best is None or found["product"] > best):
                best = found["product"]
    return best


@pytest.mark.parametrize("seed", range(60))
def test_the_optimum_is_that_of_an_enumeration(seed: int) -> None:
    table = random_table(seed)
    best = enumerated(table)
    spec = MlpSpec.from_table(table)
    if best is None:
        with pytest.raises(InfeasibleError):
            solve(spec)
        return
    design = solve(spec)
    found = quantities(design.features, list(design.widths), design.classes)
    assert found["product"] == best
    assert all(found[key] <= limit for key, limit in table["budget"].items() if key != "effectiveness")
    assert (design.metrics.macs, design.metrics.params) == (found["macs"], found["params"])
    assert design.metrics.entropy == pytest.approx(design.classes * math.log(best), rel=1e-12)
    assert design.metrics.effectiveness == pytest.approx(found["effectiveness"], rel=1e-12)
    assert design.certificate is not None
    assert (design.certificate.status, design.certificate.gap) == ("optimal", 0.0)
    assert design.certificate.architectures == sum(
        len(table["space"]["widths"]) ** (depth - 1) for depth in table["space"]["depth"]
    )


def test_the_random_specs_are_of_both_kinds() -> None:
    feasible = [enumerated(random_table(seed)) is not None for seed in range(60)]
    assert feasible.count(True) >= 30
    assert feasible.count(False) >= 5


@pytest.mark.parametrize("gap", [0.0, 1e-2])
@pytest.mark.parametrize("seed", range(4))
def test_a_fine_grid_is_solved_as_well_as_enumeration_can(seed: int, gap: float) -> None:
    # Three hidden layers of 60 widths: the last one follows from the budget, so 3600 pairs are enough.
    draw = random.Random(seed)
    widths, features, classes = list(range(8, 488, 8)), draw.randint(20, 900), draw.randint(2, 50)
    budget = draw.randint(20_000, 300_000)
    best = 0
    for a, b in itertools.product(widths, repeat=2):
        rest = budget - (features * a + a * b) - a - b - classes
        most = [c for c in widths if c * (b + 1 + classes) <= rest]
        best = max(best, features * a * b * most[-1] if most else 0)
    table = {
        "kind": "mlp",
        "name": "fine",
        "input": {"features": features, "classes": classes},
        "budget": {"params": budget},
        "space": {"widths": widths, "depth": 4},
    }
    design = solve(MlpSpec.from_table(table), gap=gap)
    assert features * math.prod(design.widths) == best


def test_many_layers_and_widths_are_solved_and_again_to_the_same_network() -> None:
    spec = MlpSpec.load(EXAMPLE)
    spec = replace(spec, space=replace(spec.space, widths=tuple(range(16, 4097, 16))))
    first, second = solve(spec), solve(spec)
    assert first.certificate is not None
    assert second.certificate is not None
    assert first.certificate.status == "optimal"
    assert replace(first, certificate=replace(first.certificate, seconds=second.certificate.seconds)) == second
    assert first.metrics.params <= 1_000_000
    assert first.metrics.effectiveness <= 0.02
    # No single width can be raised, and no two neighbours traded, within the budget.
    for at, step in itertools.product(range(len(first.widths)), (16, -16)):
        for other in (None, *range(len(first.widths))):
            widths = list(first.widths)
            widths[at] += step
            if other is not None and other != at:
                widths[other] -= step
            if min(widths) < 16 or max(widths) > 4096:
                continue
            found = quantities(784, widths, 10)
            better = found["product"] > math.prod((784, *first.widths))
            assert not (better and found["params"] <= 1_000_000 and found["effectiveness"] <= 0.02)


@pytest.mark.parametrize("budgets", [0, 1, 2])
def test_only_dominated_labels_are_dropped(budgets: int) -> None:
    draw = np.random.default_rng(budgets)
    for _ in range(50):
        nodes = draw.integers(0, 3, 40)
        costs = draw.integers(0, 12, (budgets, 40))
        sums = draw.integers(0, 12, 40).astype(float)
        labels = list(zip(nodes.tolist(), *costs.tolist(), (-sums).tolist(), strict=True))
        expected = {
            label
            for label in labels
            if not any(
                other != label and other[0] == label[0] and all(a <= b for a, b in zip(other, label, strict=True))
                for other in labels
            )
        }
        kept = [labels[index] for index in _undominated(nodes, costs, sums)]
        assert sorted(kept) == sorted(expected)
        assert [label[0] for label in kept] == sorted(label[0] for label in kept)


def test_a_network_measures_what_it_is_modelled_with() -> None:
    for seed in (0, 3, 5, 11):
        table = random_table(seed) | {"budget": {}}
        design = solve(MlpSpec.from_table(table))
        network = networks.build(design)
        counter = FlopCounterMode(display=False)
        with counter:
            outputs = network(torch.zeros(5, design.features))
        assert outputs.shape == (5, design.classes)
        assert counter.get_total_flops() == 2 * 5 * design.metrics.macs
        assert sum(parameter.numel() for parameter in network.parameters()) == design.metrics.params
        assert sum(isinstance(module, nn.Linear) for module in network) == design.metrics.layers
        assert sum(isinstance(module, nn.ReLU) for module in network) == design.metrics.layers - 1
        networks.verify_cost(network, design)
        wrong = replace(design, metrics=replace(design.metrics, params=design.metrics.params + 1))
        with pytest.raises(InternalError, match="parameters"):
            networks.verify_cost(network, wrong)


def test_signals_keep_their_size_and_a_step_trains() -> None:
    torch.manual_seed(0)
    network = networks.build(solve(MlpSpec.load(EXAMPLE)))
    x, labels = torch.randn(64, 784), torch.randint(10, (64,))
    assert 0.3 < float(network(x).detach().std()) < 3
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_time_limit_leaves_a_bound_or_no_design() -> None:
    spec = MlpSpec.load(EXAMPLE)
    best = solve(spec).metrics.entropy
    with pytest.raises(NoDesignError):
        solve(spec, interrupted=lambda: True)
    # Stop after as many questions as give a design with a bound, but no proof.
    for questions in (3, 60, 200, 300):
        left = iter(range(questions))
        design = solve(spec, interrupted=lambda left=left: next(left, None) is None)  # type: ignore[misc]
        assert design.certificate is not None
        assert design.metrics.entropy <= best <= design.certificate.bound
        assert MlpDesign.from_content(json.loads(design.to_json())) == design
        assert (design.certificate.status == "optimal") == (design.certificate.gap <= 1e-6)


REACHABLE = "the smallest reachable value of each alone is "
INFEASIBLE = {
    "params": ({"params = 900": "params = 38"}, f"budget.params cannot be met; {REACHABLE}params 39 (budget 38)"),
    "effectiveness": ({"effectiveness = 0.4": "effectiveness = 0.08"}, "budget.effectiveness cannot be met;"),
    "two of three": (
        {
            # 12 -> 4 -> 3 has 67 parameters; 12 -> 12 -> 3 is the first with an effectiveness below 0.2, and has 195.
            "params = 900": "params = 194\nmacs = 190",
            "effectiveness = 0.4": "effectiveness = 0.2",
            "min = 1": "min = 2",
        },
        f"budget.params and budget.effectiveness cannot be met together; {REACHABLE}macs 60 (budget 190), "
        "params 67 (budget 194), effectiveness 0.144337567297 (budget 0.2)",
    ),
}


@pytest.mark.parametrize("case", INFEASIBLE)
def test_infeasible_names_the_conflict_and_what_is_reachable(tmp_path: Path, case: str) -> None:
    replacements, expected = INFEASIBLE[case]
    text = SMALL
    for old, new in replacements.items():
        text = text.replace(old, new)
    spec = written(tmp_path, text)
    done = run("solve", spec, "--quiet", "--out", tmp_path / "design.json")
    assert done.returncode == 4, done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "design.json").exists()


BAD_SPECS = {
    "unknown section": ("[space]", "[stem]\nkernel = 3\n[space]", "stem"),
    "unknown key": ("params = 900", "param = 900", "budget.param"),
    "features": ("features = 12", "features = 0", "input.features"),
    "no classes": ("classes = 3", "", "input.classes is missing"),
    "width": ("widths = [4, 7, 12, 16]", "widths = [0, 4]", "space.widths"),
    "empty domain": ("widths = [4, 7, 12, 16]", "widths = []", "space.widths"),
    "wide": (
        "widths = [4, 7, 12, 16]",
        "widths = [4, 100000000]",
        "space.widths = [4, 100000000]: must be integers",
    ),
    "many widths": ("widths = [4, 7, 12, 16]", "widths = {min = 1, max = 2000}", "must be at most 1,024"),
    "deep": (
        "max = 4",
        "max = 4000",
        "space.depth = {'min': 1, 'max': 4000}: must be integers",
    ),
    "budget": ("params = 900", "params = -1", "budget.params"),
    "no space": ("[space]\nwidths = [4, 7, 12, 16]\ndepth = {min = 1, max = 4}", "", "space is missing"),
    "kind": ('"mlp"', '"rnn"', "kind"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_bad_spec_names_file_and_key(tmp_path: Path, case: str) -> None:
    old, new, expected = BAD_SPECS[case]
    assert old in SMALL
    path = written(tmp_path, SMALL.replace(old, new))
    done = run("solve", path) if case == "kind" else None
    if done is not None:
        assert done.returncode == 2
        assert done.stderr.startswith(f"mad-ip: {path}: {expected}")
        return
    with pytest.raises(InputError) as raised:
        MlpSpec.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert expected in str(raised.value)


BAD_DESIGNS: dict[str, tuple[str, Any, str]] = {
    "format": ("format", "mad-ip/mlp-design/2", "format"),
    "width": ("widths", [16, 0], "widths[2] = 0"),
    "widths": ("widths", 16, "widths"),
    "changed": ("widths", [16, 16], "metrics."),
    "classes": ("classes", "three", "classes"),
    "metrics": ("metrics", {}, "metrics."),
    "unknown key": ("depth", 3, "depth = 3: unknown key; allowed are format, name, "),
}


@pytest.mark.parametrize("case", BAD_DESIGNS)
def test_a_bad_design_names_file_and_key(tmp_path: Path, case: str) -> None:
    key, value, expected = BAD_DESIGNS[case]
    path = tmp_path / "design.json"
    design = solve(MlpSpec.load(written(tmp_path, SMALL)))
    assert design.widths != (16, 16)
    path.write_text(json.dumps(json.loads(design.to_json()) | {key: value}))
    with pytest.raises(InputError) as raised:
        MlpDesign.load(path)
    assert str(raised.value).startswith(f"{path}: {expected}")


def test_solve_show_build_and_load(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    done = run("solve", EXAMPLE, "--out", path)
    assert done.returncode == 0, done.stderr
    assert "proven optimal" in done.stdout
    design = MlpDesign.load(path)
    assert design.to_json() == path.read_text()
    for value in (design.metrics.macs, design.metrics.params, *design.widths):
        assert f"{value:,}" in done.stdout
    shown = run("show", path)
    assert shown.returncode == 0, shown.stderr
    assert f"{design.metrics.params:,}" in shown.stdout
    space = run("show", EXAMPLE)
    assert space.returncode == 0, space.stderr
    assert "architectures" in space.stdout
    built = run("build", path, "--seed", 4)
    assert built.returncode == 0, built.stderr
    assert f"{design.metrics.params:,} parameters, measured as modelled" in built.stdout
    weights = safetensors.torch.load_file(tmp_path / "design.safetensors")
    network = mad_ip.load(path)
    network.load_state_dict(weights)
    torch.manual_seed(4)
    x = torch.randn(2, 784, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), networks.build(design)(x), rtol=0, atol=0)


def test_json_is_the_design_and_a_solver_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    done = run("solve", path, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    design = MlpDesign.from_content(json.loads(done.stdout))
    assert design.to_json() == done.stdout
    assert asdict(design.metrics) == asdict(design.measure())
    refused = run("solve", path, "--solver", "scip")
    assert refused.returncode == 2
    assert "--solver = scip" in refused.stderr
    (tmp_path / "design.json").write_text(done.stdout)
    unverified = run("verify", tmp_path / "design.json", "--spec", path)
    assert unverified.returncode == 2
    assert "is the design of an MLP" in unverified.stderr
    for command in (["export", tmp_path / "design.json", "--format", "onnx"], ["score", tmp_path / "design.json"]):
        refused = run(*command)
        assert refused.returncode == 2
        assert "is the design of an MLP" in refused.stderr
    assert run("solve", EXAMPLE, "--time-limit", 0, "--quiet").returncode == 3
