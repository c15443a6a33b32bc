"""Network: the torch module of a design, with timm's names and conventions; timm itself is not needed."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mad_ip.blocks import KNOWN
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import finite
from mad_ip.networks.modules import Residual, chain, init_weights

__all__ = ["POOLS", "Network", "default_cfg"]

LARGEST = 1 << 30
"""Parameters: 4 GB."""

POOLS = ("avg", "max", "avgmax", "")
"""Global poolings: mean, maximum, the mean of both, none."""


class Network(nn.Module):
    """The network of ``design``: ``stem``, ``stages``, ``tail``, global pooling, ``head``.

    ``stages[t][n]`` is block n of stage t. A design without tail or head has an identity there. The stem takes the
    activation of the first stage's family, the tail that of the last stage's.

    Arguments:
        design: what to build.
        num_classes: outputs of the head, 0 for none; the design's own by default.
        in_chans: image channels; the design's own by default.
        global_pool: one of ``POOLS``; without pooling there can be no head.
        drop_rate: probability of dropout before the head, in training.
        drop_path_rate: probability that the last block's main path is dropped in training; it grows linearly from 0 at
            the first block, and a block without a shortcut keeps its path.

    Attributes:
        design: the design as built: with other classes or image channels than its own it is measured anew and carries
            no certificate.
        num_features: channels of :meth:`forward_features`, which enter the head; also called ``head_hidden_size``.
        feature_info: for every resolution, its last output, as :meth:`features` returns it: ``num_chs`` channels,
            ``reduction`` (input size over its size) and ``module``, the name of the sub-module. The tail is no part.
        pretrained_cfg: what ``mad_ip.networks.network.default_cfg`` gives for the design; also called ``default_cfg``.

    Raises :class:`InputError` when an argument is out of range.
    """

    def __init__(
        self,
        design: Design,
        num_classes: int | None = None,
        in_chans: int | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        classes = design.classes if num_classes is None else num_classes
        self.in_chans = design.image_channels if in_chans is None else in_chans
        _require("in_chans", self.in_chans, _whole(self.in_chans, 1), "an integer of at least 1")
        for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
            _require(name, rate, finite(rate) and 0 <= rate < 1, "a number of at least 0 and less than 1")
        _check_head(classes, global_pool)
        design = _adapted(design, self.in_chans, classes)
        if design.metrics.params > LARGEST:
            raise InputError(
                f"{design.name}: {design.metrics.params:,} parameters: must be at most {LARGEST:,} to build"
            )
        self.num_features = self.head_hidden_size = design.feature_channels
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.feature_info, self._levels = _feature_info(design)
        self.pretrained_cfg = self.default_cfg = default_cfg(design)

        families = [KNOWN[stage.block] for stage in design.stages]
        last = sum(stage.depth for stage in design.stages) - 1
        rates = (drop_path_rate * n / last if last else 0.0 for n in itertools.count())
        (stem,), *stages = design.blocks()
        (tail,) = stages.pop() if design.tail is not None else ((),)
        self.stem = chain(stem)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Residual(layers, family, next(rates)) for layers in stage))
                for stage, family in zip(stages, families, strict=True)
            )
        )
        self.tail = chain(tail)
        self.design = design
        self.global_pool = global_pool
        self.reset_classifier(classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise every weight anew, as :func:`mad_ip.networks.modules.init_weights` describes."""
        self.apply(init_weights)

    def get_classifier(self) -> nn.Module:
        """The head, an identity when there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head with fresh weights, on the network's device; the pooling stays unless one is given.

        Raises :class:`InputError` as the constructor does.
        """
        pool = self.global_pool if global_pool is None else global_pool
        _check_head(num_classes, pool)
        self.num_classes = num_classes
        self.global_pool = pool
        self.design = _adapted(self.design, self.in_chans, num_classes)
        weight = next(self.stem.parameters())
        self.head: nn.Module = nn.Identity()
        for layer in self.design.head_layers():
            self.head = nn.Linear(
                layer.in_channels, layer.out_channels, bias=layer.bias, device=weight.device, dtype=weight.dtype
            )
        self.head.apply(init_weights).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again: less memory, more time.

        Gradients stay the same. The running statistics of a batch are gathered at both passes, as everywhere in
        PyTorch.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters for timm's layer-wise learning rates: stem, blocks (``coarse``: stages), head.

        The tail goes with the last block.
        """
        block = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(block, None), (r"^tail", (_PREVIOUS_GROUP,))]}

    def no_weight_decay(self) -> set[str]:
        """Parameters exempt from weight decay beside those of one dimension: none."""
        return set()

    def features(self, x: Tensor) -> list[Tensor]:
        """The last output of every resolution, as ``feature_info`` describes them.

        (B, in_chans, H, W) -> [(B, num_chs, ceil(H / reduction), ceil(W / reduction)), ...]
        """
        outputs = list(self._outputs(x))
        return [outputs[level] for level in self._levels]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """:meth:`forward_features` and some of the :meth:`features`, or only those.

        Arguments:
            x: (B, in_chans, H, W).
            indices: into ``feature_info``; an integer takes the last ones, ``None`` all.
            norm: accepted for timm; every output is normalised already.
            stop_early: compute nothing after the last of ``indices``; the first result is then that output.
            output_fmt: ``"NCHW"``.
            intermediates_only: return the list alone.

        Raises :class:`InputError` for another index or format.
        """
        _require("output_fmt", output_fmt, output_fmt == "NCHW", "'NCHW'")
        total = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            count = total if indices is None else indices
            _require("indices", count, 0 < count <= total, f"from 1 to {total}")
            taken = list(range(total - count, total))
        else:
            for index in indices:
                _require("indices", index, -total <= index < total, f"from {-total} to {total - 1}")
            taken = sorted({index % total for index in indices})
        levels = [self._levels[index] for index in taken]
        outputs = list(itertools.islice(self._outputs(x), levels[-1] + 1 if stop_early else None))
        intermediates = [outputs[level] for level in levels]
        if intermediates_only:
            return intermediates
        return outputs[-1] if stop_early else self.tail(outputs[-1]), intermediates

    def forward_features(self, x: Tensor) -> Tensor:
        """Stem, stages and tail: (B, in_chans, H, W) -> (B, num_features, h, w)."""
        y: Tensor = self.stem(x)
        for stage in self.stages:
            # TorchScript cannot compile a checkpoint; it drops a branch, but no conditional expression.
            if self.grad_checkpointing and not is_scripting():  # noqa: SIM108
                y = _checkpointed(stage, y)
            else:
                y = stage(y)
        features: Tensor = self.tail(y)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, drop and classify: (B, num_features, h, w) -> (B, num_classes).

        With ``pre_logits``, or when there is no head, the pooled features: (B, num_features), or
        (B, num_features, h, w) without pooling.
        """
        pooled = _pooled(x, self.global_pool)
        if self.drop_rate > 0:
            pooled = functional.dropout(pooled, self.drop_rate, self.training)
        if pre_logits:
            return pooled
        logits: Tensor = self.head(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes), or what :meth:`forward_head` gives without a head."""
        return self.forward_head(self.forward_features(x))

    def _outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The outputs of the stem and of every stage."""
        y: Tensor = self.stem(x)
        yield y
        for stage in self.stages:
            y = _checkpointed(stage, y) if self.grad_checkpointing else stage(y)
            yield y


