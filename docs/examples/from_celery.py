"""From an application that has only Celery: send `nightowl.submit` by name, then poll the row.

    NIGHTOWL_BROKER_URL=redis://… DATABASE_URL=postgresql+psycopg://… python docs/examples/from_celery.py scan.png

Nothing of Nightowl is imported. The id is yours to choose: a message that is sent twice is one job.
"""

import os
import sys
import time
import uuid
from pathlib import Path

from celery import Celery
from sqlalchemy import create_engine, text

PROGRESS = text("SELECT state, done FROM job_progress WHERE id = :id")
PARTS = text("SELECT page, text FROM part_texts WHERE job_id = :id ORDER BY number")

app = Celery("my-application", broker=os.environ["NIGHTOWL_BROKER_URL"])
engine = create_engine(os.environ["DATABASE_URL"])

job_id = str(uuid.uuid4())
app.send_task(
    "nightowl.submit",
    kwargs={"job_id": job_id, "kind": "ocr", "source": str(Path(sys.argv[1]).absolute()), "params": {"output": "text"}},
    queue="cpu",
    ignore_result=True,
)

row = None
while row is None or row.state in ("pending", "running"):
    time.sleep(0.5)
    with engine.connect() as connection:
        # None until a worker has taken the message.
        row = connection.execute(PROGRESS, {"id": job_id}).one_or_none()

with engine.connect() as connection:
    for part in connection.execute(PARTS, {"id": job_id}):
        print(f"--- page {part.page}\n{part.text}")
print(row.state)
