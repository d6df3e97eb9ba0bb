"""Knows how one reader is given bytes for a while, by coverage where atheris is installed and at
random elsewhere; must not know which readers there are.

It ends with 0 when the time is up and with something else at the first thing that is wrong; the
bytes are then in a file of the directory it was given.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

LONGEST = 4096  # bytes of one input; linear time is another test's business
SLOWEST = 10  # seconds for one input


def main() -> int:
    name, seconds, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    try:
        import atheris
    except ImportError:
        return at_random(name, seconds, directory)
    with atheris.instrument_imports(include=["buildgraph", "buildgraph_cache"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    seeds, words = directory / "seeds", directory / "words"
    seeds.mkdir(parents=True)
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    quoted = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in quoted))
    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}"]
    options += [f"-artifact_prefix={directory}/", f"-dict={words}", "-rss_limit_mb=1024"]
    # One second more than none: libFuzzer takes 0 for no end at all.
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(seeds)], target.run)
    atheris.Fuzz()  # leaves the process by itself
    return 0


def at_random(name: str, seconds: int, directory: Path) -> int:
    """Change, cut and join the seeds until the time is up."""
    from fuzz.targets import TARGETS

    target = TARGETS[name]
    chance = random.Random(time.time_ns())
    words = [word.encode() for word in target.words] or [b"a"]
    end = time.monotonic() + seconds
    count = 0

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one input took more than {SLOWEST} s")

    signal.signal(signal.SIGALRM, too_slow)
    while time.monotonic() < end:
        data = changed(chance, target.seeds, words)
        signal.alarm(SLOWEST)
        try:
            target.run(data)
        except BaseException:
            directory.mkdir(parents=True, exist_ok=True)
            kept = directory / f"crash-{hashlib.sha1(data).hexdigest()}"
            kept.write_bytes(data)
            raise
        finally:
            signal.alarm(0)
        count += 1
    sys.stdout.write(f"{count} inputs at random\n")
    return 0


def changed(chance: random.Random, seeds: tuple[bytes, ...], words: list[bytes]) -> bytes:
    """Return bytes near a seed."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.choice(words)
            case 1:
                data[at : at + chance.randint(1, 16)] = b""
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                data[at:at] = data[max(0, at - chance.randint(1, 64)) : at]
            case _:
                data[at:] = chance.choice(seeds)[chance.randint(0, LONGEST) :]
    return bytes(data[:LONGEST])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
