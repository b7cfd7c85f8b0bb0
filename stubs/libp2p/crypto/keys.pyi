class PublicKey: ...

class KeyPair:
    public_key: PublicKey
