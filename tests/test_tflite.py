"""TFLite files, run by LiteRT and by TensorFlow Lite Micro, whose own recorder measures its arena."""

from __future__ import annotations

import dataclasses
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from torch import Tensor, nn

from mad_ip.blocks import FAMILIES
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.device import Device
from mad_ip.errors import InputError, InternalError
from mad_ip.memory import memory_of
from mad_ip.networks import Network, save_weights
from mad_ip.networks.export import export, tflite
from mad_ip.networks.export.tflite import live_bytes, load_images, replace_activations, tflite_model
from mad_ip.networks.network import default_cfg

EXPORTED = ("basic", "bottleneck", "inverted", "inverted_se")


def small(*families: str, resolution: int = 32, tail: int | None = 20, classes: int = 7, channels: int = 3) -> Design:
    """Per family a changing and a keeping stage, each of a projected or shortened block and one with identity."""
    stages = []
    for number, family in enumerate(families, start=1):
        stages.append(StageChoice(family, 2, 8 * number, 12, 3, 2, 1, 1, 1))
        stages.append(StageChoice(family, 1, 8 * number + 4 * (number % 2), 12, 5, 2, 1, 1, 1))
    return Design.create(
        beta=10.0,
        name="small",
        spec_sha256="",
        convention="paper",
        resolution=resolution,
        image_channels=channels,
        stem=StemChoice(3, 2, 6, 1, 1, 1),
        stages=tuple(stages),
        tail=tail,
        classes=classes,
        frames=None,
    )


def stirred(design: Design, activation: str | None = None, seed: int = 0) -> Network:
    """A network in eval mode in which no branch is hidden by a zero; logits are of order 1."""
    torch.manual_seed(seed)
    network = Network(design).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if isinstance(network.head, nn.Linear):
        network.head.reset_parameters()
    if activation is not None:
        replace_activations(network, activation)
    return network


@torch.no_grad()
def outputs(network: Network, batch: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, *network.design.input_shape, generator=torch.Generator().manual_seed(1))
    return images, network(images)


def pixels(image: Tensor, scales: Any = None, zeros: Any = None) -> Any:
    """(C, H, W) -> (1, H, W, C), in int8 where there is a scale."""
    values = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[None])
    if not len(scales):
        return values
    return np.clip(np.rint(values / scales[0]) + zeros[0], -128, 127).astype(np.int8)


def litert(content: bytes, images: Tensor) -> Tensor:
    """With LiteRT's own delegate, which no check of the export runs."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["name"], result["name"]) == ("images", "logits")
    found = []
    for image in images:
        parameters = given["quantization_parameters"]
        interpreter.set_tensor(given["index"], pixels(image, parameters["scales"], parameters["zero_points"]))
        interpreter.invoke()
        found.append(decoded(interpreter.get_tensor(result["index"]), result["quantization_parameters"]))
    return torch.cat(found)


def decoded(values: Any, parameters: dict[str, Any]) -> Tensor:
    if not len(parameters["scales"]):
        return torch.from_numpy(values)
    scale, zero = np.float32(parameters["scales"][0]), np.float32(parameters["zero_points"][0])
    return torch.from_numpy((values - zero) * scale)


def micro(content: bytes, image: Tensor, capfd: pytest.CaptureFixture[str]) -> tuple[Tensor, int]:
    """What TensorFlow Lite Micro computes of an image, and the bytes at the head of its arena, which it records."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("tflite-micro has wheels for Linux on x86_64 only")
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=10_000_000)
    parameters = interpreter.get_input_details(0)["quantization_parameters"]
    interpreter.set_input(pixels(image, parameters["scales"], parameters["zero_points"]), 0)
    interpreter.invoke()
    capfd.readouterr()
    interpreter.print_allocations()
    head = re.search(r"Arena allocation head (\d+) bytes", "".join(capfd.readouterr()))
    assert head is not None
    return decoded(interpreter.get_output(0), interpreter.get_output_details(0)["quantization_parameters"]), int(
        head[1]
    )


