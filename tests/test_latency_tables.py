"""Tables of other projects: every line becomes the row that it says, exactly, or is named."""

from __future__ import annotations

import dataclasses
import gzip
import math
import random
import time
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from mad_ip import latency_tables
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.device import FEMTOSECONDS, Device, Lookup, Row
from mad_ip.errors import InputError

CONVOLUTIONS = """\
{Regular,1,3,32,32,16,3,2,0} 0.0078848
{Regular,1,16,16,16,24,1,1,0} 1.5

{Depthwise,1,24,16,16,24,5,2,0} 0.0000001
{Regular,1,24,8,8,40,1,1,0} -1
{Regular,1,24,8,8,40,1,1,1} 0.25
{Regular,64,24,8,8,40,1,1,0} 9
{Regular,1,24,8,8,40,3,1,1} 1e-3
"""

BLOCKS = """\
AvgPool2D-input:4x4x48-output:1x1x48:
  count: 491
  mean: 0.008482688391038698
  std: 0.0006733248071883371
Conv-input:32x32x3-output:16x16x16:
  mean: 0.5
Conv_1-input:4x4x40-output:4x4x48:
  count: 1
  mean: 0.25
Conv_2-input:1x1x48-output:1x1x96:
  mean: 1
Logits-input:1x1x48-output:10:
  mean: 0.125
expanded_conv-input:16x16x16-output:16x16x16-expand:16-kernel:3-stride:1-idskip:1-se:0-hs:0:
  mean: 2.0000001
expanded_conv-input:16x16x16-output:8x8x24-expand:48-kernel:5-stride:2-idskip:0-se:0-hs:0:
  mean: 3.0
expanded_conv-input:16x16x16-output:8x8x24-expand:48-kernel:5-stride:2-idskip:0-se:0-hs:1:
  mean: 2.5
expanded_conv-input:8x8x24-output:4x4x40-expand:96-kernel:7-stride:2-idskip:0-se:1-hs:1:
  mean: 4
expanded_conv-input:8x8x24-output:8x8x24-expand:96-kernel:7-stride:1-idskip:0-se:1-hs:1:
  mean: 8
"""


def table(tmp_path: Path, text: str, name: str = "board.out") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def rows(device: Device) -> tuple[Row, ...]:
    assert isinstance(device.latency, Lookup)
    return device.latency.rows


def test_a_convolution_is_a_row(tmp_path: Path) -> None:
    device = latency_tables.read_tinynas(table(tmp_path, CONVOLUTIONS))
    assert rows(device) == (
        Row("dense", 3, 0, 16, 3, 2, 32, 7885),
        Row("pointwise", 16, 0, 24, 1, 1, 16, 1_500_000),
        Row("depthwise", 24, 0, 24, 5, 2, 16, 1),
    )
    assert (device.name, device.activation_bytes, device.weight_bytes, device.channel_bytes) == ("board", 4, 4, 4)
    assert isinstance(device.latency, Lookup)
    assert device.latency.unmodelled == ("add", "head", "pool")


def test_a_batch_and_fused_sums_are_chosen(tmp_path: Path) -> None:
    path = table(tmp_path, CONVOLUTIONS)
    assert rows(latency_tables.read_tinynas(path, batch=64)) == (Row("pointwise", 24, 0, 40, 1, 1, 8, 9_000_000),)
    device = latency_tables.read_tinynas(path, fused=True, number_bytes=1)
    assert rows(device)[-2:] == (
        Row("pointwise+add", 24, 0, 40, 1, 1, 8, 250_000),
        Row("dense+add", 24, 0, 40, 3, 1, 8, 1000),
    )
    assert (device.activation_bytes, device.weight_bytes, device.channel_bytes) == (1, 1, 8)


def test_counts_add_up(tmp_path: Path) -> None:
    layer = "{Regular,1,8,8,8,8,1,1,0}"
    text = CONVOLUTIONS + f"{layer} 1\n{layer} -1\n{layer} 3\n{layer} 2\n{layer} -1.0\n"
    found = latency_tables.read(table(tmp_path, text))
    assert (found.lines, found.rows, found.invalid, found.other, found.repeated) == (12, 4, 3, 3, 2)
    assert rows(found.device)[-1].nanoseconds == 2_000_000
    assert found.kind == "tinynas"
    assert any("2 are of a layer" in sentence for sentence in found.sentences())


@pytest.mark.parametrize("text", ["0.30000000000000004", "5.87008", "1e-7", "0.000001", "0.0000010000000000001", "0"])
def test_times_are_exact(text: str, tmp_path: Path) -> None:
    device = latency_tables.read_tinynas(table(tmp_path, f"{{Regular,1,8,8,8,8,1,1,0}} {text}\n"))
    assert rows(device)[0].nanoseconds == math.ceil(Fraction(text) * 10**6)


