"""mPLUG-Owl as a library of its own, which imports none of our other packages.

Its code comes with the engine `mplug-owl`; until then this package only keeps its place in the import rules.
"""