def opened(content: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def kinds(content: bytes) -> list[str]:
    return [name.split()[0] for name, _ in live_bytes(content)]


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    largest = float(expected.abs().max())
    assert 0.01 < largest < 100
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


# What a file computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [32, 45, 1])
@pytest.mark.parametrize("activation", [None, "ReLU6"])
@pytest.mark.parametrize("families", [*((family,) for family in EXPORTED), EXPORTED], ids="+".join)
def test_a_float32_file_is_the_network(families: tuple[str, ...], activation: str | None, resolution: int) -> None:
    network = stirred(small(*families, resolution=resolution), activation)
    content, fidelity = tflite_model(network, quantised=False)
    images, expected = outputs(network)
    agree(litert(content, images), expected)
    assert fidelity.decibels > 100
    assert fidelity.agreement == 1


@pytest.mark.parametrize(
    "design",
    [small("inverted", tail=None, classes=0), small("basic", channels=1), small("inverted_se", channels=4)],
    ids=["bare", "grey", "four channels"],
)
def test_a_design_may_have_no_head_and_any_channels(design: Design) -> None:
    network = stirred(design)
    content, _ = tflite_model(network, quantised=False)
    images, expected = outputs(network)
    agree(litert(content, images), expected)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("resolution", [23, 24])
def test_every_padding_is_the_network_s(kernel: int, stride: int, resolution: int) -> None:
    design = dataclasses.replace(small("inverted", resolution=resolution), stem=StemChoice(kernel, stride, 6, 1, 1, 1))
    network = stirred(design)
    content, _ = tflite_model(network, quantised=False)
    images, expected = outputs(network)
    agree(litert(content, images), expected)


@pytest.mark.parametrize("families", [*((family,) for family in EXPORTED), EXPORTED], ids="+".join)
@pytest.mark.parametrize("activation", [None, "ReLU6"])
def test_an_int8_file_is_close_to_the_network(families: tuple[str, ...], activation: str | None) -> None:
    network = stirred(small(*families), activation)
    images, expected = outputs(network, 8)
    content, fidelity = tflite_model(network, images)
    assert 40 < fidelity.decibels < 60
    assert (fidelity.images, fidelity.random) == (8, False)
    noise = litert(content, images) - expected
    assert 10 * torch.log10(expected.square().sum() / noise.square().sum()) == pytest.approx(fidelity.decibels, abs=3)
    (graph,) = opened(content).subgraphs
    assert {tensor.type for tensor in graph.tensors} == {schema.TensorType.INT8, schema.TensorType.INT32}
    assert all(graph.tensors[n].type == schema.TensorType.INT8 for n in (*graph.inputs, *graph.outputs))
    for tensor in graph.tensors:
        if tensor.type == schema.TensorType.INT8:
            assert (np.asarray(tensor.quantization.scale) > 0).all(), tensor.name


def test_an_int8_file_of_initial_weights_is_close_too(tmp_path: Path) -> None:
    design = small(*EXPORTED)
    fidelity = export(design, "tflite", tmp_path / "network.tflite")
    assert fidelity is not None
    assert fidelity.random
    assert fidelity.decibels > 20
    assert "random images; --images calibrates on real ones" in str(fidelity)


def test_weights_close_to_zero_keep_their_biases() -> None:
    network = stirred(small("basic"))
    network.stem[0].conv.weight.data[:3] *= 1e-12
    network.stem[0].norm.running_mean.zero_()
    _, fidelity = tflite_model(network)
    assert fidelity.decibels > 40


def test_constants_are_aligned_and_files_are_the_same_again() -> None:
    network = stirred(small("inverted_se"))
    content, _ = tflite_model(network)
    assert content == tflite_model(network)[0]
    assert content[4:8] == b"TFL3"
    model = schema.Model.GetRootAsModel(content, 0)
    buffers = [model.Buffers(n) for n in range(model.BuffersLength())]
    offsets = {buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()}
    assert len(offsets) > 10
    assert all(offset % 16 == 0 for offset in offsets)


# The arena ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("activation", [None, "ReLU6"])
@pytest.mark.parametrize("families", [*((family,) for family in EXPORTED), EXPORTED], ids="+".join)
def test_the_arena_is_what_is_live(
    families: tuple[str, ...], activation: str | None, quantised: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    network = stirred(small(*families), activation)
    images, expected = outputs(network, 1)
    content, _ = tflite_model(network, quantised=quantised)
    found, head = micro(content, images[0], capfd)
    agree(found, expected, 0.1 if quantised else 1e-5)
    agree(found, litert(content, images), 0.03 if quantised else 1e-5)
    assert head == max(size for _, size in live_bytes(content))


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("family", EXPORTED)
def test_the_modelled_peak_is_the_head_of_the_arena(family: str, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """With ReLU6, which is fused. Squeeze-excite also keeps its gate, narrow inverted blocks the tensors of a sum."""
    random, narrow = Random(seed), seed >= 6
    stages, c = [], random.choice([8, 16])
    stem = StemChoice(3, 2, c, 1)
    for number in range(2):
        c = random.choice([width for width in (8, 16, 24, 32) if width >= c])
        m = c // 2 if narrow else c * random.choice([1, 2, 4] if family.startswith("inverted") else [1, 2])
        stages.append(StageChoice(family, random.choice([1, 2]), c, m, 3, random.choice([1, 2, 3]), 1 + 7 * number))
    design = Design.create(
        beta=1.0,
        name="peak",
        spec_sha256="",
        convention="paper",
        resolution=random.choice([32, 48, 64]),
        image_channels=3,
        stem=stem,
        stages=tuple(stages),
        tail=random.choice([None, 32]),
        classes=10,
    )
    network = stirred(design, "ReLU6")
    content, _ = tflite_model(network, quantised=False)
    _, head = micro(content, outputs(network, 1)[0][0], capfd)
    there = design.on(Device(activation_bytes=4))
    modelled = memory_of(there).arena
    if not (family == "inverted_se" or narrow):
        assert modelled == there.spent("activation")
    # A padded input, where the file has one, is another tensor.
    live = list(live_bytes(content))
    padded = [n for n, (name, _) in enumerate(live) if name.startswith("PAD")]
    assert head == max([modelled, *(live[n + after][1] for n in padded for after in (0, 1))])


def test_live_bytes_are_those_of_the_layers() -> None:
    """By hand: an image of 3 x 32 x 32, a stem of 6, blocks of 8 and 12, of 12 inside, in multiples of 16 bytes."""
    content, _ = tflite_model(stirred(small("basic", tail=None)))
    live = dict(live_bytes(content))
    assert live["CONV_2D stem.0"] == 3 * 32**2 + 6 * 16**2
    assert live["CONV_2D stages.0.0.main.0"] == (6 * 16**2) + (12 * 8**2)
    assert live["CONV_2D stages.0.0.main.1"] == (6 * 16**2) + (12 + 8) * 8**2
    assert live["AVERAGE_POOL_2D stages.0.0.shortcut.0"] == (6 * 16**2) + (6 + 8) * 8**2
    assert live["CONV_2D stages.0.0.shortcut.1"] == (6 + 8 + 8) * 8**2
    assert live["ADD stages.0.0"] == live["ADD stages.0.1"] == 3 * 8 * 8**2
    assert live["CONV_2D stages.0.1.main.1"] == (8 + 12 + 8) * 8**2
    assert live["FULLY_CONNECTED logits"] == 16 + 16


def test_silu_keeps_a_third_tensor_where_relu6_keeps_two() -> None:
    design = small("inverted")
    live = dict(live_bytes(tflite_model(stirred(design))[0]))
    fused = dict(live_bytes(tflite_model(stirred(design, "ReLU6"))[0]))
    wide = 12 * 8**2
    block = 8 * 8**2
    assert live["MUL stages.0.1.main.0"] == block + 3 * wide
    assert live["MUL stages.0.1.main.1"] == block + 3 * wide
    assert fused["DEPTHWISE_CONV_2D stages.0.1.main.1"] == block + 2 * wide
    assert fused["ADD stages.0.1"] == 3 * block
    assert not {"LOGISTIC", "MUL"} & {name.split()[0] for name in fused}


def gapped() -> Network:
    """A network in whose arena the largest tensors leave a gap when they are placed first."""
    stages = (
        StageChoice("inverted", 1, 24, 32, 3, 2, 1, 1, 1),
        StageChoice("inverted", 2, 32, 32, 3, 1, 1, 1, 1),
    )
    design = dataclasses.replace(small("inverted"), stages=stages, stem=StemChoice(3, 2, 24, 1, 1, 1))
    return stirred(design, "ReLU6")


def test_tensors_are_placed_without_the_gaps_of_the_runtime_s_own_plan(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = gapped()
    images, _ = outputs(network, 1)
    content, _ = tflite_model(network)
    found, head = micro(content, images[0], capfd)
    least = max(size for _, size in live_bytes(content))
    assert head == least

    def undecided(graph: Any) -> Any:
        return np.array([1, 0, len(graph.tensors)] + [-1] * len(graph.tensors), np.int32)

    monkeypatch.setattr(tflite, "_plan", undecided)
    unplanned, _ = tflite_model(network)
    again, larger = micro(unplanned, images[0], capfd)
    assert torch.equal(found, again)
    assert larger > 1.4 * least


@pytest.mark.parametrize("seed", range(5))
def test_no_two_live_tensors_overlap(seed: int) -> None:
    generator = np.random.default_rng(seed)
    stages = tuple(
        StageChoice(str(generator.choice(EXPORTED)), stride, *map(int, 8 * generator.integers(1, 9, 2)), 3, 2, 1, 1, 1)
        for stride in (1, 2, 2)
    )
    content, _ = tflite_model(stirred(dataclasses.replace(small("basic"), stages=stages)))
    model = opened(content)
    (graph,) = model.subgraphs
    (metadata,) = model.metadata
    assert metadata.name == b"OfflineMemoryAllocation"
    version, subgraph, count, *offsets = np.frombuffer(model.buffers[metadata.buffer].data.tobytes(), np.int32)
    assert (version, subgraph, count) == (1, 0, len(graph.tensors))
    made: dict[int, int] = {int(graph.inputs[0]): 0}
    used: dict[int, int] = {}
    for step, operator in enumerate(graph.operators):
        made |= {int(tensor): step for tensor in operator.outputs}
        used |= {int(tensor): step for tensor in operator.inputs}
    assert [tensor for tensor, offset in enumerate(offsets) if offset >= 0] == sorted(made)
    spans = {n: range(offsets[n], offsets[n] + int(np.prod(graph.tensors[n].shape))) for n in made}
    for one in made:
        for other in made:
            if one < other and made[one] <= used.get(other, made[other]) and made[other] <= used.get(one, made[one]):
                assert spans[one].stop <= spans[other].start or spans[other].stop <= spans[one].start
    peak = max(size for _, size in live_bytes(content))
    assert peak - 16 < max(span.stop for span in spans.values()) <= peak


def test_zeros_in_a_kernel_spare_a_padded_input() -> None:
    content, _ = tflite_model(stirred(small("basic", tail=None)))
    (graph,) = opened(content).subgraphs
    shapes = {tensor.name.decode(): tuple(tensor.shape) for tensor in graph.tensors}
    assert shapes["stem.0.weight"] == (6, 4, 4, 3)
    assert shapes["stages.0.0.main.0.weight"] == (12, 4, 4, 6)
    assert shapes["stages.0.1.main.0.weight"] == (12, 3, 3, 8)
    assert "PAD" not in kinds(content)


def test_a_padded_input_spares_many_zeros() -> None:
    design = dataclasses.replace(small("basic"), resolution=8)
    network = stirred(design)
    content, _ = tflite_model(network)
    assert kinds(content).count("PAD") == 1
    (graph,) = opened(content).subgraphs
    shapes = {tensor.name.decode(): tuple(tensor.shape) for tensor in graph.tensors}
    assert shapes["stages.0.0.main.0.pad"] == (1, 5, 5, 6)
    assert shapes["stages.0.0.main.0.weight"] == (12, 3, 3, 6)


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, size in {"a.png": (50, 70), "b.jpg": (90, 41), "c.JPEG": (20, 20), "d.png": (37, 37)}.items():
        coarse = generator.integers(0, 256, (6, 5, 3), np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / name)
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [32, 33])
def test_a_folder_is_read_as_timm_reads_it(photos: Path, channels: int, resolution: int) -> None:
    design = small("basic", resolution=resolution, channels=channels)
    settings = {key: default_cfg(design)[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std")}
    transform: Any = timm.data.create_transform(**settings)
    names = ("a.png", "b.jpg", "c.JPEG", "d.png")
    expected = [transform(Image.open(photos / name).convert("L" if channels == 1 else "RGB")) for name in names]
    torch.testing.assert_close(load_images(photos, design), torch.stack(expected))


def test_many_images_are_thinned_evenly(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    design = small("basic")
    whole = load_images(photos, design)
    monkeypatch.setattr(tflite, "_MOST_IMAGES", 2)
    assert torch.equal(load_images(photos, design), whole[::2])


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_an_array_is_read_either_way(last: bool, tmp_path: Path) -> None:
    design = small("basic")
    images, _ = outputs(Network(design).eval())
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1).numpy() if last else images.numpy())
    assert torch.equal(load_images(tmp_path / "images.npy", design), images)


def bad_images(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "empty").mkdir()
    yield folder / "empty", "holds no images; must be a folder of .png, .jpg or .jpeg"
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    yield folder / "broken", "a.png: cannot be read .*; must be an image"
    yield folder / "none", "cannot be read .*; must be a folder or an .npy"
    for name, content in {
        "rows": np.zeros((3, 32, 32), np.float32),
        "wide": np.zeros((1, 3, 32, 33), np.float32),
        "double": np.zeros((1, 3, 32, 32)),
        "nothing": np.zeros((0, 3, 32, 32), np.float32),
        "number": np.float32(1),
    }.items():
        np.save(folder / f"{name}.npy", content)
        yield folder / f"{name}.npy", r"must be float32 of shape \(N, 3, 32, 32\) or \(N, 32, 32, 3\)"
    np.save(folder / "infinite.npy", np.full((1, 3, 32, 32), np.inf, np.float32))
    yield folder / "infinite.npy", "must be finite"
    np.save(folder / "pickle.npy", np.array([None]), allow_pickle=True)
    yield folder / "pickle.npy", "cannot be read"
    np.savez(folder / "archive.npz", images=np.zeros((1, 3, 32, 32), np.float32))
    yield folder / "archive.npz", "cannot be read"


def test_what_is_no_image_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for path, sentence in bad_images(tmp_path):
        with pytest.raises(InputError, match=sentence) as caught:
            load_images(path, small("basic"))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_folder_needs_grey_or_coloured_images(photos: Path) -> None:
    with pytest.raises(InputError, match=r"takes 4 channels; must be an \.npy file"):
        load_images(photos, small("basic", channels=4))


# Export ---------------------------------------------------------------------------------------------------------------


def test_an_export_takes_weights_images_and_an_activation(photos: Path, tmp_path: Path) -> None:
    design = small("inverted")
    network = stirred(design)
    save_weights(network, tmp_path / "weights.safetensors")
    path = tmp_path / "network.tflite"
    given: dict[str, Any] = {"checkpoint": tmp_path / "weights.safetensors", "images": photos, "activation": "ReLU6"}
    fidelity = export(design, "tflite", path, **given)
    assert fidelity is not None
    assert (fidelity.images, fidelity.random) == (4, False)
    assert fidelity.decibels > 30
    assert str(fidelity).endswith("of 4 images")
    replace_activations(network, "ReLU6")
    assert path.read_bytes() == tflite_model(network, load_images(photos, design))[0]
    export(design, "tflite", path, quantised=False, **given)
    images, expected = outputs(network)
    agree(litert(path.read_bytes(), images), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "onnx", "images": "photos"}, "--images = photos: is for --format tflite; must be left out for onnx"),
        ({"kind": "python", "activation": "ReLU6"}, "--activation = ReLU6: is for --format tflite"),
        ({"kind": "safetensors", "quantised": False}, "--float32 = True: is for --format tflite"),
        ({"activation": "GELU"}, "--activation = GELU: must be one of ReLU, ReLU6"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    kind = options.pop("kind", "tflite")
    suffix = {"tflite": "tflite", "onnx": "onnx", "python": "py", "safetensors": "safetensors"}[kind]
    with pytest.raises(InputError, match=sentence):
        export(small("basic"), kind, tmp_path / f"network.{suffix}", **options)
    assert not list(tmp_path.iterdir())


def test_clips_and_other_poolings_are_refused() -> None:
    clips = dataclasses.replace(small("basic"), frames=4)
    with pytest.raises(InputError, match="takes clips; a TFLite file takes images"):
        tflite_model(Network(clips).eval())
    with pytest.raises(InputError, match="global_pool = 'max': must be 'avg'"):
        tflite_model(Network(small("basic"), global_pool="max").eval())


def test_weights_that_are_no_numbers_are_refused() -> None:
    network = stirred(small("basic"))
    network.stem[0].norm.bias.data.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite"):
        tflite_model(network)


def test_another_activation_is_an_internal_error() -> None:
    network = stirred(small("basic"))
    network.stem[0].activation = nn.GELU()
    with pytest.raises(InternalError, match=r"stem\.0 has a GELU, which has no TFLite operator"):
        tflite_model(network)
    network.stem[0].activation = nn.ReLU()
    network.tail.append(nn.GELU())
    with pytest.raises(InternalError, match=r"tail\.1 is a GELU, which has no TFLite operator"):
        tflite_model(network)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_that_differs_is_not_written(quantised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faithful = tflite._folded

    def unfaithful(module: Any) -> Any:
        weight, bias = faithful(module)
        return weight, bias + 0.01

    monkeypatch.setattr(tflite, "_folded", unfaithful)
    path = tmp_path / "network.tflite"
    path.write_text("before")
    with pytest.raises(InternalError, match="the float32 TFLite file differs from PyTorch by"):
        export(small("basic"), "tflite", path, quantised=quantised)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrong", ["clipped", "silent"])
def test_plainly_wrong_numbers_are_an_internal_error(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faithful = tflite._affine
    factor = {"clipped": 0.1, "silent": 1e6}[wrong]
    monkeypatch.setattr(tflite, "_affine", lambda low, high: (faithful(low, high)[0] * factor, faithful(low, high)[1]))
    with pytest.raises(InternalError, match=r"the int8 TFLite file is -?\d+\.\d dB from PyTorch, less than 10 dB"):
        tflite_model(stirred(small("inverted_se")))


def test_every_family_of_specs_is_covered() -> None:
    assert set(EXPORTED) <= set(FAMILIES)
