"""A peer that speaks Noise XX by `dissononce`, and echoes: listens as the responder, or dials as the initiator.

Prints its static key and port, reads the port to dial, or nothing, and prints what the handshake told it.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

from dissononce.cipher.chachapoly import ChaChaPolyCipher
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.XX import XXHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState
from dissononce.processing.impl.handshakestate import HandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState

if TYPE_CHECKING:
    from dissononce.dh.keypair import KeyPair


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (part := sock.recv(size - len(data))):
            raise EOFError
        data += part
    return data


def receive(sock: socket.socket) -> bytes:
    return exactly(sock, int.from_bytes(exactly(sock, 2), "big"))


def send(sock: socket.socket, message: bytes) -> None:
    sock.sendall(len(message).to_bytes(2, "big") + message)


def echo(sock: socket.socket, keypair: KeyPair, *, initiator: bool) -> None:
    symmetric = SymmetricState(CipherState(ChaChaPolyCipher()), SHA256Hash())
    state = HandshakeState(symmetric, X25519DH())
    state.initialize(XXHandshakePattern(), initiator, b"", s=keypair)
    ciphers, ours = None, initiator
    while ciphers is None:
        buffer = bytearray()
        if ours:
            ciphers = state.write_message(b"", buffer)
            send(sock, bytes(buffer))
        else:
            ciphers = state.read_message(receive(sock), buffer)
        ours = not ours
    told = {"remote": state.rs.data.hex(), "hash": symmetric.get_handshake_hash().hex()}
    print(json.dumps(told), flush=True)
    sending, receiving = ciphers if initiator else reversed(ciphers)
    while True:
        try:
            message = receive(sock)
        except EOFError:
            return
        send(sock, sending.encrypt_with_ad(b"", receiving.decrypt_with_ad(b"", message)))


def main() -> None:
    keypair = X25519DH().generate_keypair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(json.dumps({"key": keypair.public.data.hex(), "port": server.getsockname()[1]}), flush=True)
        port = json.loads(sys.stdin.readline())
        sock = socket.create_connection(("127.0.0.1", port)) if port else server.accept()[0]
    with sock:
        echo(sock, keypair, initiator=bool(port))


main()
