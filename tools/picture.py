"""The README's picture, the table of the zoo's deepmad-r50 as SVG: ``python -m tools.picture``."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from mad_ip.design import Design
from mad_ip.files import write_atomically
from mad_ip.reports.table import design_table
from mad_ip.spec import Spec

__all__ = ["main"]

# Without the fonts that rich would have a browser fetch: the picture needs no network.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Write docs/deepmad-r50.svg under the working folder."""
    folder = Path("models/deepmad-r50")
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False)
    spec = Spec.load(folder / "spec.toml")
    console.print(design_table(Design.load(folder / "design.json"), spec.budget, spec))
    text = console.export_svg(title="mad-ip solve models/deepmad-r50/spec.toml", code_format=_FORMAT, unique_id="r50")
    write_atomically("docs/deepmad-r50.svg", text.encode())


if __name__ == "__main__":
    main()
