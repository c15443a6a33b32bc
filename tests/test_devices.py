"""Devices: reading and writing them, what is said of a design on one, and every wrong input in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mad_ip.backends import Profile
from mad_ip.cost import COSTS
from mad_ip.design import Design, DeviceMetrics, violations
from mad_ip.device import BOARDS, FEMTOSECONDS, Device, Lookup, Operation, Rate, Row
from mad_ip.errors import InputError
from mad_ip.memory import memory_of, tinyengine_memory
from mad_ip.solve import InfeasibleError, solve
from mad_ip.spec import Budget, Spec
from mad_ip.verification import exhaust

ROOT = Path(__file__).parent.parent

AFFINE = """
[device.latency]
model = "affine"
overhead = 1000.0
[device.latency.kinds]
pointwise = {base = 1000.0, macs = 0.1, bytes = 0.2}
dense = {base = 2000.0, macs = 0.2}
depthwise = {base = 3000.0, macs = 0.5}
squeeze-excite = {base = 1.0, bytes = 0.2}
pool = {base = 1.0}
add = {base = 1.0}
head = {weights = 0.2}
"""

SPEC = """
name = "small"
[input]
resolution = 32
classes = 10
[budget]
macs = 5e6
activation = "60 KiB"
flash = "50 kB"
latency = "2 ms"
[device]
memory = "in-place"
{latency}
[stem]
kernel = 3
stride = 1
channels = [8, 16]
[[stage]]
block = "bottleneck"
stride = 2
channels = [32, 48]
mid = [16, 32]
kernel = [3, 5]
depth = [1, 2]
[[stage]]
block = "inverted_se"
stride = 2
channels = [64, 80]
mid = [16, 32, 96]
kernel = [3, 5]
depth = [1, 2]
"""


def text(times: str = AFFINE, **changes: str) -> str:
    written = SPEC.replace("{latency}", times)
    for old, new in changes.items():
        written = re.sub(f"^{old} = .*$", f"{old} = {new}" if new else "", written, count=1, flags=re.M)
    return written


def spec_of(folder: Path, content: str) -> Spec:
    path = folder / "spec.toml"
    path.write_text(content)
    return Spec.load(path)


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ('"256 kB"', 256_000),
        ('"256kB"', 256_000),
        ('"256 KiB"', 262_144),
        ('"1 MB"', 10**6),
        ('"1.5 MiB"', 1_572_864),
        ('"512 B"', 512),
        ("4096", 4096),
        ("1e6", 10**6),
    ],
)
def test_bytes_may_have_units(tmp_path: Path, written: str, amount: int) -> None:
    assert spec_of(tmp_path, text(activation=written)).budget.activation == amount


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [('"8 ms"', 8e6), ('"8ms"', 8e6), ('"250 us"', 250e3), ('"0.5 s"', 5e8), ('"17 ns"', 17), ('"1e3 ns"', 1e3)],
)
def test_times_have_units(tmp_path: Path, written: str, nanoseconds: float) -> None:
    assert spec_of(tmp_path, text().replace('"2 ms"', written)).budget.latency == nanoseconds * 1e6


def test_a_budget_of_texts_is_that_of_a_spec() -> None:
    budget = Budget(activation="256 kB", flash="1 MB", latency="8 ms")
    assert (budget.activation, budget.flash, budget.latency) == (256_000, 10**6, 8e12)
    with pytest.raises(InputError, match=r"budget.latency = 'soon': must be a text with a number"):
        Budget(latency="soon")


def test_a_spec_is_written_and_read_back(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, text())
    assert spec_of(tmp_path, spec.to_toml()) == spec
    table = dataclasses.replace(spec, device=dataclasses.replace(spec.device, latency=LOOKUP), sha256="")
    assert spec_of(tmp_path, table.to_toml()) == table


@pytest.mark.parametrize("board", sorted(BOARDS))
@pytest.mark.parametrize("place", ["top", "table"])
def test_a_board_sets_memory_flash_and_layout(tmp_path: Path, board: str, place: str) -> None:
    content = text("", activation="", flash="", latency="")
    line = f'device = "{board}"'
    content = content.replace('memory = "in-place"', line)
    if place == "top":
        content = f"{line}\n" + content.replace(f"[device]\n{line}\n", "")
    spec = spec_of(tmp_path, content)
    assert spec.device == BOARDS[board].device
    assert spec.device.memory == "in-place"
    assert spec.budget.given == {"macs": 5e6, "activation": BOARDS[board].activation, "flash": BOARDS[board].flash}
    # What is written stands.
    content = content.replace("macs = 5e6", 'macs = 5e6\nactivation = "100 kB"')
    assert spec_of(tmp_path, content).budget.activation == 100_000


def test_the_published_sizes_of_the_boards() -> None:
    sizes = {name: (board.activation, board.flash) for name, board in BOARDS.items()}
    assert sizes == {
        "stm32f412": (256_000, 1_000_000),
        "stm32f746": (320_000, 1_000_000),
        "stm32h743": (512_000, 2_000_000),
    }


def test_a_budget_of_memory_needs_no_device_and_means_eight_bits(tmp_path: Path) -> None:
    content = text("", latency="").replace('[device]\nmemory = "in-place"\n', "")
    assert spec_of(tmp_path, content).device == Device()


def test_times_come_from_a_file_beside_the_spec(tmp_path: Path) -> None:
    device = tmp_path / "board.toml"
    device.write_text(
        'format = "mad-ip/device/1"\nactivation_bytes = 4\nweight_bytes = 4\n' + AFFINE.replace("device.", "")
    )
    spec = spec_of(tmp_path, text('latency = "board.toml"'))
    assert spec.device.latency == spec_of(tmp_path, text()).device.latency
    assert (spec.device.name, spec.device.activation_bytes, spec.device.channel_bytes) == ("board", 4, 4)
    assert Device.named(str(device)) == Device.load(device)
    assert Device.load(device).latency.kinds[0] == ("pointwise", Rate(1000.0, 0.1, 0.2))


def test_a_design_says_what_it_takes_and_can_be_checked_alone(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, text())
    design = solve(spec)
    assert isinstance(design.metrics, DeviceMetrics)
    assert design.metrics.activation <= 61_440
    assert design.metrics.flash <= 50_000
    assert design.metrics.latency <= 2_000_000
    path = tmp_path / "design.json"
    design.save(path)
    loaded = Design.load(path)
    assert (loaded.metrics, loaded.device) == (design.metrics, design.device)
    assert violations(spec, loaded) == []
    content = json.loads(path.read_text())
    assert list(content["metrics"])[-3:] == ["activation", "flash", "latency"]
    for key in ("activation", "flash", "latency"):
        content["metrics"][key] += 1
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"metrics.{key} = \d+: does not match the structure"):
            Design.load(path)
        content["metrics"][key] -= 1


def test_a_design_without_a_device_says_nothing_of_one() -> None:
    path = ROOT / "models/deepmad-r18/design.json"
    design = Design.load(path)
    assert design.to_json() == path.read_text()
    assert "device" not in json.loads(path.read_text())
    there = design.on(Device(activation_bytes=4))
    assert there.on(None).metrics == design.metrics
    assert there.metrics.activation == 4 * design.on(Device()).metrics.activation


def test_a_device_changed_after_the_solve_is_seen(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, text())
    design = solve(spec)
    slower = spec_of(tmp_path, text().replace("macs = 0.5", "macs = 0.6"))
    assert any("metrics.latency" in sentence for sentence in violations(slower, design))


# Memory --------------------------------------------------------------------------------------------------------------


def test_the_peak_is_where_it_is_said_to_be() -> None:
    design = Design.load(ROOT / "models/mobile/design.json").on(Device())
    memory = memory_of(design, Budget(activation=2_000_000))
    assert memory.peak == design.metrics.activation
    assert memory.slack == 2_000_000 - memory.peak
    first = design.stages[0]
    stem = design.stem.channels * 112 * 112
    by_hand = {
        "stem, convolution": 3 * 224 * 224 + stem,
        "stage 1 block 1, 1x1 convolution": stem + first.mid * 112 * 112,
        "stage 1 block 1, depthwise convolution": 2 * first.mid * 112 * 112 + stem * (stem == first.channels * 112**2),
    }
    assert by_hand[memory.where] == memory.peak >= max(by_hand.values())


def inverted(depth: int, c: int, m: int, memory: str) -> int:
    """One stage of inverted blocks at stride 1 after an 8-channel stem on 16 x 16 pixels."""
    content = SPEC.partition("[[stage]]")[0].replace("{latency}", "").replace('latency = "2 ms"\n', "")
    stage = f'[[stage]]\nblock = "inverted"\nstride = 1\nchannels = {c}\nmid = {m}\nkernel = 3\ndepth = {depth}\n'
    content = content.replace("resolution = 32", "resolution = 16").replace("in-place", memory)
    content = re.sub("^(macs|activation|flash) = .*$", "", content, flags=re.M).replace("[8, 16]", "8")
    spec = Spec.from_table(tomllib.loads(content + stage))
    (best,) = (exhaust(spec).design,)
    return best.spent("activation") // 256


def test_the_formulas_of_inverted_blocks() -> None:
    """In channels of 16 x 16: I = 8 or c, E = D = m, O = c; a shortcut where c_in = c."""
    assert inverted(1, 24, 48, "plain") == max(8 + 48, 48 + 48, 48 + 24)
    assert inverted(1, 8, 48, "plain") == 48 + 48 + 8
    assert inverted(2, 24, 48, "plain") == 48 + 48 + 24
    assert inverted(1, 24, 48, "in-place") == max(8 + 48, 48, 48 + 24)
    assert inverted(1, 8, 48, "in-place") == max(8 + 48, 48 + 8 + 8)
    assert inverted(2, 24, 48, "in-place") == 48 + 24 + 24


def test_the_schedule_of_tinyengine_is_that_of_a_loop_over_blocks() -> None:
    """Published figures are those of tests/test_mcunet.py."""
    design = Design.load(ROOT / "models/mcu-f412/design.json")
    tensors = sources = columns = 0
    size, c = 80, design.stem.channels
    tensors = 3 * 160**2 + c * size**2
    kernels, columns = 2 * 9 * 3 * c, 4 * 27
    for stage in design.stages:
        for number in range(stage.depth):
            stride = stage.stride if number == 0 else 1
            out = size // stride
            if stride == 1 and c == stage.channels:
                sources = max(sources, c * size**2)
                tensors = max(tensors, 2 * c * size**2)
            tensors = max(tensors, (c + stage.mid) * size**2, (stage.mid + 2) * size**2)
            tensors = max(tensors, (stage.mid + stage.channels) * out**2)
            columns = max(columns, 4 * c, 4 * stage.mid, 2 * (size + 2 * (stage.kernel // 2)) ** 2)
            c, size = stage.channels, out
    columns = max(columns, 4 * c)
    assert tinyengine_memory(design) == tensors + sources + columns + kernels + 2_500


# Tables of times -----------------------------------------------------------------------------------------------------

LOOKUP = Lookup(
    (
        Row("pointwise", 16, 0, 32, 1, 1, 8, 100),
        Row("pointwise", 16, 0, 64, 1, 1, 8, 90),
        Row("pointwise", 32, 0, 32, 1, 1, 8, 140),
        Row("pointwise", 32, 0, 64, 1, 1, 8, 190),
        Row("pointwise", 16, 0, 32, 1, 1, 16, 500),
        Row("pointwise", 16, 0, 64, 1, 1, 16, 600),
        Row("depthwise", 16, 0, 16, 3, 1, 8, 10),
        Row("depthwise", 32, 0, 32, 3, 1, 8, 8),
    ),
    unmodelled=("add",),
)
BETWEEN = dataclasses.replace(LOOKUP, interpolate=True)


def layer(kind: str, c_in: Any, c: Any, kernel: Any = 1, size: int = 8, present: Any = 1) -> Operation:
    return Operation(kind, c_in, 0, c, kernel, 1, size, present=present)


def test_what_was_measured_is_found() -> None:
    assert LOOKUP.of(layer("pointwise", 16, 64)) == 90 * FEMTOSECONDS
    assert LOOKUP.of(layer("pointwise+silu", 16, 64)) == 90 * FEMTOSECONDS
    assert LOOKUP.of(layer("add", 7, 7)) == 0
    found = LOOKUP.of(layer("pointwise", np.array([[16], [32]]), np.array([32, 64])))
    assert found.tolist() == [[100 * FEMTOSECONDS, 90 * FEMTOSECONDS], [140 * FEMTOSECONDS, 190 * FEMTOSECONDS]]
    mixed = LOOKUP.missing(layer("pointwise", 16, np.array([32, 48, 64]), present=np.array([1, 1, 0])))
    assert mixed.tolist() == [False, True, False]


def test_what_lies_between_is_interpolated_when_asked() -> None:
    with pytest.raises(InputError, match=r"latency.table has no pointwise of 16 to 48 channels.*--interpolate fills"):
        LOOKUP.of(layer("pointwise", 16, 48))
    assert BETWEEN.of(layer("pointwise", 16, 48)) == 95 * FEMTOSECONDS
    assert BETWEEN.of(layer("pointwise", 24, 48)) == 130 * FEMTOSECONDS
    # Pixels, not sides, are linear: 144 of 64 to 256.
    assert BETWEEN.of(layer("pointwise", 16, 32, size=12)) == math.ceil(100 + 400 * (144 - 64) / (256 - 64)) * 10**6
    assert BETWEEN.of(layer("depthwise", 24, 24, 3)) == 9 * FEMTOSECONDS
    assert BETWEEN.interpolated(layer("depthwise", 24, 24, 3))
    assert not BETWEEN.interpolated(layer("depthwise", 16, 16, 3))
    with pytest.raises(InputError, match="outside of what it holds"):
        BETWEEN.of(layer("pointwise", 16, 96))


def test_ratios_of_channels_serve_where_a_grid_has_holes() -> None:
    """Measured for two ratios only: 24 to 24 lies on one of them, 24 to 36 between both."""
    rows = [
        ("pointwise", c, 0, r * c, 1, 1, 8, time)
        for r, c, time in [(1, 16, 100), (1, 32, 200), (2, 16, 150), (2, 32, 350)]
    ]
    table = Lookup(tuple(Row(*row) for row in rows), interpolate=True)
    assert table.of(layer("pointwise", 24, 24)) == math.ceil(100 + (576 - 256) / (1024 - 256) * 100) * 10**6
    half = [100 + (864 - 256) / (1024 - 256) * 100, 150 + (864 - 512) / (2048 - 512) * 200]
    assert table.of(layer("pointwise", 24, 36)) == math.ceil(sum(half) / 2) * 10**6


def table_text(rows: str, columns: str = "kind c_in c_out kernel stride size nanoseconds") -> str:
    ignored = '["pool", "add", "head", "squeeze-excite"]'
    return f'[device.latency]\nmodel = "table"\nunmodelled = {ignored}\ntable = """\n{columns}\n{rows}"""\n'


def test_a_whole_block_counts_as_one_layer(tmp_path: Path) -> None:
    """As in Once-for-all's tables: a time depends on all three widths, and a wider block may be faster."""
    times = {(m, k): 1000 + 7 * m - 90 * (m == 32) + 13 * k for m in (16, 32, 96) for k in (3, 5)}
    rows = [f"inverted_se 48 {m} 80 {k} 2 16 {time}" for (m, k), time in times.items()]
    rows += [f"inverted_se 80 {m} 80 {k} 1 8 {time}" for (m, k), time in times.items()]
    rows += [
        "dense 3 0 8 3 1 32 50",
        *(f"dense {m} 0 {m} {k} {s} {n} 9" for m in (16, 32) for k in (3, 5) for s, n in ((2, 32), (1, 16))),
    ]
    rows += [
        f"pointwise {a} 0 {b} 1 1 {n} 5"
        for a, b, n in [
            (8, 48, 16),
            *((8, m, 32) for m in (16, 32)),
            *((m, 48, 16) for m in (16, 32)),
            *((48, m, 16) for m in (16, 32)),
        ]
    ]
    columns = "kind c_in mid c_out kernel stride size nanoseconds"
    model = (
        '[device.latency]\nmodel = "table"\nunmodelled = ["pool", "add", "head"]\ntable = """\n'
        + "\n".join([columns, *rows])
        + '\n"""\n'
    )
    content = text(model).replace("[8, 16]", "8").replace("[32, 48]", "48").replace("[64, 80]", "80")
    spec = spec_of(tmp_path, content.replace('"2 ms"', '"2300 ns"'))
    best = exhaust(spec)
    for name in ("highs", "enumerate", "decomposition"):
        assert solve(spec, profile=Profile(name)).metrics.score == pytest.approx(best.score, rel=1e-9)
    design = best.design
    last = design.stages[-1]
    reduced = 5 + 9 + 5
    first = reduced * design.stages[0].depth + 5
    assert design.metrics.latency == 50 + first + last.depth * times[last.mid, last.kernel]
    with pytest.raises(
        InputError, match=r"stage\[2\].channels = \[64, 80\]: device.latency is a table of whole blocks"
    ):
        spec_of(tmp_path, text(model).replace('"2 ms"', '"2300 ns"'))


