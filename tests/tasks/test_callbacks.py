"""Callbacks: written with the end of the job, signed, tried again, given up, guarded; twice at most after a crash."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from domain.batches import BatchSpec, Found, Skipped
from domain.errors import SourceError
from domain.params import Copywrite
from domain.sources import check_callback
from domain.states import DeliveryState
from storage import batches, deliveries, tables
from storage import jobs as storage_jobs
from tasks.callbacks import DELIVERY, SIGNATURE, deliver, sign
from tests.tasks.conftest import StandInReaders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.tasks.conftest import MakeWorker, Worker

SECRET = "a key that both know"
BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
HERE: dict[str, Any] = {"callback_secret": SECRET, "callback_private_hosts": "127.0.0.1"}


@dataclass
class Receiver:
    """An application that is called. `answers` are the next statuses; then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [headers[DELIVERY] for headers, _ in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((dict(self.headers.items()), body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


def ended(worker: Worker, url: str) -> str:
    job_id = worker.submit(Copywrite(brief="a lamp"), callback=url)
    worker.cancel(job_id)
    return job_id


def send(worker: Worker) -> int:
    return deliver(worker.context, threading.Event())


def rows(worker: Worker) -> list[tables.Delivery]:
    with worker.context.database.read() as session:
        return list(session.scalars(select(tables.Delivery).order_by(tables.Delivery.created_at)))


@BOTH
def test_the_end_of_a_job_is_sent_once_and_signed(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders("text"), **HERE)
    job_id = worker.submit(Copywrite(brief="a lamp"), callback=receiver.url)
    assert send(worker) == 0, "nothing is due before the end"
    assert worker.drive(job_id).state == "succeeded"
    assert send(worker) == 1
    assert send(worker) == 0
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["job_id"], told["state"], told["type"], told["error"]) == (job_id, "succeeded", "job.ended", None)
    assert told["id"] == headers[DELIVERY]
    stamp, signature = (piece.partition("=")[2] for piece in headers[SIGNATURE].split(","))
    expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert signature == expected
    assert int(stamp) == int(worker.clock.now.timestamp())
    assert rows(worker)[0].state == DeliveryState.DELIVERED


def test_another_body_or_time_has_another_signature() -> None:
    assert len({sign("k", b"a", at=1), sign("k", b"b", at=1), sign("k", b"a", at=2), sign("l", b"a", at=1)}) == 4


def test_a_state_that_is_written_by_hand_is_told_too(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    worker.submit(Copywrite(brief="a lamp"), callback=receiver.url)
    with worker.context.database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'cancelled'"))
    assert send(worker) == 1
    assert json.loads(receiver.got[0][1])["state"] == "cancelled"


def test_an_end_that_is_rolled_back_is_not_told(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    worker.submit(Copywrite(brief="a lamp"), callback=receiver.url)
    with pytest.raises(RuntimeError), worker.context.database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'cancelled'"))
        raise RuntimeError
    assert rows(worker) == []


def test_a_receiver_that_fails_is_called_again_later_with_the_same_id(
    make_worker: MakeWorker, receiver: Receiver
) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    receiver.answers = [500, 302, 200]
    ended(worker, receiver.url)
    for wait_seconds in (0, 10, 20):
        worker.clock.pass_time(wait_seconds - 1)
        assert wait_seconds == 0 or send(worker) == 0, "too early"
        worker.clock.pass_time(1)
        assert send(worker) == 1
    assert len(set(receiver.ids)) == 1
    assert [row.state for row in rows(worker)] == ["delivered"]


def test_it_is_given_up_after_its_attempts(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), callback_attempts=3, **HERE)
    receiver.answers = [503] * 9
    ended(worker, receiver.url)
    sent = 0
    for _ in range(6):
        sent += send(worker)
        worker.clock.pass_time(3600)
    (row,) = rows(worker)
    assert (sent, row.state, row.attempts) == (3, "given_up", 3)
    assert "503" in str(row.error_message)


def test_a_receiver_that_is_gone_is_not_called_again(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    receiver.answers = [410]
    ended(worker, receiver.url)
    assert send(worker) == 1
    assert rows(worker)[0].state == "given_up"


@BOTH
def test_a_crash_between_sending_and_marking_sends_once_more_with_the_same_id(
    make_worker: MakeWorker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = make_worker(StandInReaders(), **HERE), make_worker(StandInReaders(), **HERE)
    ended(worker, receiver.url)
    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "settle", _dies)
        with pytest.raises(SystemExit):
            send(worker)
    assert send(other) == 0, "not before its time"
    other.clock.pass_time(11)
    assert send(other) == 1
    assert send(other) == 0
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def _dies(*_: Any, **__: Any) -> bool:
    raise SystemExit


@BOTH
def test_two_senders_at_once_send_each_once(make_worker: MakeWorker, receiver: Receiver) -> None:
    first, second = make_worker(StandInReaders(), **HERE), make_worker(StandInReaders(), **HERE)
    for _ in range(6):
        ended(first, receiver.url)
    threads = [threading.Thread(target=send, args=(worker,)) for worker in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.ids) == len(set(receiver.ids)) == 6


@pytest.mark.parametrize("setting", ["", "10.0.0.0/8"])
def test_a_private_address_is_refused_and_named(make_worker: MakeWorker, receiver: Receiver, setting: str) -> None:
    worker = make_worker(StandInReaders(), callback_secret=SECRET, callback_private_hosts=setting)
    ended(worker, receiver.url)
    ended(worker, "http://169.254.169.254/latest/meta-data")
    assert send(worker) == 2
    assert receiver.got == []
    assert {row.state for row in rows(worker)} == {"given_up"}
    assert all("NIGHTOWL_CALLBACK_PRIVATE_HOSTS" in str(row.error_message) for row in rows(worker))


def test_without_a_key_nothing_is_sent(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), callback_private_hosts="127.0.0.1")
    ended(worker, receiver.url)
    assert send(worker) == 0
    assert [row.attempts for row in rows(worker)] == [0]


@pytest.mark.parametrize("url", ["ftp://example.org/x", "https://user:pass@example.org/", "/etc/passwd", "file:///x"])
def test_what_is_no_web_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(SourceError):
        check_callback(url)


def submitted_batch(worker: Worker, url: str, *, each: bool = False) -> tuple[str, list[str]]:
    """A batch of two briefs and a member that was skipped, all submitted."""
    spec = BatchSpec(name="night", params=Copywrite(brief="a lamp"), callback=url, tells_each=each)
    entries: list[Found | Skipped] = [Skipped(path="x", code="c", message="m")]
    entries += [Found(path=f"{n}.txt", source=f"/{n}.txt") for n in (1, 2)]
    now = worker.clock.now
    with worker.context.database.write() as session:
        batch = batches.open_batch(session, spec, now=now)
        added = batches.add(session, batch, spec, entries, stored={}, now=now, ring=0)
        batches.close_submit(session, batch.id, now=now)
    return batch.id, list(added.jobs)


def over(worker: Worker) -> int:
    with worker.context.database.write() as session:
        return batches.close_over(session, now=worker.clock.now)


@BOTH
def test_the_end_of_a_batch_is_told_once_and_its_jobs_are_not(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    batch_id, jobs = submitted_batch(worker, receiver.url)
    for number, job_id in enumerate(jobs):
        assert over(worker) == 0, f"{number} of 2 jobs are over"
        worker.cancel(job_id)
    assert send(worker) == 0, "the sweep has not seen it yet"
    assert over(worker) == 1
    assert send(worker) == 1
    assert over(worker) == send(worker) == 0
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["id"], told["batch_id"]) == ("batch.ended", headers[DELIVERY], batch_id)
    assert (told["name"], told["states"], told["skipped"]) == ("night", {"cancelled": 2}, {"c": 1})
    assert told["finished_at"] is not None


def test_a_batch_that_is_opened_again_is_told_again(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    batch_id, jobs = submitted_batch(worker, receiver.url)
    for again in (False, True):
        if again:
            with worker.context.database.write() as session:
                storage_jobs.open_again(session, batch_id)
                assert batches.retry_some(session, batch_id, ended_before=worker.clock.now, limit=10) == 2
            assert over(worker) == 0
        for job_id in jobs:
            worker.cancel(job_id)
        assert over(worker) == 1
        assert send(worker) == 1
    assert len(set(receiver.ids)) == 2


def test_the_jobs_of_a_batch_are_told_where_that_is_asked_for(make_worker: MakeWorker, receiver: Receiver) -> None:
    worker = make_worker(StandInReaders(), **HERE)
    _, jobs = submitted_batch(worker, receiver.url, each=True)
    for job_id in jobs:
        worker.cancel(job_id)
    over(worker)
    assert send(worker) == 3
    told = [json.loads(body) for _, body in receiver.got]
    assert sorted(one["type"] for one in told) == ["batch.ended", "job.ended", "job.ended"]
    assert {one["job_id"] for one in told if one["type"] == "job.ended"} == set(jobs)
