"""How it is done: readers in child processes, engines, the Celery app, the process that wires them."""
