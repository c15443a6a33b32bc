"""Errors a user can meet, each with the exit code that the command line gives it."""

from __future__ import annotations

__all__ = ["InputError", "InternalError", "MadIpError", "MadIpWarning"]


class MadIpError(Exception):
    """Base of every error that mad-ip raises on purpose; its text is one sentence for the user."""

    exit_code = 1


class InputError(MadIpError):
    """A file or an argument is wrong; the text names file, key, value and what is allowed."""

    exit_code = 2


class MadIpWarning(UserWarning):
    """Something went wrong that the result survives; its text is one sentence for the user."""


class InternalError(MadIpError):
    """A result contradicts its own recomputation; nothing may be written after it."""
