from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.impl.cipherstate import CipherState

class SymmetricState:
    # Any hash will do; this is the one in use here.
    def __init__(self, cipherstate: CipherState, hash: SHA256Hash) -> None: ...  # noqa: A002  # the package's name
    def get_handshake_hash(self) -> bytes: ...
