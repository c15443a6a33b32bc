"""Exported files, read by their own readers: ONNX Runtime, torch.export, safetensors, and Python without mad-ip."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mad_ip.blocks import FAMILIES
from mad_ip.cli import main
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError, InternalError
from mad_ip.networks import Network, save_weights
from mad_ip.networks.export import FORMATS, default_path, export, programs, standalone
from mad_ip.networks.weights import load_weights

MODELS = Path(__file__).parent.parent / "models"
TWINS = {"mcu-f746", "mcu-h743", "r18-latency"}
"""Alike to others of the zoo in all that an export sees."""
ZOO = sorted(path.parent for path in MODELS.glob("*/spec.toml") if path.parent.name not in TWINS)
DESIGNS = [folder / "design.json" for folder in ZOO] + sorted(MODELS.glob("published/*.json"))


def cheap(path: Path) -> Design:
    """A design as small as tells as much: no layer depends on the resolution, and a stage's later blocks are alike."""
    design = Design.load(path)
    stages = tuple(dataclasses.replace(stage, depth=min(stage.depth, 2)) for stage in design.stages)
    return dataclasses.replace(design, resolution=min(design.resolution, 32), stages=stages)


def small(*families: str, frames: int | None = None, tail: int | None = 20, classes: int = 7) -> Design:
    """Per family a changing and a keeping stage; 45 pixels are odd at the first stride and at later ones."""
    temporal = (1, 1) if frames is None else (3, 2)
    keeping = (temporal[0], 1)
    stages = []
    for number, family in enumerate(families, start=1):
        stages.append(StageChoice(family, 2, 8 * number, 12, 3, 2, 1, *temporal))
        stages.append(StageChoice(family, 1, 8 * number + 4 * (number % 2), 12, 5, 1, 1, *keeping))
    return Design.create(
        beta=10.0,
        name="small",
        spec_sha256="",
        convention="paper",
        resolution=45,
        image_channels=3,
        stem=StemChoice(3, 2, 6, 1, *keeping),
        stages=tuple(stages),
        tail=tail,
        classes=classes,
        frames=frames,
    )


MIXED = small(*FAMILIES)
CLIPS = small(*FAMILIES, frames=9)
TOY = MODELS / "toy" / "design.json"


def stirred(design: Design) -> Network:
    """A network in eval mode in which no branch is hidden by a zero; logits are of order 1."""
    network = Network(design).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if isinstance(network.head, nn.Linear):
        network.head.reset_parameters()
    return network


@torch.no_grad()
def outputs(network: Network, batch: int = 1) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, *network.design.input_shape)
    return images, network(images)


def agree(found: Any, expected: Tensor, network: Network) -> None:
    """Within float32's rounding: a sum of w products, in any order, errs by sqrt(w) epsilons, and layers add up."""
    widths = [layer.weight[0].numel() for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
    error = sum(math.sqrt(width) for width in widths) * torch.finfo(torch.float32).eps
    largest = float(expected.abs().max())
    assert 0.01 < largest < 100
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=error * largest)


def run_onnx(path: Path, images: Tensor) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(["logits"], {"images": images.numpy()})
    return result


def checkpoint(network: Network, path: Path) -> Path:
    save_weights(network, path)
    return path


# ONNX -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ZOO, ids=lambda folder: folder.name)
def test_onnx_of_the_zoo_is_the_network(folder: Path, tmp_path: Path) -> None:
    network = stirred(cheap(folder / "design.json"))
    path = tmp_path / "network.onnx"
    export(network.design, "onnx", path, checkpoint=checkpoint(network, tmp_path / "weights.safetensors"))
    images, expected = outputs(network)
    agree(run_onnx(path, images), expected, network)


@pytest.mark.parametrize(
    "design", [MIXED, CLIPS, small("basic", tail=None, classes=0)], ids=["images", "clips", "bare"]
)
def test_onnx_takes_any_batch_and_says_what_it_is(design: Design, tmp_path: Path) -> None:
    network = stirred(design)
    path = tmp_path / "network.onnx"
    export(design, "onnx", path, checkpoint=checkpoint(network, tmp_path / "weights.pt"))
    for batch in (1, 2, 5):
        images, expected = outputs(network, batch)
        agree(run_onnx(path, images), expected, network)
    model = onnx.load(path)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [entry.name for entry in tmp_path.iterdir() if entry != path] == ["weights.pt"], "no external data"
    assert {entry.key: entry.value for entry in model.metadata_props} == {"design.json": design.to_json()}
    (images_info,), (logits_info,) = model.graph.input, model.graph.output
    assert images_info.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert logits_info.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(Path(__file__).parent.parent).encode() not in path.read_bytes(), "a folder of this machine"


