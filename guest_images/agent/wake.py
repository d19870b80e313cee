"""What a guest that was saved cannot know when it goes on: the time, randomness of its own, and who may log in."""

from __future__ import annotations

import fcntl
import os
import struct
import time

# Linux, include/uapi/linux/random.h: RNDADDENTROPY with struct rand_pool_info, RNDRESEEDCRNG
_ADD_ENTROPY = 0x40085203
_RESEED = 0x5207
_KEYS = "/root/.ssh/authorized_keys"


def wake(seconds: float, entropy: str, authorized_keys: str) -> None:
    time.clock_settime(time.CLOCK_REALTIME, seconds)
    seed = bytes.fromhex(entropy)
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, _ADD_ENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(device, _RESEED)
    with open(os.open(_KEYS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(authorized_keys)


OPERATIONS = {"wake": wake}
