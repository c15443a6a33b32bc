"""Network: the torch module of a design, with timm's names for the forward pass."""

from __future__ import annotations

from torch import Tensor, nn

from mad_ip.blocks import FAMILIES
from mad_ip.design import Design
from mad_ip.networks.modules import Residual, chain, init_weights, total_stride

__all__ = ["Network"]


class Network(nn.Module):
    """The network of ``design``: ``stem``, ``stages``, ``tail``, global average pooling, ``head``.

    ``stages[t][n]`` is block n of stage t. A design without tail or head has an identity there. The stem takes the
    activation of the first stage's family, the tail that of the last stage's.

    Attributes:
        design: the design that the network was built from.
        num_classes: outputs of the head, 0 without one.
        num_features: channels that enter the head.
        feature_info: for the stem and each stage, what :meth:`features` returns: ``num_chs`` channels, ``reduction``
            (input size over its size) and ``module``, the name of the sub-module.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.num_classes = design.classes
        self.num_features = design.feature_channels
        families = [FAMILIES[stage.block] for stage in design.stages]
        blocks = list(design.stage_blocks())

        self.stem = chain(design.stem_layers(), families[0].activation)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Residual(layers, family) for layers in stage))
                for stage, family in zip(blocks, families, strict=True)
            )
        )
        self.tail = chain(design.tail_layers(), families[-1].activation)
        self.head: nn.Module = nn.Identity()
        for layer in design.head_layers():
            self.head = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias)

        reduction = total_stride(design.stem_layers())
        self.feature_info = [{"num_chs": design.stem.channels, "reduction": reduction, "module": "stem"}]
        for t, (choice, stage) in enumerate(zip(design.stages, blocks, strict=True)):
            reduction *= total_stride(layer for layers in stage for layer in layers)
            self.feature_info.append({"num_chs": choice.channels, "reduction": reduction, "module": f"stages.{t}"})
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise every weight anew, as :func:`mad_ip.networks.modules.init_weights` describes."""
        self.apply(init_weights)

    def features(self, x: Tensor) -> list[Tensor]:
        """The outputs of the stem and of every stage, described by ``feature_info``; the tail is no part of them.

        (B, image_channels, H, W) -> [(B, num_chs, ceil(H / reduction), ceil(W / reduction)), ...]
        """
        outputs: list[Tensor] = [self.stem(x)]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Stem, stages and tail: (B, image_channels, H, W) -> (B, num_features, h, w)."""
        y: Tensor = self.tail(self.stages(self.stem(x)))
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: (B, num_features, h, w) -> (B, num_classes).

        With ``pre_logits``, or when there is no head, the pooled features: (B, num_features).
        """
        pooled = x.mean((2, 3))
        if pre_logits:
            return pooled
        logits: Tensor = self.head(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, image_channels, H, W) -> (B, num_classes), or (B, num_features) without a head."""
        return self.forward_head(self.forward_features(x))
