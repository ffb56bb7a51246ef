"""What the servers of the tests have in common: the pattern (see ../src/pattern.rs)."""
import hashlib
import struct

PERIOD = 1_048_573
_once = b"".join(hashlib.sha256(struct.pack("<Q", i)).digest() for i in range(PERIOD // 32 + 1))[:PERIOD]
_TABLE = memoryview(_once + _once)
STEP = 65536


def steps(n):
    """The pattern's first n bytes, in pieces."""
    at = 0
    while at < n:
        start = at % PERIOD
        piece = _TABLE[start : start + min(n - at, STEP)]
        yield piece
        at += len(piece)
