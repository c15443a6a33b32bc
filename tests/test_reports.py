"""Tables in narrow terminals, where every number stays whole, and hints, which wider domains and budgets confirm."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from mad_ip import catalogue, scoring
from mad_ip.design import Certificate, Design, StageChoice, StemChoice
from mad_ip.mlp import MlpSpec
from mad_ip.mlp import optimum as mlp_optimum
from mad_ip.reports import mlp
from mad_ip.reports.hints import PROXY, hints, mlp_hints
from mad_ip.reports.layout import grid
from mad_ip.reports.scores import scores_table
from mad_ip.reports.table import design_table, ranking_table, space_table
from mad_ip.solve import solve
from mad_ip.spec import Budget, Choice, Spec

ROOT = Path(__file__).parent.parent
ZOO = sorted(path.parent.name for path in ROOT.glob("models/*/spec.toml"))
OTHERS = sorted({*ROOT.glob("models/published/*.json"), *ROOT.glob("models/mcunet/*.json")})
TOY = Spec.load(ROOT / "models/toy/spec.toml")
EDGE = 80


def printed(content: RenderableType, width: int = EDGE) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(content)
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines


def column(lines: list[str], header: str) -> list[str]:
    """The cells of a column, which end where its header does, down to the next empty line."""
    tops = (number for number, line in enumerate(lines) if line.strip("─ ") == "" and "─" in line)
    top = next(number - 1 for number in tops if f"  {header}  " in f"  {lines[number - 1]}  ")
    end = f"  {lines[top]}  ".index(f"  {header}  ") + len(header)
    rows = itertools.takewhile(str.strip, lines[top + 2 :])
    return [line[:end].split("  ")[-1].strip() for line in rows]


# Eighty columns -------------------------------------------------------------------------------------------------------


def whole(design: Design, lines: list[str]) -> None:
    """Every figure is there: what every part costs to the last unit or in millions, and exact totals."""
    text = "\n".join(lines)
    assert "…" not in text
    for value in (design.metrics.macs, design.metrics.params):
        assert re.search(rf"(^| ){value:,}( |$)", text, flags=re.MULTILINE)
    exact = " M MACs " not in text
    for header, total in (("MACs", design.metrics.macs), ("params", design.metrics.params)):
        cells = column(lines, header if exact else f"M {header}")
        assert len(cells) == len(design.segments) + (design.classes > 0)
        figures = [float(cell.replace(",", "").replace("<0.001", "0")) for cell in cells]
        if exact:
            assert sum(figures) == total
        else:
            assert sum(figures) == pytest.approx(total / 1e6, abs=0.001 * len(cells))
    for key in ("channels", "kernel", "depth", "mid"):
        for stage in design.stages:
            assert re.search(rf"\b{getattr(stage, key)}\b", text)


@pytest.mark.parametrize("name", ZOO)
def test_no_number_of_the_zoo_is_cut(name: str) -> None:
    folder = ROOT / "models" / name
    design, spec = Design.load(folder / "design.json"), Spec.load(folder / "spec.toml")
    whole(design, printed(design_table(design, spec.budget, spec)))
    lines = printed(ranking_table([design] * 3, spec))
    whole(design, lines)
    assert column(lines, "score") == [f"{design.metrics.score:,.4f}"] * 3
    assert [[int(c) for c in cell.split(", ")] for cell in column(lines, "depths")] == [
        [stage.depth for stage in design.stages]
    ] * 3
    space = "\n".join(printed(space_table(spec, None)))
    assert "…" not in space
    for stage in spec.stages:
        assert f"{stage.channels[0]}..{stage.channels[-1]}" in space


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_no_number_of_published_designs_is_cut(path: Path) -> None:
    design = Design.load(path)
    whole(design, printed(design_table(design)))


def giant(*widths: int) -> Design:
    """Long clips, two families, stages of these channels."""
    stages = [
        StageChoice(block, 2, width, width, 5, 12, 1.0, 3, 1)
        for block, width in zip(("bottleneck", "inverted_se", "inverted_se"), widths, strict=True)
    ]
    return Design.create(
        name="giant", spec_sha256="", convention="paper", resolution=160, image_channels=3, frames=16, tail=None,
        stem=StemChoice(3, 2, 64, 1.0, 3, 1), stages=tuple(stages), classes=21_843,
    )  # fmt: skip


def test_no_number_of_large_networks_is_cut() -> None:
    design = giant(16, 128, 256)
    assert design.metrics.macs > 10**10
    lines = printed(design_table(design))
    whole(design, lines)
    assert lines[0].strip() == "giant (paper, bottleneck, inverted_se, inverted_se)"


def digits(lines: list[str]) -> str:
    return "".join(sorted("".join(re.findall(r"\d", "".join(lines)))))


def test_a_number_is_folded_where_nothing_else_helps() -> None:
    design = giant(16_384, 16_384, 16_384)
    assert design.metrics.macs > 10**14
    for width in (60, EDGE):
        text = "".join(printed(design_table(design), width))
        assert "…" not in text
    table = grid("a title", texts=("part",), numbers=("MACs", "params"))
    for value in (123_456_789, 987_654_321):
        table.add_row("a bottleneck", f"{value:,}", f"{value // 7:,}")
    assert digits(printed(table, 24)) == digits(printed(table, 200))
    assert column(printed(table, 40), "MACs") == ["123,456,789", "987,654,321"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_wide_terminal_has_every_unit(width: int) -> None:
    folder = ROOT / "models" / "deepmad-r50"
    lines = printed(design_table(Design.load(folder / "design.json")), width)
    assert (column(lines, "MACs" if width > 80 else "M MACs")[1]) == ("595,689,472" if width > 80 else "595.689")


def test_a_listed_space_fits() -> None:
    lines = printed(space_table(TOY, catalogue.build(TOY)))
    counts = column(lines, "options")
    assert sum(map(int, counts)) == len(catalogue.build(TOY))


def test_several_scores_are_one_table() -> None:
    designs = [Design.load(ROOT / "models" / name / "design.json") for name in ("deepmad-r50", "e3d-s", "toy")]
    measured = [scoring.of_design(design) for design in designs]
    lines = printed(scores_table(measured))
    assert not any("…" in line for line in lines)
    assert [cell for cell in column(lines, "MACs") if cell] == [f"{design.metrics.macs:,}" for design in designs]
    for design in designs:
        assert any(f"{design.metrics.entropy:,.2f}" in line for line in lines)
    # A name may be folded, a number not.
    long = printed(scores_table([dataclasses.replace(score, name="net.py:" + 60 * "x") for score in measured]))
    assert [cell for cell in column(long, "MACs") if cell] == [f"{design.metrics.macs:,}" for design in designs]
    # Of one resolution and convention the title says it, else the name.
    assert "toy (paper, 32 pixels)" in "\n".join(printed(scores_table(measured), 120))
    assert printed(scores_table(measured[:1] * 2))[0].strip() == "2 networks (paper, 224 pixels)"


# Hints ----------------------------------------------------------------------------------------------------------------


def optimum(spec: Spec) -> Design:
    design = solve(spec)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    return design


def changed(stage: int, spec: Spec = TOY, **domains: tuple[int, ...]) -> Spec:
    """The spec with other domains of a stage, by its number."""
    stages = list(spec.stages)
    stages[stage - 1] = dataclasses.replace(stages[stage - 1], **domains)
    return dataclasses.replace(spec, stages=tuple(stages), sha256="")


def said(design: Design, spec: Spec) -> str:
    return "\n".join(hints(design, spec))


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("stage", "axis", "domain"),
    [(3, "channels", (64, 128)), (3, "depth", (1, 2, 3)), (2, "kernel", (1, 3)), (1, "mid", (4, 5))],
)
def test_a_domain_that_ends_too_early_is_named(stage: int, axis: str, domain: tuple[int, ...]) -> None:
    """Without what the toy's optimum takes, the best is worse, and the hint says where more is wanted."""
    whole = optimum(TOY)
    assert getattr(whole.stages[stage - 1], axis) > domain[-1]
    narrow = changed(stage, **{axis: domain})
    best = optimum(narrow)
    assert best.metrics.score < whole.metrics.score
    (sentence,) = (line for line in hints(best, narrow) if line.startswith("the largest"))
    assert re.search(rf"{axis} {domain[-1]} of stages? [^;]*\b{stage}\b", sentence)


