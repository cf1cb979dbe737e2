"""The end of a command's output is found, however it is split into chunks."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.client.framing import FramedCommand, OutputComplete
from nodepool_k8s.errors import CommandError


class Output:
    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, data: bytes) -> None:
        self.data += data


async def feed(framed: FramedCommand, number: int, data: bytes, cuts: list[int]) -> None:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(places):
        await framed.sinks()[number](data[begin:end])


@given(st.binary(max_size=99), st.integers(0, 255), st.lists(st.integers(0, 200)))
async def test_output_before_the_mark_is_complete(
    data: bytes, status: int, cuts: list[int]
) -> None:
    out, err = Output(), Output()
    framed = FramedCommand(out, err)
    mark = framed.command([])[4].encode()
    tail = b"%s%d\n" % (mark, status)
    data += mark[: len(cuts)]  # The beginning of the mark may be output, too.
    await feed(framed, 0, data + tail + b"..", cuts)
    with pytest.raises(OutputComplete) as caught:
        await feed(framed, 1, tail, cuts)
    assert (caught.value.status, out.data, err.data) == (status, data, b"")


async def test_missing_marks_are_an_error_unless_killed() -> None:
    framed = FramedCommand(Output(), Output())
    with pytest.raises(CommandError, match="the end of the output is missing"):
        framed.ended(0)
    assert framed.ended(137) == 137


def test_the_shell_writes_the_status_and_exits_without_readers() -> None:
    framed = FramedCommand(Output(), Output())
    command = framed.command(["sh", "-c", "echo out; echo err >&2; kill -KILL $$"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        mark = command[4].encode()
        assert process.stdout.readline() + process.stdout.readline() == b"out\n" + mark + b"137\n"
        assert process.stderr.readline() == b"err\n"
        process.stdout.close()
        process.wait(20)
