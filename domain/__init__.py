"""The words of Nightowl as frozen values: states, jobs, parameters, errors, limits, retry, settings.

Imports none of the other packages, so every one of them may import this one.
"""