@pytest.mark.usefixtures("in_this_process")
def test_what_leaves_a_budget_unused_is_what_sets_it_free() -> None:
    before = optimum(TOY)
    unused = 1 - before.metrics.macs / 20e6
    (sentence,) = (line for line in hints(before, TOY) if "unused" in line)
    assert sentence.startswith(
        f"{unused:.1%} of macs is left unused: params is at 99.6% of its limit, effectiveness is"
    )
    freer = dataclasses.replace(TOY, budget=Budget(macs=20e6, params=200e3, effectiveness=0.6), sha256="")
    after = optimum(freer)
    assert after.metrics.macs > before.metrics.macs
    # With nothing else in the way, the domains are: all are used up.
    plenty = dataclasses.replace(TOY, budget=Budget(macs=2e9), sha256="")
    free = optimum(plenty)
    (sentence,) = (line for line in hints(free, plenty) if "unused" in line)
    assert re.search(r"of macs is left unused: domains end for .*depth", sentence)
    assert "limit" not in sentence


def test_peak_memory_binds_but_is_not_to_be_used_up() -> None:
    folder = ROOT / "models" / "mcu-f412"
    design, spec = Design.load(folder / "design.json"), Spec.load(folder / "spec.toml")
    assert "unused" not in said(design, spec)
    for key in ("macs", "activation"):
        more = dataclasses.replace(spec, budget=Budget(**dict(spec.budget.limits) | {key: 1e9}), hashed=("", ""))
        assert [line.split()[2] for line in hints(design, more) if "unused" in line] == ["macs"] * (key == "macs")
    assert "activation is at 100.0% of its limit, flash is at 99.8% of its limit, domains end" in said(
        design, dataclasses.replace(spec, budget=Budget(**dict(spec.budget.limits) | {"macs": 1e9}), hashed=("", ""))
    )


