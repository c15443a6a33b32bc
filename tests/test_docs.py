"""The pages of docs/: every code block runs or says why not, links lead somewhere, text shown is what is printed."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from pages import FENCED, ROOT, blocks, copied, run_mad_ip, run_page

from mad_ip.design import Design
from mad_ip.networks.training import Report
from mad_ip.reports.training import line

PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERY = [*(f"docs/{name}" for name in PAGES), "README.md", "models/README.md", "solvers/README.md", "solvers/report.md"]
RUN = ("sh", "python", "toml")
DIRECTIVES = ("{toctree}", "{eval-rst}")
"""What Sphinx reads and nobody runs."""
RUNNING = [name for name, text in PAGES.items() if any(block.kind in RUN for block in blocks(text))]


def prepare(page: str, folder: Path) -> None:
    """What the page takes for granted: files that its reader has from before."""
    toy = folder / "models" / "toy"
    if page == "export.md":
        dataclasses.replace(Design.load(toy / "design.json"), name="deepmad-r18").save(folder / "design.json")
        for form in ("safetensors", "python"):
            run_mad_ip(["mad-ip", "export", "design.json", "--format", form], folder)
        shutil.copy(folder / "design.safetensors", folder / "trained.safetensors")
    elif page == "scores.md":
        shutil.copy(toy / "design.json", folder)
        (folder / "net.py").write_text("from torchvision.models import resnet18 as make\n")
    elif page == "verification.md":
        shutil.copy(toy / "design.json", folder)
        shutil.copy(toy / "spec.toml", folder / "my.toml")
        shutil.copy(toy / "design.json", folder / "DESIGN")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("page", RUNNING)
def test_blocks_run_in_their_order(page: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    prepare(page, folder)
    run_page(PAGES[page], folder)


@pytest.mark.parametrize("page", EVERY)
def test_every_block_is_of_a_kind_that_is_tested(page: str) -> None:
    text = (ROOT / page).read_text()
    found = blocks(text)
    assert {block.kind for block in found} <= {*RUN, "text", "math", *DIRECTIVES}
    fences = re.findall(r"^ *```", text, flags=re.MULTILINE)
    within_lists = re.findall(r"^ +```math\n.*?^ +```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(fences) == 2 * (len(found) + len(within_lists))
    assert not re.search(r"^(    |\t)\S", FENCED.sub("", text), flags=re.MULTILINE), "an indented block has no kind"


@pytest.mark.parametrize("page", EVERY)
def test_what_does_not_run_says_why(page: str) -> None:
    text = (ROOT / page).read_text()
    markers = re.findall(r"not run:", text)
    reasons = [block.reason for block in blocks(text) if block.reason is not None]
    assert len(markers) == len(reasons), "a marker is not right above a block"
    for reason in reasons:
        assert len(reason.split()) >= 3
        for name in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / name).exists()


@pytest.mark.parametrize("page", EVERY)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    place = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", place.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = place.parent / path if path else place
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_line_of_a_training_is_what_is_printed() -> None:
    (shown,) = (block.content.strip() for block in blocks(PAGES["training.md"]) if block.kind == "text")
    assert shown == line(Report(3, 30, 1.2974, 0.6201, 812.4, 27 * 60 + 41))


def test_no_equation_breaks_lines_in_a_way_that_takes_no_number() -> None:
    """Sphinx puts an equation with a double backslash at the end of a line into an environment without tags."""
    for page, text in PAGES.items():
        for equation in re.findall(r"^ *```math\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE):
            assert not ("\\\\" in equation and "\\tag" in equation), page


def test_the_site_has_every_page() -> None:
    listed = [
        name for block in blocks(PAGES["index.md"]) if block.kind == "{toctree}"
        for name in block.content.splitlines() if name and not name.startswith(":")
    ]  # fmt: skip
    assert sorted([*listed, "index"]) == sorted(Path(name).stem for name in PAGES)
