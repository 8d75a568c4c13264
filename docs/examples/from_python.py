"""From Python: submit, wait, read.

python docs/examples/from_python.py scan.png
"""

import sys

from nightowl import Client, Ocr

with Client() as client:
    cursor = client.last_change()
    jobs = [client.submit(Ocr(output="text"), path) for path in sys.argv[1:]]
    for job in jobs:
        ended = client.wait(job.id, timeout_seconds=300)
        print(f"{ended.name}: {ended.state}")
        print(ended.result.text if ended.result else ended.error)

    # Or ask for whatever changed, of any application, and keep the cursor for next time.
    for job in client.changes(cursor).jobs:
        print(f"{job.change_seq}: {job.name} is {job.state}")
