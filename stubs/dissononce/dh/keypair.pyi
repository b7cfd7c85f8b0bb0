from dissononce.dh.private import PrivateKey
from dissononce.dh.public import PublicKey

class KeyPair:
    def __init__(self, public_key: PublicKey, private_key: PrivateKey) -> None: ...
    @property
    def public(self) -> PublicKey: ...
