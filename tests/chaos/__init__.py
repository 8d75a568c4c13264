"""The promise under fire: real processes, real signals, a real Redis, a real PostgreSQL, seeded and replayable.

    faults.py     the fault matrix: what goes wrong, a sentence each
    schedule.py   from a seed to what happens when: a pure function
    cases.py      the jobs of a run; oracle.py says what each must give back
    site.py       the processes; witness.py, the triggers that note each claim, store and end in the database itself
    run.py        one run: submit while faults happen, let them stop, wait, judge (verdict.py)
    soak.py       a mixed load for a set time, and what must not grow
    worker.py     the worker of the runs: the real one behind the seams of seams.py

docs/reliability.md says what is promised, and what came out.
"""
