"""The site that ``make docs`` builds: the pages of this folder, the modules' docstrings, the commands' help."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

import mad_ip
from mad_ip import device, spec, utility

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "mad-ip"
release = mad_ip.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
templates_path = ["_templates"]

# The Markdown that the repository's web page shows, too: mathematics in dollars and in fences, links to headings.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

autodoc_default_options = {"no-value": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
# Other projects' names, which no inventory is fetched for, and our own that stand in signatures only.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|numpy|pandas|pathlib|rich|scipy|torch|typing)\..*|nn\..*|csc_array|Terms"),
    ("py:class", r"mad_ip\.(formulation\.Formulation|keys\.Key|reader\.Reader|spec\._Level)"),
]


class Plain:
    """``typing.Annotated`` as signatures show it: the type, without what a reader of files needs to know of it."""

    def __class_getitem__(cls, items: tuple[Any, ...]) -> Any:
        return items[0]


for module in (device, spec, utility):
    vars(module)["Annotated"] = Plain


def add_commands(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the help of every command, without its own title, at the end of commands.md."""
    if page == "commands":
        command = [sys.executable, "-m", "typer", "mad_ip.cli", "utils", "docs", "--name", "mad-ip"]
        written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        source[0] += written.partition("\n")[2]


def find_elsewhere(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve what a docstring names without its module, or by the module that defines and not the one that exports."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    objects = environment.domains["py"].objects
    places = [full for full in objects if full.rpartition(".")[2] == name]
    if len(places) != 1:
        return None
    entry = objects[places[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, places[0])


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("source-read", add_commands)
    app.connect("missing-reference", find_elsewhere)