# Wrong input ---------------------------------------------------------------------------------------------------------

ROW = "dense 3 8 3 1 32 500\n"

WRONG = {
    "unknown board": (
        text().replace('memory = "in-place"', 'device = "stm32f999"'),
        "device.device = 'stm32f999': must be one of stm32f412",
    ),
    "unit": (
        text(activation='"60 kilo"'),
        "budget.activation = '60 kilo': must be a number of bytes greater than 0, or a text",
    ),
    "time without unit": (text().replace('"2 ms"', "2"), "budget.latency = 2: must be a text with a number"),
    "negative": (text(flash="-5"), "budget.flash = -5: must be"),
    "not a number": (text(flash="nan"), "budget.flash = nan: must be"),
    "zero": (text(flash='"0 kB"'), "budget.flash = '0 kB': must be"),
    "truth": (text(flash="true"), "budget.flash = True: must be"),
    "layout": (text(memory='"in_place"'), "device.memory = 'in_place': must be one of plain, in-place"),
    "no bytes": (
        text(memory='"plain"\nactivation_bytes = 0'),
        "device.activation_bytes = 0: must be an integer from 1 to 8",
    ),
    "misspelt": (
        text().replace("memory =", "memroy ="),
        "device.memroy = 'in-place': unknown key; allowed are device, name",
    ),
    "missing kind": (text().replace("add = {base = 1.0}\n", ""), "latency.kinds has no add, as needed for add of"),
    "negative rate": (
        text().replace("base = 2000.0", "base = -1.0"),
        "kinds.dense.base = -1.0: must be a finite number of at least 0",
    ),
    "endless rate": (
        text().replace("base = 2000.0", "base = 1e300"),
        "kinds.dense.base = 1e+300: must be a number from 0 to",
    ),
    "no model": (
        text().replace('model = "affine"\n', ""),
        "device.latency.model is missing: must be one of affine, table",
    ),
    "no kinds": (text('[device.latency]\nmodel = "affine"\n'), "device.latency.kinds is missing"),
    "empty table": (text(table_text("")), "device.latency.table is empty: must have a line for at least one layer"),
    "columns": (text(table_text(ROW).replace("c_in ", "width ")), "table line 1: kind width c_out kernel"),
    "time not a number": (
        text(table_text(ROW.replace("500", "nan"))),
        "table line 2: nanoseconds = nan: must be a number from 0",
    ),
    "negative time": (
        text(table_text(ROW.replace("500", "-5"))),
        "table line 2: nanoseconds = -5: must be a number from 0",
    ),
    "short line": (text(table_text("dense 3 8 3\n")), "table line 2: dense 3 8 3: must have"),
    "the same layer": (
        text(table_text(ROW + ROW)),
        "table line 3: dense 3 8 3 1 32 500: the same layer is in a line before",
    ),
    "missing layer": (
        text(table_text(ROW)),
        "latency.table has no dense of 3 to 16 channels, kernel 3, stride 1, 32 x 32 pixels; --interpolate fills",
    ),
    "no times": (text("").replace("{latency}", ""), "budget.latency is given, device.latency is missing"),
    "no file": (text('latency = "none.toml"'), "none.toml: cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = WRONG[name]
    with pytest.raises(InputError) as caught:
        solve(spec_of(tmp_path, content))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "limit", "sentence"),
    [
        ("activation", '"2 KiB"', r"activation [0-9,]+ bytes \(budget 2,048 bytes\)"),
        ("flash", '"1 kB"', r"flash [0-9,]+ bytes \(budget 1,000 bytes\)"),
        ("latency", '"1 us"', r"latency [0-9,]+ ns \(budget 1,000 ns\)"),
    ],
)
def test_the_smallest_reachable_value_is_named_and_reachable(
    tmp_path: Path, key: str, limit: str, sentence: str
) -> None:
    old = {"activation": '"60 KiB"', "flash": '"50 kB"', "latency": '"2 ms"'}[key]
    with pytest.raises(InfeasibleError, match=rf"budget.{key} cannot be met") as caught:
        solve(spec_of(tmp_path, text().replace(old, limit)))
    (found,) = re.findall(sentence, str(caught.value))
    least = int(found.split()[1].replace(",", ""))
    unit = "ns" if key == "latency" else "B"
    others = {other: "" for other in ("activation", "flash", "macs") if other != key}
    content = text(**others)
    content = content.replace('latency = "2 ms"\n', "") if key != "latency" else content
    reachable = content.replace(old, f'"{least} {unit}"')
    assert solve(spec_of(tmp_path, reachable)).spent(key) <= least * COSTS[key].step
    with pytest.raises(InfeasibleError):
        solve(spec_of(tmp_path, content.replace(old, f'"{least - 1} {unit}"')))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-c", "from mad_ip.cli import main; main()", *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def test_show_measures_any_design_for_a_device(tmp_path: Path) -> None:
    done = command("show", ROOT / "models/mcunet/mcunet-256kb-1mb.json", "--device", "stm32f412", "--json")
    content = json.loads(done.stdout)
    assert (content["metrics"]["activation"], content["metrics"]["flash"]) == (204_800, 782_856)
    assert content["memory"]["slack"] == 256_000 - 204_800
    assert content["memory"]["tinyengine"] == pytest.approx(242 * 1024, abs=2048)
    assert content["device"]["name"] == "stm32f412"
    done = command("show", ROOT / "models/toy/design.json", "--device", "esp32")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--device = esp32: must be a device.toml or one of stm32f412, stm32f746, stm32h743" in done.stderr
    done = command("show", ROOT / "models/toy/spec.toml", "--device", "stm32f412")
    assert done.returncode == 2


