"""The Celery tasks: ids in, nothing out, safe to run twice. And the process around them: start, SIGTERM, end."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from celery import signals
from kombu.exceptions import ChannelError, OperationalError

from domain.errors import SETUP_EXIT, SetupError
from domain.kinds import Kind
from domain.messages import FINISH_JOB, PLAN_JOB, RUN_SLICE, SUBMIT
from domain.settings import Settings
from storage import attempts, jobs, migrations
from storage.artifacts import ArtifactStore
from storage.session import Database
from tasks.callbacks import Courier
from tasks.carry import plan_and_carry_on, run_and_carry_on
from tasks.context import Context, utc_now
from tasks.finish import finish_job
from tasks.heartbeat import Heartbeat
from tasks.plan import refuse_large_params
from tasks.sweep import Sweeper
from worker import logs, runtime
from worker.app import app

if TYPE_CHECKING:
    from collections.abc import Collection

logger = logging.getLogger(__name__)


class Service:
    """What lives as long as the worker process: the context, the heartbeat, the sweeper."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        migrations.require_current(self.database)
        self.runtime = runtime.build(settings)
        self.context = Context(
            settings=settings,
            database=self.database,
            artifacts=ArtifactStore(settings.artifacts),
            readers=self.runtime.readers,
            engine=self.runtime.engine,
            heartbeat=Heartbeat(
                self.database,
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
                clock=utc_now,
            ),
            ring=send,
            queued=count_queued,
            name=attempts.worker_name(os.getpid()),
        )
        self.sweeper = Sweeper(self.context)
        self.courier = Courier(self.context)

    def start(self) -> None:
        self.context.heartbeat.start()
        self.sweeper.start()
        self.courier.start()

    def shut_down(self) -> None:
        """SIGTERM: tell all work to stop; it gives its parts back. Leave by force if something does not listen."""
        self.context.heartbeat.shut_down()
        timer = threading.Timer(self.settings.grace_seconds, _leave)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        self.courier.close()
        self.sweeper.close()
        self.context.heartbeat.close()
        self.runtime.readers.close()
        self.database.close()


def _leave() -> None:
    logger.warning("work did not stop in time; its lease will run out", extra={"action": "forced_exit"})
    os._exit(0)


def send(task: str, *args: str | int, queue: str, priority: int) -> None:
    """The doorbell of a worker."""
    app.send_task(task, args=args, queue=queue, priority=priority, ignore_result=True, retry=False)


def count_queued(queues: Collection[str]) -> int:
    """How many messages lie in the queues. Raises OperationalError where the broker cannot be reached."""
    with app.pool.acquire(block=True) as connection:
        return count_messages(connection, queues)


def count_messages(connection: Any, queues: Collection[str]) -> int:
    """Those that nobody fetched: what a worker has fetched and not begun is not counted, since it may be dead."""
    try:
        return sum(_count(connection.default_channel, queue) for queue in queues)
    except connection.connection_errors as error:
        raise OperationalError(str(error)) from error


def _count(channel: Any, queue: str) -> int:
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except ChannelError:  # an empty one is not there
        return 0


_service: Service | None = None


def service() -> Service:
    if _service is None:
        raise SetupError("the worker has not started; Celery tasks run only inside it")
    return _service


@signals.worker_init.connect
def _start(**_: Any) -> None:
    global _service
    runtime.calm_openmp()  # again, for a worker that was started by Celery's own command
    settings = Settings()
    logs.configure(level=settings.log_level, format=settings.log_format)
    try:
        _service = Service(settings)
    except Exception as error:  # Celery would log what a signal's receiver raises, and start all the same
        is_setup = isinstance(error, SetupError)
        if not is_setup:
            logger.exception("the worker cannot start")
        logger.critical("%s", error)
        logging.shutdown()
        # After the first status nobody starts it again. A database that is away for a moment is no matter of set-up.
        os._exit(SETUP_EXIT if is_setup else 1)
    _service.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    if _service is not None:
        _service.shut_down()


@signals.worker_shutdown.connect
def _end(sender: Any, **_: Any) -> None:
    """Leave at once: everything is given back, and the interpreter would wait for the engine's threads.

    The status is Celery's own: 0 where it was asked to leave, another where it failed, so that it is started again.
    """
    if _service is not None:
        _service.close()
    logging.shutdown()
    os._exit(sender.exitcode or 0)


@app.task(name=PLAN_JOB)
def plan_task(job_id: str) -> None:
    with logs.about(job=job_id):
        plan_and_carry_on(service().context, job_id)


@app.task(name=RUN_SLICE)
def slice_task(job_id: str, slice: int) -> None:
    context = service().context
    if context.engine is None:
        raise SetupError("this worker serves no engine, but its queues include one for slices")
    with logs.about(job=job_id, slice=slice):
        run_and_carry_on(context, context.engine, job_id, slice)


@app.task(name=FINISH_JOB)
def finish_task(job_id: str) -> None:
    with logs.about(job=job_id):
        finish_job(service().context, job_id)


@app.task(name=SUBMIT)
def submit_task(
    job_id: str,
    kind: str,
    source: str | None = None,
    params: dict[str, Any] | None = None,
    priority: int = 0,
    callback: str | None = None,
) -> None:
    """For applications that have only Celery: `job_id` is theirs to choose and to poll; sent twice it is one job."""
    context = service().context
    values = {"kind": Kind(kind), "source": source, "params": params or {}, "priority": priority}
    values["callback"] = callback or context.settings.callback_url
    with logs.about(job=job_id):
        if refuse_large_params(context, job_id, values):
            return
        with context.database.write() as session:
            jobs.insert_once(session, job_id, values, now=context.clock())
        plan_and_carry_on(context, job_id)