def test_a_table_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "board.txt"
    path.write_bytes(gzip.compress(CONVOLUTIONS.encode()))
    assert latency_tables.read(path).device == latency_tables.read(table(tmp_path, CONVOLUTIONS)).device


def test_layers_and_blocks_are_rows(tmp_path: Path) -> None:
    found = latency_tables.read(table(tmp_path, BLOCKS, "phone.yaml"))
    assert found.kind == "once-for-all"
    assert rows(found.device) == (
        Row("pool", 48, 0, 48, 4, 4, 4, 8483),
        Row("dense", 3, 0, 16, 3, 2, 32, 500_000),
        Row("pointwise", 40, 0, 48, 1, 1, 4, 250_000),
        Row("pointwise", 48, 0, 96, 1, 1, 1, 1_000_000),
        Row("head", 48, 0, 10, 1, 1, 1, 125_000),
        Row("separable", 16, 16, 16, 3, 1, 16, 2_000_001),
        Row("inverted", 16, 48, 24, 5, 2, 16, 3_000_000),
        Row("inverted_se", 24, 96, 40, 7, 2, 8, 4_000_000),
    )
    assert (found.lines, found.rows, found.other, found.repeated) == (10, 8, 1, 1)
    assert any("the slower one counts" in sentence for sentence in found.sentences())
    assert latency_tables.read_once_for_all(tmp_path / "phone.yaml") == found.device


def test_a_network_takes_the_sum_of_its_rows(tmp_path: Path) -> None:
    device = latency_tables.read_once_for_all(table(tmp_path, BLOCKS))
    design = Design.create(
        beta=10.0,
        name="x",
        spec_sha256="",
        convention="paper",
        resolution=32,
        image_channels=3,
        stem=StemChoice(3, 2, 16, 0.0),
        stages=(
            StageChoice("separable", 1, 16, 16, 3, 1, 1.0),
            StageChoice("inverted", 2, 24, 48, 5, 1, 1.0),
            StageChoice("inverted_se", 2, 40, 96, 7, 1, 8.0),
        ),
        tail=48,
        classes=10,
    )
    nanoseconds = 500_000 + 2_000_001 + 3_000_000 + 4_000_000 + 250_000 + 8483 + 125_000
    assert isinstance(device.latency, Lookup)
    operations = dataclasses.replace(design, device=device).operations()
    assert sum(device.latency.of(operation) for operation in operations) == nanoseconds * FEMTOSECONDS


@pytest.mark.parametrize(("text", "kind"), [(CONVOLUTIONS, "tinynas"), (BLOCKS, "once-for-all")])
def test_a_device_survives_the_way_there_and_back(text: str, kind: str, tmp_path: Path) -> None:
    found = latency_tables.read(table(tmp_path, text), kind)
    path = tmp_path / "device.toml"
    latency_tables.write(found.device, path, found.measured())
    assert Device.load(path) == found.device
    measured = tomllib.loads(path.read_text())["measured"]
    assert (measured["source"], measured["format"], measured["rows"]) == ("board.out", kind, found.rows)


