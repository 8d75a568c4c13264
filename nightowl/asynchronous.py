"""The client for asyncio: the same calls, each in a thread of a small pool. A wait holds no thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from domain.errors import SetupError
from nightowl.client import LAST_LOOK_SECONDS, Client, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from domain.batches import BatchSummary
    from domain.jobs import Job
    from domain.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """A call of the client that does not block the loop."""

    @wraps(method)
    async def call(self: AsyncClient, /, *arguments: P.args, **options: P.kwargs) -> T:
        return await self._run(partial(method, self.client, *arguments, **options))

    return call


class AsyncClient:
    """`async with AsyncClient() as client: job = await client.submit(Ocr(), path)`. Each call as `Client` has it.

    `threads` bounds the calls that are under way at a time; others wait for their turn.
    """

    def __init__(self, settings: Settings | None = None, *, threads: int = 8) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="nightowl-client")
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            raise SetupError("the client is not open: use it as `async with AsyncClient() as client`")
        return self._client

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def __aenter__(self) -> Self:
        self._client = await self._run(partial(Client, self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends when the calls under way have: also those of waits that were cancelled hold a connection."""
        client, self._client = self._client, None
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        if client is not None:
            await asyncio.to_thread(client.close)

    async def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """As `Client.wait`; any number of them at a time."""
        ended, pace, loop = asyncio.Event(), Pace(job_id, timeout_seconds), asyncio.get_running_loop()
        listener = self.client.listener
        with listener.on(job_id, lambda: _set(loop, ended)):
            while not (job := await self.get(job_id)).state.is_final:
                await _wait(ended, pace.pause(job, told=listener.hears))
                ended.clear()
        return job

    async def wait_batch(
        self,
        name_or_id: str,
        *,
        timeout_seconds: float | None = None,
        seen: Callable[[BatchSummary], None] | None = None,
    ) -> BatchSummary:
        """As `Client.wait_batch`; any number of them at a time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not (found := await self.batch(name_or_id)).is_over:
                    if seen:
                        seen(found)
                    await asyncio.sleep(LAST_LOOK_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"batch {name_or_id} is not over after {timeout_seconds} s") from error
        if seen:
            seen(found)
        return found

    submit = _in_thread(Client.submit)
    get = _in_thread(Client.get)
    find = _in_thread(Client.find)
    changes = _in_thread(Client.changes)
    recent = _in_thread(Client.recent)
    counts = _in_thread(Client.counts)
    parts = _in_thread(Client.parts)
    cancel = _in_thread(Client.cancel)
    retry = _in_thread(Client.retry)
    last_change = _in_thread(Client.last_change)
    standing = _in_thread(Client.standing)
    workers = _in_thread(Client.workers)
    batch_id = _in_thread(Client.batch_id)
    submit_batch = _in_thread(Client.submit_batch)
    batch = _in_thread(Client.batch)
    batches = _in_thread(Client.batches)
    members = _in_thread(Client.members)
    cancel_batch = _in_thread(Client.cancel_batch)
    retry_batch = _in_thread(Client.retry_batch)
    artifacts = _in_thread(Client.artifacts)
    read = _in_thread(Client.read)
    save = _in_thread(Client.save)


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
