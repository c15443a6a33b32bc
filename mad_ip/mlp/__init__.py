"""Multilayer perceptrons: the paper's first theorem, solved exactly (docs/mlp.md)."""

from mad_ip.mlp.design import MlpDesign
from mad_ip.mlp.spec import MlpSpec

__all__ = ["MlpDesign", "MlpSpec"]
