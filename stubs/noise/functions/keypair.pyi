import abc

class KeyPair(metaclass=abc.ABCMeta):
    public_bytes: bytes
    def __init__(self, private: object = None, public: object = None, public_bytes: bytes | None = None) -> None: ...
    @classmethod
    @abc.abstractmethod
    def from_private_bytes(cls, private_bytes: bytes) -> KeyPair: ...
    @classmethod
    @abc.abstractmethod
    def from_public_bytes(cls, public_bytes: bytes) -> KeyPair: ...
