from dissononce.dh.keypair import KeyPair
from dissononce.dh.public import PublicKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.processing.handshakepatterns.interactive.XX import XXHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState
from dissononce.processing.impl.symmetricstate import SymmetricState

class HandshakeState:
    def __init__(self, symmetricstate: SymmetricState, dh: X25519DH) -> None: ...
    @property
    def rs(self) -> PublicKey: ...
    def initialize(
        self,
        handshake_pattern: XXHandshakePattern,
        initiator: bool,
        prologue: bytes,
        s: KeyPair | None = None,
        e: KeyPair | None = None,
        rs: PublicKey | None = None,
        re: PublicKey | None = None,
        psks: tuple[bytes, ...] | None = None,
    ) -> None: ...
    # The ciphers of the two directions, the initiator's first, with the last message of the handshake.
    def write_message(self, payload: bytes, message_buffer: bytearray) -> tuple[CipherState, CipherState] | None: ...
    def read_message(self, message: bytes, payload_buffer: bytearray) -> tuple[CipherState, CipherState] | None: ...
