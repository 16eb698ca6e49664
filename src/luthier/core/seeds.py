"""One seed, many independent streams, each with a name."""

import hashlib


def stream_seed(seed: int, *name: str | int) -> int:
    """A 63-bit seed for the stream `name` of the run seeded with `seed`.

    Streams do not disturb each other: drawing more from one ("shuffle", 3) leaves another ("adapter",) as it was.
    """
    text = "/".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