def test_commands_read_what_others_made(tmp_path: Path) -> None:
    lines = tmp_path / "table.out"
    lines.write_text("{Regular,1,3,32,32,16,3,2,0} 0.0078848\n{Regular,1,16,16,16,24,1,1,0} 1.5\n")
    out = tmp_path / "device.toml"
    done = command("device", "import", lines, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 measurements read" in done.stdout
    assert Device.load(out).latency.rows[0].nanoseconds == 7885
    lines.write_text("")
    wrong = command("device", "import", lines, "--out", tmp_path / "none.toml")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "none.toml").exists()
    network = tmp_path / "network.json"
    network.write_text('{"name": "ProxylessNASNets"}')
    wrong = command("import", network, "--out", tmp_path / "design.json")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    wrong = command("import", network, "--format", "keras", "--out", tmp_path / "design.json")
    assert "--format = keras: must be one of tinynas, mcunet" in wrong.stderr


def test_a_score_may_have_memory_and_time(tmp_path: Path) -> None:
    device = tmp_path / "device.toml"
    device.write_text('format = "mad-ip/device/1"\n' + AFFINE.replace("device.", ""))
    done = command("score", ROOT / "models/toy/design.json", "torchvision:resnet18", "--device", device, "--json")
    assert done.returncode == 0, done.stderr
    design, resnet = json.loads(done.stdout)
    own = Design.load(ROOT / "models/toy/design.json").on(Device.load(device)).metrics
    assert [design[key] for key in ("activation", "flash", "latency")] == [own.activation, own.flash, own.latency]
    # Weights and a channel's bias and scale: 11,689,512 numbers less two of every normalisation, and a bias per class.
    channels = 64 + 4 * 64 + 5 * 128 + 5 * 256 + 5 * 512
    assert resnet["flash"] == 11_689_512 - 2 * channels - 1000 + 8 * (channels + 1000)
    assert resnet["latency"] > 0
    plain = json.loads(command("score", ROOT / "models/toy/design.json", "--json").stdout)[0]
    assert not {"activation", "flash", "latency", "device"} & set(plain)
