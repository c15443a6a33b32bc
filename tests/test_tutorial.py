"""The tutorial runs as it stands, and prints what it shows."""

from __future__ import annotations

from pathlib import Path

from documents import ROOT, copied, parted, run_blocks

BLOCKS = parted((ROOT / "docs" / "tutorial.md").read_text())


def test_every_block_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text"}
    outputs = run_blocks(BLOCKS, copied(tmp_path))
    compared = 0
    for (language, shown), printed in zip(BLOCKS[1:], outputs, strict=False):
        if language == "text":
            # HiGHS greets on standard output.
            lines = [line for line in printed[-1].splitlines() if not line.startswith(("Running HiGHS", "Includes "))]
            assert lines == shown.splitlines()
            compared += 1
    assert compared == sum(language == "python" for language, _ in BLOCKS)
    assert "Solving report" in (tmp_path / "highs.log").read_text()
