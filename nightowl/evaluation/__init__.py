"""Evaluation as a feature: data sets through the queue, scores in SQL, reports to read.

It needs the extra `eval`; only the command `nightowl eval` imports these modules.
"""
