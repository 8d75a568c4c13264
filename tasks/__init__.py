"""What is to be done: one file per kind, the use cases (plan, run, finish, sweep), the Celery tasks."""