def test_onnx_at_the_resolution_of_the_design(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    export(Design.load(TOY), "onnx", path, seed=3)
    torch.manual_seed(3)
    network = Network(Design.load(TOY)).eval()
    images, expected = outputs(network)
    agree(run_onnx(path, images), expected, network)


# torch.export and safetensors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [MIXED, CLIPS], ids=["images", "clips"])
def test_exported_program_is_the_network(design: Design, tmp_path: Path) -> None:
    network = stirred(design)
    path = tmp_path / "network.pt2"
    export(design, "torch-export", path, checkpoint=checkpoint(network, tmp_path / "weights.pth"))
    extra = {"design.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert Design.from_content(json.loads(extra["design.json"])) == design
    for batch in (1, 2, 5):
        images, expected = outputs(network, batch)
        # The same operations in the same order.
        assert torch.equal(program.module()(images), expected)
    assert str(Path(__file__).parent.parent).encode() not in path.read_bytes(), "a folder of this machine"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_checkpoints_of_every_format_come_back(suffix: str, tmp_path: Path) -> None:
    network = stirred(MIXED)
    source = checkpoint(network, tmp_path / f"weights{suffix}")
    export(MIXED, "safetensors", tmp_path / "again.safetensors", checkpoint=source)
    state = safetensors.torch.load_file(tmp_path / "again.safetensors")
    assert state.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "other"))
    for path, seed in ((first, 1), (again, 1), (other, 2)):
        export(MIXED, "safetensors", path, seed=seed)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


# Python ---------------------------------------------------------------------------------------------------------------

STANDALONE = """
import importlib.util, json, sys
sys.modules["mad_ip"] = None
import torch
for source, factory in json.loads(sys.argv[1]):
    spec = importlib.util.spec_from_file_location("pasted", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = getattr(module, factory)()
    given = torch.load(source + ".given")
    assert list(network.state_dict()) == list(given["weights"]), source
    network.load_state_dict(given["weights"])
    with torch.no_grad():
        torch.save(network.eval()(given["images"]), source + ".found")
"""


