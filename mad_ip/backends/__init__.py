"""Solver backends behind two small interfaces: a compiled model in, values out; or a spec in, paths out."""

from mad_ip.backends.base import Findings, Limits, Outcome, Problem, Progress, Search, Solver, compile_model
from mad_ip.backends.process import solve_apart
from mad_ip.backends.profile import Profile, load_backend

__all__ = [
    "Findings",
    "Limits",
    "Outcome",
    "Problem",
    "Profile",
    "Progress",
    "Search",
    "Solver",
    "compile_model",
    "load_backend",
    "solve_apart",
]
