"""From asyncio: the same client; any number of waits at a time.

python docs/examples/from_asyncio.py scan.png
"""

import asyncio
import sys

from nightowl import AsyncClient, Ocr


async def main() -> None:
    async with AsyncClient() as client:
        jobs = [await client.submit(Ocr(output="text"), path) for path in sys.argv[1:]]
        for ended in await asyncio.gather(*(client.wait(job.id, timeout_seconds=300) for job in jobs)):
            print(f"{ended.name}: {ended.state}")
            print(ended.result.text if ended.result else ended.error)


asyncio.run(main())