def test_source_of_every_design_is_the_network_bit_for_bit(tmp_path: Path) -> None:
    designs = [cheap(path) for path in DESIGNS]
    assert len(designs) >= 15
    designs += [MIXED, CLIPS, small("inverted", tail=None, classes=0), small("inverted_se", "inverted", frames=4)]
    listed, expected = [], []
    for number, design in enumerate(designs):
        network = stirred(design)
        path = tmp_path / f"network_{number}.py"
        path.write_text(standalone.render(design))
        images, logits = outputs(network)
        assert 0.01 < logits.abs().max() < 100, path
        torch.save({"weights": network.state_dict(), "images": images}, f"{path}.given")
        expected.append(logits)
        listed.append((str(path), standalone.factory(design)))
    command = [sys.executable, "-c", STANDALONE, json.dumps(listed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (path, _), logits in zip(listed, expected, strict=True):
        assert torch.equal(torch.load(f"{path}.found"), logits), path


@pytest.mark.parametrize("width", [88, 120])
def test_source_is_formatted_and_clean(width: int, tmp_path: Path) -> None:
    designs = [MIXED, CLIPS, small("inverted", tail=None, classes=0), *map(Design.load, DESIGNS)]
    for number, design in enumerate(designs):
        (tmp_path / f"network_{number}.py").write_text(standalone.render(design))
    for command in (["check", "--select", "A,B,C4,E,F,I,N,PERF,PIE,RET,RUF,SIM,UP,W"], ["format", "--check"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", f"--line-length={width}"]
        done = subprocess.run([*arguments, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ['"""\nimport os\n"""', "\\", "", "class", "3 d", "nn", "ünï"])
def test_source_survives_any_name(name: str) -> None:
    design = dataclasses.replace(MIXED, name=name)
    tree = ast.parse(standalone.render(design))
    assert {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports(tree)} == {
        "math",
        "torch",
    }
    network = getattr(pasted(design), standalone.factory(design))()
    assert network.state_dict().keys() == Network(design).state_dict().keys()


def imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def pasted(design: Design) -> ModuleType:
    module = ModuleType("pasted")
    exec(standalone.render(design), module.__dict__)
    return module


@pytest.mark.parametrize("design", [MIXED, CLIPS], ids=["images", "clips"])
def test_source_starts_from_the_same_initial_weights(design: Design) -> None:
    module, network = pasted(design), Network(design)
    torch.manual_seed(1)
    network.init_weights()
    other = stirred(design)
    twin = module.madip_small()
    twin.load_state_dict(other.state_dict())
    torch.manual_seed(1)
    twin.apply(module.init_weights)
    for (name, tensor), initial in zip(twin.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(tensor, initial), name
    fresh = module.madip_small()
    assert not any(block.main[-1].norm.weight.any() for block in fresh.stages.modules() if residual(block))


def residual(module: nn.Module) -> bool:
    return getattr(module, "shortcut", None) is not None


def test_source_takes_other_classes_and_channels() -> None:
    module = pasted(MIXED)
    network = module.madip_small(num_classes=3, in_chans=1)
    assert network(torch.randn(2, 1, 45, 45)).shape == (2, 3)
    assert module.madip_small(num_classes=0)(torch.randn(2, 3, 45, 45)).shape == (2, 20)


def test_source_takes_clips_smaller_than_a_window() -> None:
    network = stirred(CLIPS)
    twin = pasted(CLIPS).madip_small().eval()
    twin.load_state_dict(network.state_dict())
    for shape in ((1, 3, 1, 1, 1), (2, 3, 1, 45, 3), (1, 3, 5, 2, 9)):
        clips = torch.randn(shape)
        with torch.no_grad():
            assert torch.equal(twin(clips), network(clips)), shape


# Failures -------------------------------------------------------------------------------------------------------------


def broken(name: str) -> dict[str, Tensor]:
    weights = dict(Network(MIXED).state_dict())
    if name == "missing":
        for key in list(weights)[:5]:
            del weights[key]
    elif name == "unexpected":
        weights["fc\n.weight"] = torch.zeros(1)
    else:
        weights["head.weight"] = torch.zeros(10, 20)
    return weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "missing",
            r"missing stem\.0\.conv\.weight, stem\.0\.norm\.weight, stem\.0\.norm\.bias, 2 more$",
        ),
        ("unexpected", r"unexpected 'fc\\n\.weight'$"),
        ("ill-shaped", r"ill-shaped head\.weight of shape \(10, 20\) for \(7, 20\)$"),
    ],
)
def test_a_mismatch_names_the_first_keys(name: str, sentence: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(broken(name), path)
    else:
        safetensors.torch.save_file(broken(name), path)
    network = Network(MIXED)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=sentence):
        load_weights(network, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_state_dict_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"weights\{suffix}: ") as caught:
        load_weights(Network(MIXED), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1], {"model": {"a": 1}}, {1: torch.zeros(1)}, Payload()])
def test_a_pickle_of_something_else_is_refused(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="must be a state dict"):
        load_weights(Network(MIXED), tmp_path / "weights.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_a_graph_that_differs_is_not_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faithful = programs._program

    def unfaithful(network: Network) -> torch.export.ExportedProgram:
        other = stirred(network.design)
        other.load_state_dict(network.state_dict())
        other.stages[-1][-1].main[-1].norm.weight.data.mul_(1.01)
        return faithful(other)

    monkeypatch.setattr(programs, "_program", unfaithful)
    network = stirred(small("basic"))
    weights = checkpoint(network, tmp_path / "weights.pt")
    path = tmp_path / f"network{FORMATS[kind].suffix}"
    path.write_text("before")
    with pytest.raises(InternalError, match="differs from PyTorch by"):
        export(network.design, kind, path, checkpoint=weights)
    assert path.read_text() == "before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "weights.pt"])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("gate.sigmoid()", "gate.tanh()", "computes other outputs"),
        ("self.shortcut = shortcut", "self.shortcuts = self.shortcut = shortcut", "does not run without mad-ip"),
        ("import math", "import math\nimport mad_ip", "does not run without mad-ip .*mad_ip"),
    ],
)
def test_a_source_that_differs_is_not_written(
    old: str, new: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = standalone.render(MIXED)
    assert old in text
    monkeypatch.setattr(standalone, "render", lambda design: text.replace(old, new))
    with pytest.raises(InternalError, match=sentence):
        export(MIXED, "python", tmp_path / "network.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_weights_that_are_no_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    network = stirred(small("basic"))
    network.stem[0].norm.bias.data.fill_(torch.nan)
    weights = checkpoint(network, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="not finite"):
        export(network.design, kind, tmp_path / f"network{FORMATS[kind].suffix}", checkpoint=weights)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxruntime"), ("python", "jinja2")])
def test_a_missing_package_is_named_with_its_extra(
    kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    with pytest.raises(InputError, match=rf"needs {package}, .*mad-ip\[export\]"):
        export(MIXED, kind, tmp_path / f"network{FORMATS[kind].suffix}")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_design_is_never_overwritten_by_its_export(kind: str) -> None:
    design = Path("design").with_suffix(FORMATS[kind].suffix)
    with pytest.raises(InputError, match=rf"{design}: --format {kind} would take the place of the design"):
        default_path(design, kind)


# The command line -----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mad-ip", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_goes_beside_the_design(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small("basic").save(tmp_path / "design.json")
    assert command(monkeypatch, tmp_path / "design.json", "--format", kind) == 0
    suffix = FORMATS[kind].suffix
    assert f"design{suffix}: written" in capsys.readouterr().out.replace("\n", "")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["design.json", f"design{suffix}"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "torchscript"], "--format = torchscript: must be one of onnx, torch-export, tflite, safetensors"),
        (["--format", "onnx", "--out", "{}/network.pt"], "the suffix of --format onnx must be .onnx"),
        (["--format", "python", "--out", "{}/none/network.py"], "its folder does not exist"),
        (["--format", "python", "--checkpoint", "{}/weights.pt"], "holds no weights"),
        (["--format", "onnx", "--checkpoint", "{}/weights.bin"], "must be one of .safetensors, .pt, .pth"),
        (["--format", "onnx", "--checkpoint", "{}/weights.pt"], "weights.pt: cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small("basic").save(tmp_path / "design.json")
    filled = [argument.format(tmp_path) for argument in arguments]
    assert command(monkeypatch, tmp_path / "design.json", *filled) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["design.json"]