def default_cfg(design: Design) -> dict[str, Any]:
    """What timm's data and weight loaders ask of a model: the size and normalisation of images, the names of layers.

    Images are normalised by ImageNet's mean and standard deviation where they have three channels.
    """
    coloured = design.image_channels == 3
    return {
        "input_size": design.input_shape,
        "pool_size": (design.resolutions[-1], design.resolutions[-1]),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0.485, 0.456, 0.406) if coloured else (0.5,) * design.image_channels,
        "std": (0.229, 0.224, 0.225) if coloured else (0.5,) * design.image_channels,
        "num_classes": design.classes,
        "first_conv": "stem.0.conv",
        "classifier": "head",
    }


_PREVIOUS_GROUP = 99999
"""timm's sign for: no group of its own, but the one before."""


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"network: {name} = {value!r}: must be {allowed}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_head(num_classes: int, global_pool: str) -> None:
    _require("num_classes", num_classes, _whole(num_classes, 0), "an integer of at least 0")
    _require("global_pool", global_pool, global_pool in POOLS, "one of " + ", ".join(map(repr, POOLS)))
    _require("num_classes", num_classes, global_pool != "" or num_classes == 0, "0 where global_pool is ''")


def _adapted(design: Design, image_channels: int, classes: int) -> Design:
    """The design with other image channels and classes, measured anew; no solver certified that one."""
    if (design.image_channels, design.classes) == (image_channels, classes):
        return design
    changed = dataclasses.replace(
        design, image_channels=image_channels, classes=classes, certificate=None, verification=None, device=None
    )
    # The choices stay, and with them the penalty and the utility.
    return dataclasses.replace(changed, metrics=design.rescored(changed.measure(0.0)))


def _feature_info(design: Design) -> tuple[list[dict[str, Any]], list[int]]:
    """For the last output of every resolution, what it is and its place among the outputs of stem and stages."""
    strides = [stage.stride for stage in design.stages]
    outputs = [("stem.0", design.stem.channels)]
    outputs += [(f"stages.{t}", stage.channels) for t, stage in enumerate(design.stages)]
    reductions = itertools.accumulate([design.stem.stride, *strides], operator.mul)
    info, levels = [], []
    for level, ((module, channels), reduction) in enumerate(zip(outputs, reductions, strict=True)):
        if level == len(strides) or strides[level] > 1:
            info.append({"num_chs": channels, "reduction": reduction, "module": module})
            levels.append(level)
    return info, levels


def _checkpointed(stage: nn.Module, x: Tensor) -> Tensor:
    for block in stage.children():
        x = checkpoint(block, x, use_reentrant=False)
    return x


def _pooled(x: Tensor, global_pool: str) -> Tensor:
    """(B, C, ...) -> (B, C), without pooling ``x`` itself."""
    if global_pool == "":
        return x
    pixels = x.flatten(2)
    if global_pool == "avg":
        return pixels.mean(2)
    if global_pool == "max":
        return pixels.amax(2)
    return (pixels.mean(2) + pixels.amax(2)) / 2
