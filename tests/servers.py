"""Servers that speak with nobody: what listens at an address need not be what it should be."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

SILENT, DRIP, CLOSE, GARBAGE = "silent", "drip", "close", "garbage"
HANGING = (SILENT, DRIP)
"""Those that end nothing by themselves."""
BAD = (*HANGING, CLOSE, GARBAGE)
_DRIP = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 100_000
_EVERY_S = 0.05  # many bytes in each deadline of a test: each of them would set a timeout back


@contextlib.contextmanager
def bad_server(how: str) -> Iterator[int]:
    """Listen on 127.0.0.1 until the end of the block; yield the port.

    Args:
        how: ``silent``: takes every connection, reads, and never answers. ``drip``: answers with
            the beginning of an HTTP answer, byte by byte, and comes to no end. ``close``: closes
            every connection at once. ``garbage``: answers with what is of no protocol.
    """
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if how == GARBAGE:
                connection.recv(100)
                connection.sendall(b"\x00\xff nobody speaks so \r\n" * 9)
            elif how == DRIP:
                for byte in _DRIP:
                    connection.sendall(bytes([byte]))
                    if over.wait(_EVERY_S):
                        return
            elif how == SILENT:
                while not over.is_set():
                    if select.select([connection], [], [], _EVERY_S)[0] and not connection.recv(
                        65536
                    ):
                        return

    def accept(server: socket.socket) -> None:
        while not over.is_set():
            if select.select([server], [], [], _EVERY_S)[0]:
                threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=[server], daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        over.set()
        thread.join()
