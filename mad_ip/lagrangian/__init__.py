"""Upper bounds on the score of a spec by a Lagrangian dynamic program, with neither a catalogue nor a MILP solver.

``tables`` holds the coefficients of a spec's segments as polynomials in the inner width, ``box`` the parts of its
space, ``kernels`` the inner loops (``compiled``: for numba), ``program`` the dynamic program over one box, ``dual`` the
search for multipliers, ``tree`` branch and bound and its certificate (docs/verification.md sections 10 and 11).
"""
