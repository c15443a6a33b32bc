"""What the pages and plots of reports share: the extra ``report``, and how templates are rendered."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from mad_ip.errors import InputError

if TYPE_CHECKING:
    import jinja2

__all__ = ["environment", "require"]


def require(what: str, *packages: str) -> None:
    """Raise :class:`InputError` where a package that ``what`` needs, of the extra ``report``, is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{what} needs {name}, which is not installed; pip install 'mad-ip[report]'")


def environment(package: str = __package__) -> jinja2.Environment:
    """Templates beside the modules of a package: HTML and strings are escaped, and nothing may be undefined."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
