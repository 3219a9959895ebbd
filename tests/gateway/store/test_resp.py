"""Whatever a server sends, a reply is read whole or the connection is gone."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store.resp import Address, RespConnection

VALUE = bytes(range(256)) * 40
GOOD = b"$%d\r\n%s\r\n" % (len(VALUE), VALUE)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes], RespConnection]]:
    """A connection to a server that says the given bytes whatever it is asked, and hangs up."""
    left: list[tuple[threading.Thread, RespConnection]] = []

    def start(reply: bytes, pieces: int = 1) -> RespConnection:
        path = tmp_path / f"s{len(left)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            link, _ = listener.accept()
            with link, listener:
                link.recv(65536)
                size = max(1, -(-len(reply) // pieces))
                for at in range(0, len(reply), size):
                    link.sendall(reply[at : at + size])
                link.shutdown(socket.SHUT_WR)
                while link.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        link = RespConnection(Address(path=str(path)), connect_s=10)
        left.append((thread, link))
        return link

    yield start
    for _, link in left:
        link.close()
    for thread, _ in left:
        thread.join()


def yes(at: int) -> bool:
    return True


def room(length: int = len(VALUE)) -> memoryview:
    return memoryview(bytearray(length))


@pytest.mark.parametrize("pieces", [1, 2, 97, 10_000])
def test_a_value_arrives_however_it_is_cut_up(
    answering: Callable[..., RespConnection], pieces: int
) -> None:
    link = answering(GOOD * 3, pieces)
    buffers = [room(), room(), room()]
    assert link.get_into([b"a", b"b", b"c"], buffers, good=yes, timeout_s=30) == 3
    assert {bytes(buffer) for buffer in buffers} == {VALUE}


@pytest.mark.parametrize("bad", [b"$-1\r\n", b"$3\r\nabc\r\n", b"-WRONGTYPE no\r\n", b"$0\r\n\r\n"])
def test_reading_ends_at_the_first_that_is_missing_and_leaves_nothing_behind(
    answering: Callable[..., RespConnection], bad: bytes
) -> None:
    """Of four, two are asked for ahead; the fifth reply is the next caller's own."""
    link = answering(GOOD + bad + b"$2\r\nab\r\n" + GOOD + GOOD)
    buffers = [room() for _ in range(4)]
    assert link.get_into([b"a", b"b", b"c", b"d"], buffers, good=yes, timeout_s=30) == 1
    assert link.get_into([b"e"], [buffers[3]], good=yes, timeout_s=30) == 1
    assert bytes(buffers[3]) == VALUE


def test_reading_ends_where_a_value_is_refused(answering: Callable[..., RespConnection]) -> None:
    link = answering(GOOD * 4)
    buffers = [room() for _ in range(3)]
    found = link.get_into([b"a", b"b", b"c"], buffers, good=lambda at: at < 1, timeout_s=30)
    assert found == 1
    assert link.get_into([b"d"], [buffers[2]], good=yes, timeout_s=30) == 1


@pytest.mark.parametrize(
    "reply",
    [b"", b"\r\n", b"+OK\r\n", b":3\r\n", b"*1\r\n$1\r\na\r\n", b"$abc\r\n", b"$10240\r\nabc",
     b"$-7\r\n", b"$99999999999999\r\n", b"$10240\r\n" + VALUE + b"xx", b"?" * 4000, b"\x00" * 50,
     b"%1\r\n", b"$" + b"9" * 5000 + b"\r\n"],
)  # fmt: skip
def test_what_redis_would_never_say_is_an_error_and_ends_the_connection(
    answering: Callable[..., RespConnection], reply: bytes
) -> None:
    link = answering(reply)
    with pytest.raises(StoreUnavailable):
        link.get_into([b"k"], [room()], good=yes, timeout_s=30)
    with pytest.raises(StoreUnavailable):
        link.get_into([b"k"], [room()], good=yes, timeout_s=30)


def test_mutated_replies_give_the_value_or_an_error_and_never_hang(
    answering: Callable[..., RespConnection],
) -> None:
    dice = random.Random(3)
    for _ in range(300):
        reply = bytearray(GOOD)
        for _ in range(dice.randrange(1, 4)):
            reply[dice.randrange(12)] = dice.randrange(256)
        link, buffer = answering(bytes(reply)), room()
        try:
            found = link.get_into([b"k"], [buffer], good=yes, timeout_s=30)
        except StoreUnavailable:
            continue
        assert found == 0 or bytes(buffer)[12:] == VALUE[12:]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h:7/3", Address("h", 7, database=3)),
        ("redis://u%40:p%2F@h", Address("h", username="u@", password="p/")),
        ("rediss://h/?ssl_ca_certs=/ca", Address("h", tls=True, ca_file="/ca")),
        ("unix:///run/r.sock?db=2", Address(path="/run/r.sock", database=2)),
    ],
)
def test_urls_are_read_as_redis_py_reads_them(url: str, address: Address) -> None:
    assert Address.parse(url) == address


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(ConfigError):
        Address.parse("http://h")


def test_a_wrong_password_is_told_at_once(redis_server: object) -> None:
    port = redis_server.port  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable):
        RespConnection(Address(port=port, username="nobody", password="x"), connect_s=10)