def chosen(spec: Spec, *stages: tuple[int, int, int, int]) -> Design:
    """A path of the toy as if it were proven."""
    design = Design.chosen(spec, (Choice(16, 1, 1, 1), *map(Choice._make, stages)))
    certificate = Certificate("highs", "1", "optimal", design.metrics.score, 0.0, 1.0, 1, 1)
    return dataclasses.replace(design, certificate=certificate)


INSIDE = ((32, 8, 3, 2), (64, 16, 3, 2), (128, 16, 3, 2))
"""Nothing at the end of its domain but the least inner widths, and kernels, which are as small as they may be."""


def test_a_step_that_is_not_possible_is_no_hint() -> None:
    # Kernels end with the feature map.
    wide = changed(3, kernel=(3, 7))
    assert "kernel 7" not in said(chosen(wide, *INSIDE[:2], (128, 16, 7, 2)), wide)
    assert "kernel 5 of stage 3" in said(chosen(TOY, *INSIDE[:2], (128, 16, 5, 2)), TOY)
    free = dataclasses.replace(TOY, budget=Budget(), sha256="")
    assert hints(chosen(free, *INSIDE), free) == []
    # Inner widths of 16 and 24 would go on with 8.
    lower = changed(3, free, mid=(16, 24))
    assert hints(chosen(lower, *INSIDE), lower) == [
        "the smallest that the spec allows: mid 16 of stage 3 (a wider domain may give more)"
    ]
    # The rules of the space forbid the next step: inner widths above a quarter, channels more than twofold.
    quarter = dataclasses.replace(free, space=dataclasses.replace(free.space, mid_ratio=(0.0, 0.25)), sha256="")
    assert "mid" in said(chosen(free, INSIDE[0], (64, 32, 3, 2), INSIDE[2]), free)
    assert said(chosen(quarter, INSIDE[0], (96, 16, 3, 2), INSIDE[2]), quarter).count("mid") == 0
    assert "channels 192" in said(chosen(free, *INSIDE[:2], (192, 16, 3, 2)), free)
    twofold = dataclasses.replace(free, space=dataclasses.replace(free.space, growth=3.0), sha256="")
    assert "channels" not in said(chosen(twofold, *INSIDE[:2], (192, 16, 3, 2)), twofold)


def test_only_a_proven_optimum_of_the_very_spec_has_hints() -> None:
    design = Design.load(ROOT / "models/toy/design.json")
    assert hints(design, TOY)
    assert design.certificate is not None
    feasible = dataclasses.replace(design.certificate, status="feasible")
    for other in (
        dataclasses.replace(design, certificate=None),
        dataclasses.replace(design, certificate=feasible),
        dataclasses.replace(design, spec_sha256="0"),
    ):
        assert hints(other, TOY) == []


def test_a_certificate_says_of_what_it_is_one() -> None:
    design = Design.load(ROOT / "models/toy/design.json")
    lines = printed(design_table(design, TOY.budget, TOY))
    assert lines.count(PROXY) == 1
    assert lines[lines.index(PROXY) + 1].startswith("hint: ")
    assert PROXY.endswith("docs/evidence.md")
    assert (ROOT / "docs" / "evidence.md").exists()
    assert PROXY not in printed(design_table(dataclasses.replace(design, certificate=None)))


def test_perceptrons_have_hints_too() -> None:
    spec = MlpSpec.load(ROOT / "examples" / "mlp.toml")
    design = mlp_optimum.solve(spec)
    assert mlp_hints(design, spec) == [
        "the largest that the spec allows: widths 1024 (a wider domain may give more)"
    ] * (1024 in design.widths)
    few = dataclasses.replace(spec, space=dataclasses.replace(spec.space, depth=(1, 2)), sha256="few")
    small = mlp_optimum.solve(few)
    text = "\n".join(printed(mlp.design_table(small, few.budget, few), 200))
    assert "hint: the largest that the spec allows: depth 2" in text
    assert f"hint: {1 - small.metrics.params / 1e6:.1%} of params is left unused: " in text
