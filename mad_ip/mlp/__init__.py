"""Multilayer perceptrons: the paper's first theorem, solved exactly (docs/mlp.md)."""

from mad_ip.mlp.design import MlpDesign, is_design
from mad_ip.mlp.spec import MlpSpec, is_spec

__all__ = ["MlpDesign", "MlpSpec", "is_design", "is_spec"]
