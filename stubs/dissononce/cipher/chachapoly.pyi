from dissononce.cipher.cipher import Cipher

class ChaChaPolyCipher(Cipher):
    def __init__(self) -> None: ...
