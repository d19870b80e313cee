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
    """Tell it. Each machine that goes on does this, and all of it is translated anew there: so no file objects."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)
    seed = bytes.fromhex(entropy)
    device = os.open("/dev/urandom", os.O_WRONLY)
    fcntl.ioctl(device, _ADD_ENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    fcntl.ioctl(device, _RESEED)
    os.close(device)
    keys = os.open(_KEYS, os.O_WRONLY)  # the overlay has it, with the key that the template was made by
    os.ftruncate(keys, os.write(keys, authorized_keys.encode()))
    os.close(keys)


OPERATIONS = {"wake": wake}
