"""Compiled functions as Python has them: what is patched inside of them counts then."""

from __future__ import annotations

from types import ModuleType

import pytest

from mad_ip.lagrangian import dual, kernels, packed, passes, simplex

__all__ = ["interpret"]

MODULES = kernels, packed, passes, simplex, dual


def interpret(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Run the functions of some of the modules by Python, of all by default, wherever they are called."""
    names = {module.__name__ for module in modules or MODULES}
    for module in MODULES:
        for name, function in list(vars(module).items()):
            if hasattr(function, "py_func") and function.py_func.__module__ in names:
                patch.setattr(module, name, function.py_func)
