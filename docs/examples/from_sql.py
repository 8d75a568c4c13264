"""From an application that has only SQL: INSERT a row, then ask for what changed after the highest number seen.

    DATABASE_URL=postgresql+psycopg://… python docs/examples/from_sql.py scan.png

Nothing of Nightowl is imported. Workers find the row within NIGHTOWL_SWEEP_SECONDS.
"""

import os
import sys
import time
import uuid
from pathlib import Path

from sqlalchemy import create_engine, text

INSERT = text("INSERT INTO jobs (id, kind, source, params) VALUES (:id, 'ocr', :source, '{\"output\": \"text\"}')")
CHANGES = text(
    "SELECT id, state, done, change_seq FROM job_progress WHERE change_seq > :cursor ORDER BY change_seq LIMIT 500"
)

engine = create_engine(os.environ["DATABASE_URL"])
with engine.begin() as connection:
    # An application that starts again would have kept the cursor in a table of its own.
    cursor = connection.execute(text("SELECT max(change_seq) FROM jobs")).scalar() or 0
    waiting = {str(uuid.uuid4()): Path(name).absolute() for name in sys.argv[1:]}
    connection.execute(INSERT, [{"id": id, "source": str(path)} for id, path in waiting.items()])

while waiting:
    with engine.connect() as connection:
        rows = connection.execute(CHANGES, {"cursor": cursor}).all()
    for row in rows:
        cursor = row.change_seq
        if row.id in waiting and row.state not in ("pending", "running"):
            print(f"{waiting.pop(row.id).name}: {row.state}")
    time.sleep(0.5)
