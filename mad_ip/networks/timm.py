"""Importing this module registers the zoo with timm.

Every design of images under ``models/`` becomes ``madip_<name>``, its hyphens as underscores, and ``madip`` takes any
design: ``timm.create_model("madip", design="design.json")``. Needs the extra ``timm``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import resource
from mad_ip.kinds import CNN, design_kind, require_cnn
from mad_ip.networks.network import Network, default_cfg

try:
    import timm
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ImportError:
    raise InputError("mad_ip.networks.timm needs timm, which is not installed; pip install 'mad-ip[timm]'") from None

__all__ = ["default_cfgs", "madip", "timm"]

default_cfgs: dict[str, Any] = {}
"""timm looks here for the configuration of a model that is registered."""


def madip(pretrained: bool = False, *, design: Design | Path | str, **options: Any) -> Any:
    """The network of ``design``, a :class:`Design` or the path of its design.json.

    ``options`` are those of :class:`Network` and of ``timm.models.build_model_with_cfg``, such as ``features_only``.
    Raises :class:`InputError` when the file holds no design of images but one of clips or of an MLP, and timm's own
    error for ``pretrained``: there are no weights to load but those that ``pretrained_cfg_overlay`` names.
    """
    if not isinstance(design, Design):
        require_cnn(design, "timm's models take images")
        design = Design.load(design)
    if design.frames is not None:
        raise InputError(f"{design.name}: takes clips of {design.frames} frames; timm's models take images")
    if options.get("pretrained_cfg") is None:
        options["pretrained_cfg"] = default_cfg(design)
    # One feature at the stem's resolution and one for every stage that halves it.
    resolutions = 1 + sum(stage.stride > 1 for stage in design.stages)
    variant = options.pop("variant", madip.__name__)
    return build_model_with_cfg(
        functools.partial(Network, design),
        variant,
        pretrained,
        feature_cfg={"flatten_sequential": True, "out_indices": tuple(range(resolutions))},
        **options,
    )


def _register(name: str, path: Path, design: Design) -> None:
    default_cfgs.update(generate_default_cfgs({name: default_cfg(design)}))
    create = functools.partial(madip, design=path, variant=name)
    # timm registers a function by its name and its module, and lists it among the module's own.
    vars(create).update(__name__=name, __module__=__name__)
    globals()[name] = register_model(create)


def _register_zoo() -> None:
    # One file tells where the zoo lies; what else lies there may change.
    toy = resource("models/toy/design.json")
    if toy is None:
        raise InputError("models/toy/design.json is missing from the installation, and with it the zoo")
    for path in sorted(toy.parent.parent.glob("*/design.json")):
        if design_kind(path) is CNN:
            design = Design.read(path)
            if design.frames is None:
                _register(f"{madip.__name__}_{path.parent.name.replace('-', '_')}", path.absolute(), design)


register_model(madip)
_register_zoo()
