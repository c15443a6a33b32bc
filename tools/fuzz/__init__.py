"""Hostile input for the command line, and what must not come of it: ``python -m tools.fuzz`` (docs/reliability.md).

:mod:`tools.fuzz.material` makes files that are right, :mod:`tools.fuzz.cases` commands on files that are not,
:mod:`tools.fuzz.work` runs them in forks, :mod:`tools.fuzz.judge` says what was wrong, :mod:`tools.fuzz.shrink` makes
the input of a finding smaller.
"""
