from __future__ import annotations

import io
import os
import threading
import time

from buildgraph.cli.writer import QUEUE_CHARACTERS, Writer


def test_text_arrives_in_order() -> None:
    stream = io.StringIO()
    writer = Writer(stream)
    for n in range(1000):
        writer.write(f"{n}\n")
    writer.close()
    writer.close()
    writer.write("too late")
    assert stream.getvalue() == "".join(f"{n}\n" for n in range(1000))


def test_a_closed_pipe_is_given_up_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        writer = Writer(stream)
        for _ in range(100):
            writer.write("x" * 1000)
        writer.close()
        assert writer.broken
        writer.write("nothing happens")


def test_a_full_disk_is_given_up_quietly() -> None:
    with open("/dev/full", "w") as stream:
        writer = Writer(stream)
        writer.write("x")
        writer.close()
        assert writer.broken


def test_a_reader_that_has_stopped_holds_nobody_up() -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "w") as stream:
        writer = Writer(stream)
        begun = time.monotonic()
        for _ in range(20_000):
            writer.write("x" * 1000 + "\n", essential=False)
        assert writer.pending <= QUEUE_CHARACTERS + 100_000
        writer.write("the end\n")
        assert time.monotonic() - begun < 30
        writer.close(patience=0.2)
        assert time.monotonic() - begun < 30


def test_a_slow_reader_gets_all_that_matters() -> None:
    read, write = os.pipe()
    got = bytearray()

    def slowly() -> None:
        while data := os.read(read, 4096):
            got.extend(data)
            time.sleep(0.002)

    reader = threading.Thread(target=slowly)
    reader.start()
    with open(write, "w") as stream:
        writer = Writer(stream)
        for n in range(500):
            writer.write(f"{n} {'x' * 1000}\n")
        writer.close(patience=1)
        assert not writer.broken
    reader.join()
    os.close(read)
    assert [int(line.split()[0]) for line in got.splitlines()] == list(range(500))


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    got = bytearray()

    def later() -> None:
        time.sleep(0.2)
        while data := os.read(read, 65536):
            got.extend(data)

    reader = threading.Thread(target=later)
    reader.start()
    with open(write, "w") as stream:
        writer = Writer(stream)
        writer.write("x" * 500_000)
        writer.close()
    reader.join()
    os.close(read)
    assert len(got) == 500_000


def test_what_the_encoding_lacks_is_shown() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    writer = Writer(stream)
    writer.write("é\n")
    writer.close()
    assert raw.getvalue() == b"\\xe9\n"