def test_a_large_table_is_a_matter_of_seconds(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [
        f"{{Regular,1,{8 * c_in},{size},{size},{8 * c_out},{kernel},1,0}} {rng.random()}"
        for c_in in range(1, 51)
        for c_out in range(1, 51)
        for size in (7, 14, 28, 56)
        for kernel in (1, 3, 5)
    ]
    path = table(tmp_path, "\n".join(lines))
    begin = time.perf_counter()
    found = latency_tables.read(path)
    latency_tables.write(found.device, tmp_path / "device.toml", found.measured())
    assert Device.load(tmp_path / "device.toml") == found.device
    # A second or so on an idle machine; quadratic work would take minutes.
    assert time.perf_counter() - begin < 20
    assert found.rows == len(lines) == 30_000


LAYER = "{Regular,1,8,8,8,8,1,1,0}"
NAMED = "Conv-input:32x32x3-output:16x16x16:\n"
BLOCK = "expanded_conv-input:16x16x16-output:8x8x24-expand:48-kernel:5-stride:2-idskip:0-se:0-hs:0"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; must have a line"),
        ("\n \n", "is empty; must have a line"),
        ("kind c_in\n", "line 1: kind c_in: must begin a table of"),
        ("\x01\n", r"line 1: '\\x01': must begin a table of"),
        (f"{LAYER} -1\n", "batch = 1: no line has a time; .*: none"),
        ("{Regular,2,8,8,8,8,1,1,0} 1\n{Regular,1,8,8,8,8,1,1,1} 1", "batch = 1: no line has a time; .*: 2"),
        (f"{LAYER} 1\n{LAYER}\n", "line 2: .*: must be {type,batch"),
        (f"{LAYER} 1\n\nConv 1\n", "line 3: Conv 1: must be {type,batch"),
        ("{Pool,1,8,8,8,8,1,1,0} 1\n", "line 1: .*: must be {type,batch"),
        ("{Regular,1,8,8,8,8,1,0,0} 1\n", "line 1: .*: must be {type,batch"),
        ("{Regular,1,8,8,8,8,1,1,2} 1\n", "line 1: .*: must be {type,batch"),
        ("{Regular,1,8,8,8,8.0,1,1,0} 1\n", "line 1: .*: must be {type,batch"),
        ("{Regular,1,99999999,8,8,8,1,1,0} 1\n", "line 1: .*: must be of square images and numbers up to"),
        ("{Regular,1,8,8,9,8,1,1,0} 1\n", "line 1: .*: must be of square images"),
        ("{Depthwise,1,8,8,8,9,3,1,0} 1\n", "line 1: .*Depthwise of as many in as out"),
        (f"{LAYER} nan\n", "line 1: .*: its time nan must be a number of milliseconds"),
        (f"{LAYER} sNaN\n", "line 1: .*: its time sNaN must be a number of milliseconds"),
        (f"{LAYER} inf\n", "line 1: .*: its time inf must be"),
        (f"{LAYER} -2\n", "line 1: .*: its time -2 must be .*, or -1 where"),
        (f"{LAYER} 1e99\n", "line 1: .*: its time 1e99 must be"),
        (f"{LAYER} fast\n", "line 1: .*: its time fast must be"),
        (NAMED, "line 1: .*: has no mean"),
        (NAMED + "  count: 3\n" + NAMED + "  mean: 1\n", "line 1: .*: has no mean"),
        (NAMED + "  mean: nan\n", "line 2: mean: nan: its time nan must be a number"),
        (NAMED + "  mean: -1\n", "line 2: .*: its time -1 must be a number of milliseconds from 0 to 10,000$"),
        (NAMED + "  mean: 1\n  mean: 2\n", "line 3: mean: 2: mean is given twice"),
        (NAMED + "  median: 1\n", "line 2: median: 1: must be the name of a layer"),
        (NAMED + "  mean 1\n", "line 2: mean 1: must be the name of a layer"),
        (NAMED + "mean: 1\n", "line 2: mean: 1: must be the name of a layer"),
        (NAMED.rstrip(":\n"), "line 1: .*: must be the name of a layer and a colon"),
        (NAMED + "  mean: 1\nPool-input:1x1x1-output:1x1x1:\n  mean: 1\n", "line 3: Pool.*: must be one of Conv"),
        (BLOCK.replace("-se:0", "") + ":\n  mean: 1\n", "line 1: .*: must be one of Conv"),
        (BLOCK.replace("8x8", "9x9") + ":\n  mean: 1\n", "line 1: .*: its input and output must be square"),
        (BLOCK.replace("8x8", "8x9") + ":\n  mean: 1\n", "line 1: .*: its input and output must be square"),
        (BLOCK.replace("idskip:0", "idskip:1") + ":\n  mean: 1\n", "holds no layer and no block that mad-ip has"),
        ("Conv_1-input:8x8x3-output:4x4x16:\n  mean: 1\n", "line 1: .*: its input and output must be square"),
        ("AvgPool2D-input:8x8x3-output:2x2x3:\n  mean: 1\n", "line 1: .*: must lead to one pixel"),
        ("Logits-input:8x8x3-output:10:\n  mean: 1\n", "line 1: .*: (must start at one pixel|its input and output)"),
    ],
)
def test_what_does_not_fit_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError, match=sentence) as caught:
        latency_tables.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"\x1f\x8b", gzip.compress(CONVOLUTIONS.encode())[:-9]])
def test_a_file_that_is_no_text_is_named(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "board.out.gz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="not a text, plain or compressed by gzip") as caught:
        latency_tables.read(path)
    assert "\n" not in str(caught.value)


def test_options_are_checked(tmp_path: Path) -> None:
    path = table(tmp_path, BLOCKS)
    with pytest.raises(InputError, match="--format = csv: must be one of tinynas, once-for-all"):
        latency_tables.read(path, "csv")
    with pytest.raises(InputError, match="--batch = 0: must be an integer from 1"):
        latency_tables.read(path, batch=0)
    with pytest.raises(InputError, match="--bytes = 16: must be an integer from 1 to 8"):
        latency_tables.read(path, number_bytes=16)
    with pytest.raises(InputError, match=r"--batch = 2: .* must be left out"):
        latency_tables.read(path, batch=2)
    with pytest.raises(InputError, match=r"line 1: .*must be {type,batch"):
        latency_tables.read(path, "tinynas")
