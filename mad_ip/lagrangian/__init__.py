"""Upper bounds on the score of a spec by a Lagrangian dynamic program, with neither a catalogue nor a MILP solver.

``tables`` holds what a spec's segments cost and how wide they are, ``box`` the parts of its space, ``kernels`` the
compiled loops, ``program`` the dynamic program over one box, ``dual`` the search for multipliers, ``tree`` branch and
bound and its certificate (docs/verification.md sections 10 and 11), ``workers`` who examines boxes, ``annealing`` a
start, ``survivors`` what is left for a MILP solver (docs/decomposition.md).
"""
