"""Solver backends behind one small interface: a compiled model or a catalogue in, status, values and bound out."""

from mad_ip.backends.base import Backend, Limits, Outcome, Problem, Progress, compile_model
from mad_ip.backends.process import solve_apart
from mad_ip.backends.profile import Profile, load_backend

__all__ = [
    "Backend",
    "Limits",
    "Outcome",
    "Problem",
    "Profile",
    "Progress",
    "compile_model",
    "load_backend",
    "solve_apart",
]
