"""Log records: their context, their formats, and the redaction of secrets."""

import asyncio
import io
import json
import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from kazoo.protocol.serialization import Create, SetData, Transaction
from kazoo.protocol.states import ZnodeStat

from nodepool_k8s import logs

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ6dXVsLXdvcmtlciJ9.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"

log = logging.getLogger("nodepool_k8s.test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restores the process's logging at the end."""
    root, kazoo = logging.getLogger(), logging.getLogger("kazoo")
    before = logging.getLogRecordFactory(), list(root.handlers), root.level, kazoo.level
    yield
    logging.setLogRecordFactory(before[0])
    root.handlers[:] = before[1]
    root.setLevel(before[2])
    kazoo.setLevel(before[3])


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(logging.INFO, stream)
    return stream


async def about_a_node() -> None:
    logs.bind_log_context(request="200-0000000001", event_id="abc", node=None)
    await asyncio.create_task(about_more())


async def about_more() -> None:
    logs.bind_log_context(node="0000000007", label="pod")
    log.info("is %s", "ready")


def test_a_line_begins_with_its_tasks_context(written: io.StringIO) -> None:
    asyncio.run(about_a_node())
    log.info("is about nothing")
    about, nothing = written.getvalue().splitlines()
    assert about.endswith(
        "INFO nodepool_k8s.test: "
        "[e: abc] [node_request: 200-0000000001] [node: 0000000007] [label: pod] is ready"
    )
    assert nothing.endswith("INFO nodepool_k8s.test: is about nothing")


def test_a_format_may_use_the_context(written: io.StringIO) -> None:
    formatter = logging.Formatter("%(event_id)s|%(request)s|%(node)s|%(label)s|%(subject)s")
    logging.getLogger().handlers[0].setFormatter(formatter)
    asyncio.run(about_a_node())
    log.info("is about nothing")
    subject = "[e: abc] [node_request: 200-0000000001] [node: 0000000007] [label: pod] "
    assert written.getvalue().splitlines() == [
        f"abc|200-0000000001|0000000007|pod|{subject}",
        "||||",
    ]


def test_a_queue_handler_does_not_repeat_the_prefix(written: io.StringIO) -> None:
    target = logging.getLogger().handlers[0]
    passing: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger().handlers[:] = [logging.handlers.QueueHandler(passing)]
    asyncio.run(about_a_node())
    target.handle(passing.get())
    assert written.getvalue().count("[e: abc]") == 1
    assert written.getvalue().endswith("is ready\n")


def test_each_line_of_a_traceback_begins_like_the_first(written: io.StringIO) -> None:
    logs.bind_log_context()
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        log.exception("Failed")
    lines = written.getvalue().splitlines()
    assert len(lines) > 4
    assert all(" ERROR nodepool_k8s.test: " in line for line in lines)
    assert lines[-1].endswith("   two")


def test_the_json_formatter_writes_one_object_per_line() -> None:
    stream = io.StringIO()
    logs.configure(logging.INFO, stream, "json")
    asyncio.run(about_a_node())
    try:
        raise ValueError("one\ntwo \u2028")
    except ValueError:
        log.exception("Failed: %s", "ü")
    about, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    time = datetime.fromisoformat(about.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert about == {
        "level": "INFO",
        "logger": "nodepool_k8s.test",
        "message": "is ready",
        "event_id": "abc",
        "request": "200-0000000001",
        "node": "0000000007",
        "label": "pod",
    }
    assert set(failed) == {"time", "level", "logger", "message", "exception"}
    assert failed["message"] == "Failed: ü"
    assert failed["exception"].endswith("ValueError: one\ntwo \u2028")


def test_json_of_a_standard_record() -> None:
    record = logging.LogRecord("other", logging.INFO, "", 0, "says %s", ("this",), None)
    shown = json.loads(logs.JsonFormatter().format(record))
    assert (shown["message"], shown["logger"]) == ("says this", "other")


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        TOKEN[:40],  # Truncated, as by reprlib.
        "ZXlKaGJHY2lPaUpTVXpJMU5pSjkuZXlKemRXSWlPaUo2ZFhWc0xYZHZjbXRsY2lKOS5j",
        KEY,
        KEY.replace("\n", "\\n"),
        "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFb3c=",
        "Authorization: Bearer 0123456789abcdef0123",
    ],
)
def test_no_secret_is_written(style: str, secret: str) -> None:
    stream = io.StringIO()
    logs.configure(logging.DEBUG, stream, style)
    log.info("in an argument: %r, and on", {"token": secret})
    log.info("in the text: " + secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("in an error")
    text = stream.getvalue()
    assert text.count("(redacted)") == 3
    assert "and on" in text
    pieces = secret.replace("\\n", "\n").removeprefix("Authorization: Bearer ").split("\n")
    for piece in pieces:
        assert piece not in text


def test_ordinary_words_are_not_redacted(written: io.StringIO) -> None:
    for text in ("401 Unauthorized: Bearer authentication failed", "eyJ is how a token begins"):
        log.info(text)
    assert "redacted" not in written.getvalue()


def test_kazoos_packets_are_shown_without_data(written: io.StringIO) -> None:
    kazoo = logging.getLogger("kazoo.client")
    logs.enable_debug(["kazoo"])
    packet = Transaction([Create("/node", b"secret", [], 0), SetData("/other", b"secret", 3)])
    kazoo.debug("Sending request(xid=%s): %s", 3, packet)
    kazoo.debug("Received response(xid=%s): %r", 3, (b"secret", ZnodeStat(*range(11))))
    text = written.getvalue()
    assert "secret" not in text
    assert "Create(path='/node', data=<6 bytes>, acl=[], flags=0)" in text
    assert "Received response(xid=3): (<6 bytes>, ZnodeStat(czxid=0" in text


def test_kazoo_is_quiet_by_default(written: io.StringIO) -> None:
    logging.getLogger("kazoo.client").info("reconnects")
    assert not written.getvalue()


def test_debug_of_a_single_module() -> None:
    stream = io.StringIO()
    logs.configure(logging.INFO, stream)
    logs.enable_debug(["nodepool_k8s.test.one"])
    try:
        logging.getLogger("nodepool_k8s.test.one.below").debug("said")
        logging.getLogger("nodepool_k8s.test.other").debug("unsaid")
    finally:
        logging.getLogger("nodepool_k8s.test.one").setLevel(logging.NOTSET)
    assert "said" in stream.getvalue()
    assert "unsaid" not in stream.getvalue()


def test_logs_go_to_standard_error() -> None:
    logs.configure(logging.INFO)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
