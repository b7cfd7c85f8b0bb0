from libp2p.crypto.keys import PublicKey

class ID:
    @classmethod
    def from_pubkey(cls, key: PublicKey) -> ID: ...
    @classmethod
    def from_string(cls, peer_id_str: str) -> ID: ...
