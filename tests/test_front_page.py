"""The pages of a front and of a single design, in Chromium from disk without a network, against the designs."""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mad_ip import cli, scoring
from mad_ip.backends import Profile
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.front import Front, Point, Price, limited
from mad_ip.reports.front import design_page, page, require_page
from mad_ip.solve import InfeasibleError, solve
from mad_ip.spec import Spec
from mad_ip.verification.verdict import verify

MODELS = Path(__file__).parent.parent / "models"
TOY = MODELS / "toy" / "spec.toml"
HOSTILE = (
    """</script><img src=x onerror=console.error(1)> <!-- "it's" &amp; {{ name }} var(--sans) \u2028 """ + 300 * "n"
)
MACS = (1e6, 6e6, 12e6, 20e6)
PARAMS = (50e3, 100e3)
FEWEST = 2_884_224
"""MACs of the cheapest architecture of the toy, as its infeasible solves say."""


@pytest.fixture(scope="module")
def points() -> list[Point]:
    """Solves of the toy by MACs and parameters, those of the fewest MACs infeasible."""
    found = []
    for params in PARAMS:
        for macs in MACS:
            spec = limited(Spec.load(TOY), {"macs": macs, "params": params})
            name = f"macs-{macs:.0f}-params-{params:.0f}"
            prices = (Price("macs", 2e-4, 3e-4, None), Price("effectiveness", 1000.0, None, None))
            try:
                design = solve(spec, profile=Profile("enumerate"))
            except InfeasibleError:
                assert macs < FEWEST
                found.append(Point(name, spec, "infeasible", None, -math.inf))
                continue
            assert design.certificate is not None
            found.append(Point(name, spec, "optimal", design, design.certificate.bound, prices))
    return found


@pytest.fixture(scope="module")
def front(points: list[Point]) -> Front:
    """Along MACs, one point not proven: its bound is 3 % above its score."""
    own = points[len(MACS) :]
    doubtful = own[2]
    assert doubtful.design is not None
    bound = 1.03 * doubtful.design.metrics.score
    own[2] = dataclasses.replace(doubtful, status="feasible", bound=bound)
    return Front(Spec.load(TOY), ("macs",), tuple(own))


