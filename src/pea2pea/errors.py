"""What the library raises, and when.

    NodeError
    ├── NodeClosedError          the node has shut down, or is about to
    ├── SelfConnectionError      a node was told to connect to itself
    ├── AlreadyConnectedError    there is a connection to that address, or one is being set up
    ├── ConnectionLimitError     one of the limits in `Config` is reached; `.limit` names it
    ├── HandshakeError           the handshake failed; the cause is the exception that it raised
    │   └── HandshakeTimeoutError    ... or did not end in time (a `TimeoutError`, too)
    ├── NotConnectedError        there is no such connection (any more)
    ├── QueueFullError           the peer's outgoing queue is full
    └── DeliveryError            the connection ended before the message was written
    FrameError(ValueError)       a decoder's word for "the peer sent nonsense"

A dial that fails is a plain `ConnectionRefusedError`, `OSError` or `TimeoutError`; misuse is a `RuntimeError`,
`ValueError` or `TypeError`.
"""

from __future__ import annotations

__all__ = [
    "AlreadyConnectedError", "ConnectionLimitError", "DeliveryError", "FrameError", "HandshakeError",
    "HandshakeTimeoutError", "NodeClosedError", "NodeError", "NotConnectedError", "QueueFullError",
    "SelfConnectionError",
]  # fmt: skip

ONLY_BUGS = (NameError, AttributeError, ImportError, AssertionError, NotImplementedError)
"""What only a bug raises, whatever a peer sends: never taken for the peer's doing."""


class NodeError(Exception):
    """The base of all that a node refuses or fails to do."""


class NodeClosedError(NodeError):
    """The node has shut down, or is shutting down: it connects to nobody any more."""


class SelfConnectionError(NodeError):
    """The address to connect to is one of the node's own."""


class AlreadyConnectedError(NodeError):
    """There is a connection to that address already, or one is being set up."""


class ConnectionLimitError(NodeError):
    """A limit of the node's is reached."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit: str = limit
        """The field of `Config`: "max_connections", "max_inbound", "max_connections_per_ip" or "max_connecting"."""

    def __reduce__(self) -> tuple[type[ConnectionLimitError], tuple[str, str]]:
        return type(self), (str(self), self.limit)


class HandshakeError(NodeError):
    """The handshake failed; `__cause__` is the exception that `perform_handshake` raised."""


class HandshakeTimeoutError(HandshakeError, TimeoutError):
    """The handshake did not end within the timeout given to `enable_handshake`."""


class _AboutPeerError(NodeError):
    """An error about one peer."""

    def __init__(self, message: str, addr: tuple[str, int] | None = None) -> None:
        super().__init__(message)
        self.addr: tuple[str, int] | None = addr
        """The address of the peer that it is about."""


class NotConnectedError(_AboutPeerError):
    """There is no established connection to that peer, or it takes no more messages since it has ended."""


class QueueFullError(NodeError):
    """The outgoing queue of that peer is full: wait with `Outbox.send`, drop the message, or drop the peer."""


class DeliveryError(_AboutPeerError):
    """The connection ended before the message was handed to the operating system."""


class FrameError(ValueError):
    """The bytes a peer sent are no valid frame.

    Raised by decoders, and by streams that have frames of their own (encryption). It ends that peer's connection, and
    is counted in `Heuristics.decode_errors`.
    """