@pytest.fixture
def shown(driver: Any, tmp_path: Path) -> Callable[..., Any]:
    """Opens a page from disk, offline, in a window of some width, and lets it save files into tmp_path."""

    def show(text: str, width: int = 1280) -> Any:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        resize(driver, width)
        place = {"behavior": "allow", "downloadPath": str(tmp_path)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", place)
        path = tmp_path / "page.html"
        path.write_text(text)
        driver.get(path.as_uri())
        return driver

    return show


def resize(driver: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.3)


def quiet(driver: Any) -> None:
    """The console is empty, and nothing was asked of anybody."""
    assert driver.get_log("browser") == []
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def drawn(driver: Any) -> list[tuple[str, float, int, list[float]]]:
    """Of every row of the network that is to be seen: its name, and in pixels the side of its square and its bars."""
    rows = driver.execute_script(
        "return [...document.querySelectorAll('article:not([hidden]) .network li')].map(row => ["
        "row.querySelector('b').innerText, row.querySelector('.square svg').getBoundingClientRect().width, "
        "...['channels', 'inner'].map(kind => [...row.querySelectorAll('rect.' + kind)].map("
        "bar => bar.getBoundingClientRect().width))])"
    )
    return [tuple(row) for row in rows]


def expect_drawn(driver: Any, design: Design) -> None:
    """Squares to the scale of resolutions, a bar for every block, as wide as its channels and inner width."""
    rows = {name: row for name, *row in drawn(driver)}
    assert list(rows) == ["input", "stem", *(f"stage {n}" for n in range(1, len(design.stages) + 1)), "head"]
    scale = rows["input"][0] / design.resolution
    (stem,) = rows["stem"][1]
    unit = stem / design.stem.channels
    for number, (stage, size) in enumerate(zip(design.stages, design.resolutions[1:], strict=True), start=1):
        side, outer, inner = rows[f"stage {number}"]
        assert side == pytest.approx(scale * size, abs=0.1)
        assert outer == pytest.approx([unit * stage.channels] * stage.depth, rel=0.01)
        assert inner == pytest.approx([unit * stage.mid] * stage.depth, rel=0.01)


def saved(path: Path) -> str:
    """A file that the browser saves."""
    limit = time.monotonic() + 20
    while not path.is_file() and time.monotonic() < limit:
        time.sleep(0.05)
    # As bytes: the hash of a spec.toml is of its very line ends.
    return path.read_bytes().decode()


def test_slider_click_and_table_pick_the_point_that_is_drawn(front: Front, shown: Callable[..., Any]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    designs = [point.design for point in front.points]
    assert designs[0] is None
    driver = shown(page(front))
    expect_drawn(driver, designs[3])
    (slider,) = driver.find_elements("css selector", "input[type=range]")
    slider.send_keys(Keys.ARROW_LEFT)
    expect_drawn(driver, designs[2])
    assert slider.get_attribute("aria-valuetext") == "12 MMACs, not proven"
    assert "12 MMACs not proven" in driver.find_element("css selector", "article:not([hidden]) h2").text
    slider.send_keys(Keys.HOME)
    assert drawn(driver) == []
    assert "Infeasible" in driver.find_element("css selector", "article:not([hidden])").text
    assert not driver.find_element("id", "save-design").is_enabled()

    # Where Plotly has drawn the second point.
    x, y = driver.execute_script(
        "const plot = document.getElementById('front'), layout = plot._fullLayout, [x, y] = data.front.places[1];"
        "const box = plot.getBoundingClientRect(); return [box.x + layout.xaxis._offset + layout.xaxis.l2p("
        "layout.xaxis.type === 'log' ? Math.log10(x) : x), box.y + layout.yaxis._offset + layout.yaxis.l2p(y)]"
    )
    for step in ("moved", "clicked"):
        actions = ActionChains(driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        (actions if step == "moved" else actions.click()).perform()
        time.sleep(0.2)
    expect_drawn(driver, designs[1])
    assert driver.execute_script("return document.querySelector('tr[aria-current]').rowIndex") == 2

    driver.find_element("css selector", "#points tbody tr:nth-child(4) button").send_keys(Keys.ENTER)
    expect_drawn(driver, designs[3])
    assert slider.get_attribute("value") == "3"
    quiet(driver)


def test_the_plots_have_every_score_bound_and_infeasible_point(front: Front, shown: Callable[..., Any]) -> None:
    network = scoring.of_design(Design.load(MODELS / "toy" / "design.json"))
    other = scoring.of_design(Design.load(MODELS / "published" / "deepmad-r18.json"))
    driver = shown(page(front, [network, other]))
    traces = {
        trace["name"]: trace
        for trace in driver.execute_script(
            "return document.getElementById('front')._fullData.map(trace => ({name: trace.name, x: [...trace.x], "
            "y: [...trace.y], symbol: trace.marker.symbol, above: trace.error_y && trace.error_y.array}))"
        )
    }
    feasible = [point for point in front.points if point.design is not None]
    scores = [point.design.metrics.score for point in feasible if point.design is not None]
    assert traces["score"]["x"] == list(MACS[1:])
    assert traces["score"]["y"] == scores
    assert traces["score"]["symbol"] == ["circle", "circle-open", "circle"]
    assert traces["score"]["above"] == pytest.approx([0.0, 0.03 * scores[1], 0.0], abs=1e-3)
    assert traces["upper bound"]["y"] == [point.bound for point in feasible]
    assert traces["infeasible"]["x"] == [1e6]
    assert traces["infeasible"]["y"][0] < min(scores)
    assert traces["chosen"]["y"] == [scores[-1]]
    # Of the networks the one with other resolutions has no place in the plot.
    assert (traces["other networks"]["x"], traces["other networks"]["y"]) == ([network.macs], [network.entropy])
    rows = driver.execute_script(
        "return [...document.querySelectorAll('#networks tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )
    assert [row[:4] for row in rows] == [
        ["1", "toy", "32", f"{network.entropy:,.4f}"],
        ["2", "deepmad-r18", "224", "\N{EN DASH}"],
    ]
    assert [row[4] for row in rows] == ["18.66 MMACs", "1.812 GMACs"]

    # Parallel coordinates: on every axis the largest value is at the top, the smallest at the bottom.
    paths = driver.execute_script("return data.parallel.paths")
    titles = driver.execute_script("return data.parallel.layout.annotations.map(note => note.text)")
    place = [title for title in titles if re.search("[a-z]{2}|MACs|<sub>", title)].index("MACs")
    macs = [point.design.metrics.macs for point in feasible if point.design is not None]
    expected = [(value - min(macs)) / (max(macs) - min(macs)) for value in macs]
    assert [paths[str(n)][place] for n in (1, 2, 3)] == pytest.approx(expected)
    quiet(driver)


def test_what_is_saved_is_proven_by_what_is_saved(front: Front, shown: Callable[..., Any], tmp_path: Path) -> None:
    point = front.points[-1]
    assert point.design is not None
    driver = shown(page(front))
    for button in ("save-design", "save-spec"):
        driver.find_element("id", button).click()
    path, spec_path = tmp_path / f"{point.name}.json", tmp_path / f"{point.name}.toml"
    assert saved(path) == point.design.to_json()
    assert saved(spec_path) == point.spec.to_toml()
    problem = Spec.load(spec_path)
    assert violations(problem, Design.load(path)) == []
    assert verify(problem, Design.load(path), method="exhaustion").verdict == "proven"
    assert f"mad-ip verify {path.name} --spec {spec_path.name}" in driver.find_element("id", "proof").text

    driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    driver.find_element("id", "copy").click()
    time.sleep(0.3)
    assert driver.find_element("id", "said").text == "design.json: copied"
    assert driver.execute_script("return navigator.clipboard.readText()") == point.design.to_json()
    # A page from disk without a clipboard: the old command copies what is selected.
    driver.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true});"
        "document.addEventListener('copy', () => { window.selected = document.getSelection().toString(); })"
    )
    driver.find_element("css selector", "#points tbody tr:nth-child(3) button").click()
    driver.find_element("id", "copy").click()
    time.sleep(0.3)
    assert driver.find_element("id", "said").text == "design.json: copied"
    assert front.points[2].design is not None
    assert driver.execute_script("return window.selected") == front.points[2].design.to_json()
    quiet(driver)


def test_two_budgets_have_a_line_and_a_slider_each(points: list[Point], shown: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    # Without one point: a sweep may be cut.
    left = (*points[:2], *points[3:])
    driver = shown(page(Front(Spec.load(TOY), ("macs", "params"), left)))
    names = driver.execute_script("return document.getElementById('front')._fullData.map(trace => trace.name)")
    assert names[:2] == ["50 k parameters", "100 k parameters"]
    by_macs, by_params = driver.find_elements("css selector", "input[type=range]")
    expect_drawn(driver, points[-1].design)
    by_params.send_keys(Keys.ARROW_LEFT)
    expect_drawn(driver, points[len(MACS) - 1].design)
    # The point at 12 MMACs and 50 k parameters is missing: the nearest with those MACs is shown.
    by_macs.send_keys(Keys.ARROW_LEFT)
    expect_drawn(driver, points[len(MACS) + 2].design)
    assert by_params.get_attribute("value") == "1"
    quiet(driver)


def test_names_are_text_and_nothing_is_wider_than_the_page(
    points: list[Point], shown: Callable[..., Any], tmp_path: Path
) -> None:
    def named(point: Point) -> Point:
        spec = dataclasses.replace(point.spec, name=HOSTILE, sha256="")
        design = point.design
        if design is not None:
            design = dataclasses.replace(design, name=HOSTILE, spec_sha256=spec.sha256)
        return dataclasses.replace(point, spec=spec, design=design, name=HOSTILE)

    network = dataclasses.replace(scoring.of_design(Design.load(MODELS / "toy" / "design.json")), name=HOSTILE)
    own = tuple(map(named, points))
    driver = shown(page(Front(own[0].spec, ("macs", "params"), own), [network]), 400)
    (other,) = driver.find_elements("css selector", "#networks td.name")
    assert driver.title == HOSTILE
    assert driver.execute_script("return document.querySelector('h1').textContent") == HOSTILE
    assert other.get_attribute("textContent") == HOSTILE
    assert driver.find_elements("tag name", "img") == []
    # Plotly takes some HTML in what it shows when the pointer is over a mark.
    hover = "return document.getElementById('front')._fullData.find(trace => trace.name === 'other networks').hovertext"
    assert driver.execute_script(hover)[0].startswith(html.escape(HOSTILE))
    assert own[-1].design is not None
    assert driver.find_element("id", "text").get_attribute("value") == own[-1].design.to_json()
    driver.find_element("id", "save-design").click()
    stem = driver.execute_script("return data.files[chosen].stem")
    assert not re.search(r"[^\w.-]", stem)
    assert saved(tmp_path / f"{stem}.json") == own[-1].design.to_json()
    for width in (400, 1280):
        resize(driver, width)
        assert driver.execute_script("return innerWidth") == width
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        # What scrolls in a box of its own may be as wide as it likes, the box may not. Plotly measures out of sight.
        outside = driver.execute_script(
            "const width = document.documentElement.clientWidth;"
            "return [...document.querySelectorAll('body *:not(#js-plotly-tester)')].filter("
            "part => !part.parentElement.closest('.wide, svg') && (box => box.width && (box.left < -0.5 || "
            "box.right > width + 0.5))(part.getBoundingClientRect())).map(part => part.outerHTML.slice(0, 80))"
        )
        assert outside == []
        cut = driver.execute_script(
            "return [...document.querySelectorAll('main *')].filter(part => part.scrollWidth > part.clientWidth + 1 && "
            "!part.closest('.wide, svg, .plot, [hidden]') && getComputedStyle(part).display !== 'inline')"
            ".map(part => part.outerHTML.slice(0, 80))"
        )
        assert cut == []
    quiet(driver)


def test_a_single_design_has_no_plot_and_its_own_spec(shown: Callable[..., Any], tmp_path: Path) -> None:
    # A board's design, on whose device much is limited; its spec.toml is no text that to_toml writes.
    folder = MODELS / "mcu-f412"
    design, spec = Design.load(folder / "design.json"), Spec.load(folder / "spec.toml")
    text = design_page(design, spec, [Price("macs", 1e-4, None, None), Price("params", 0.5, None, None)])
    assert len(text) < 100_000
    driver = shown(text, 400)
    assert driver.find_elements("css selector", "input, #front, #points, #parallel") == []
    expect_drawn(driver, design)
    driver.find_element("id", "save-spec").click()
    assert saved(tmp_path / "mcu-f412.toml") == (folder / "spec.toml").read_bytes().decode()
    costs = driver.execute_script(
        "return [...document.querySelectorAll('.bars:not(.levels) li')].map(row => [row.title, "
        "row.querySelector('.bar > *')?.getBoundingClientRect().width / row.querySelector('.bar')?.clientWidth])"
    )
    limits = {"MACs": (design.metrics.macs, spec.budget.macs), "bytes": (design.spent("flash"), spec.budget.flash)}
    for unit, (spent, limit) in limits.items():
        assert limit is not None
        (share,) = (share for title, share in costs if title == f"{spent:,} {unit} of {limit:,.0f} {unit}")
        assert share == pytest.approx(spent / limit, abs=0.01)
    # 1 % of the MACs; parameters have no limit of which one per cent could be worth something.
    cells = driver.execute_script(
        "return [...document.querySelectorAll('[aria-label=Prices] tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )
    assert spec.budget.macs is not None
    assert cells[0][:2] == ["MACs", f"{1e-4 * spec.budget.macs / 100:.4g}"]
    assert cells[1][1:] == ["\N{EN DASH}"] * 3
    shares = driver.execute_script(
        "return [...document.querySelectorAll('.levels .number')].map(part => part.innerText)"
    )
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=0.5)
    quiet(driver)


def test_a_spec_of_its_own_with_its_device_inside_is_that_of_its_design(tmp_path: Path) -> None:
    # Its times come from a device.toml beside it, which what a page saves does not have beside it.
    folder = MODELS / "r18-latency"
    stored = Design.load(folder / "design.json")
    spec = limited(Spec.load(folder / "spec.toml"), {"macs": 1e12})
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    design = Design.chosen(spec, stored.path)
    assert Spec.load(tmp_path / "spec.toml").sha256 == spec.sha256 == design.spec_sha256
    assert violations(Spec.load(tmp_path / "spec.toml"), design) == []
    assert spec.budget.macs == 1e12
    assert spec.budget.latency == Spec.load(folder / "spec.toml").budget.latency
    (data,) = re.findall(r'id="data">(.*?)</script>', design_page(design, spec))
    assert json.loads(data)["files"][0]["spec"] == spec.to_toml()
    (data,) = re.findall(r'id="data">(.*?)</script>', design_page(stored, Spec.load(folder / "spec.toml")))
    assert json.loads(data)["files"][0]["needs"] == "device.toml"


def test_the_command_writes_the_page_and_refuses_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["mad-ip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == (2 if printed.err else 0)
        return printed.err or printed.out

    design, out = MODELS / "toy" / "design.json", tmp_path / "out.html"
    assert run("show", design, "--html", out).endswith(f"{out}: written\n")
    text = out.read_text()
    assert "20 MMACs" in text
    assert '"spec": null' not in text
    assert run("show", design, "--html", tmp_path / "none" / "out.html") == (
        f"mad-ip: --html = {tmp_path / 'none' / 'out.html'}: its folder does not exist; an existing folder is needed\n"
    )
    assert "would take the place of another file" in run("show", design, "--html", design)
    assert "--device, --spec, --html and --explain are for a design.json" in run("show", TOY, "--html", out)
    # The budgets of a board in the place of the spec's, and a design.json beside which there is no spec.
    run("show", MODELS / "published" / "deepmad-r18.json", "--html", out, "--device", "stm32h743")
    assert re.search(r"1,028,608 bytes of 512,000 bytes", out.read_text())
    assert '"spec": null' in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_a_missing_extra_is_one_sentence(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else there(name))
    for needing in (require_page, lambda: page(front)):
        with pytest.raises(InputError, match=r"needs plotly, which is not installed; pip install 'mad-ip\[report\]'$"):
            needing()
    # A single design has no plot.
    assert front.points[1].design is not None
    assert "Plotly" not in design_page(front.points[1].design)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs jinja2, which is not installed"):
        design_page(front.points[1].design)
