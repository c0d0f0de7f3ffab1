#!/usr/bin/env python3
"""Make ELF64 files that were built against a newer glibc load on this machine's older one.

    glibc_isoc23_fix.py FILE...

Only for files whose sole too-new references are the C23 aliases ``__isoc23_strtol``,
``__isoc23_strtoul`` and so on (glibc 2.38). Such a reference is pointed at the plain
function, which is the tail of its own name, and its version need at GLIBC_2.2.5: a few bytes
in place, no section moves. Anything else that is too new is refused, with exit code 1.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
BASE_VERSION, PREFIX = b"GLIBC_2.2.5", b"__isoc23_"

# Section types of the ELF specification.
SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF


class VersionNeed(NamedTuple):
    """One entry of .gnu.version_r: where it is, and its fields."""

    offset: int
    name_hash: int
    number: int
    name_offset: int
    name: bytes


class Elf:
    """The dynamic symbols of an ELF64 file and the versions that they need."""

    def __init__(self, image: bytearray) -> None:
        self.image = image
        (headers,) = struct.unpack_from("<Q", image, 40)
        size, count, _ = struct.unpack_from("<HHH", image, 58)
        self.sections: dict[int, tuple[int, int]] = {}
        for i in range(count):
            _, kind, _, _, offset, length, link, _, _, _ = struct.unpack_from(
                "<IIQQQQIIQQ", image, headers + i * size
            )
            self.sections[kind] = (offset, length)
            if kind == SHT_DYNSYM:  # its link is .dynstr
                (self.strings,) = struct.unpack_from("<Q", image, headers + link * size + 24)

    def name(self, offset: int) -> bytes:
        start = self.strings + offset
        return bytes(self.image[start : self.image.index(0, start)])

    def libc_needs(self) -> list[VersionNeed]:
        """Return the versions of libc.so.6 that the file needs."""
        needs = []
        offset, _ = self.sections[SHT_GNU_VERNEED]
        while True:
            _, count, file, first, following = struct.unpack_from("<HHIII", self.image, offset)
            entry = offset + first
            for _ in range(count):
                name_hash, _, number, name, skip = struct.unpack_from("<IHHII", self.image, entry)
                if self.name(file) == b"libc.so.6":
                    needs.append(VersionNeed(entry, name_hash, number, name, self.name(name)))
                entry += skip
            if not following:
                return needs
            offset += following


def fix(path: Path, available: set[bytes]) -> str:
    """Lower the file's needs to what is available and return what was done."""
    image = bytearray(path.read_bytes())
    if image[:6] != b"\x7fELF\x02\x01":
        return "not ELF64"
    elf = Elf(image)
    if SHT_GNU_VERNEED not in elf.sections:
        return "no version needs"
    needs = elf.libc_needs()
    too_new = [need for need in needs if need.name not in available]
    if not too_new:
        return "nothing to do"
    base = next((need for need in needs if need.name == BASE_VERSION), None)
    if base is None:
        sys.exit(f"{path}: needs no {BASE_VERSION.decode()} that could be borrowed")

    numbers = {need.number for need in too_new}
    symbols, length = elf.sections[SHT_DYNSYM]
    versions, _ = elf.sections[SHT_GNU_VERSYM]
    done = []
    for i in range(length // 24):
        (version,) = struct.unpack_from("<H", image, versions + 2 * i)
        if version & 0x7FFF not in numbers:
            continue
        (name_offset,) = struct.unpack_from("<I", image, symbols + 24 * i)
        name = elf.name(name_offset)
        if not name.startswith(PREFIX):
            sys.exit(f"{path}: cannot replace {name.decode()}")
        struct.pack_into("<I", image, symbols + 24 * i, name_offset + len(PREFIX))
        done.append(name.decode())
    for need in too_new:
        struct.pack_into("<I", image, need.offset, base.name_hash)
        struct.pack_into("<I", image, need.offset + 8, base.name_offset)
    path.write_bytes(image)
    return ", ".join(done)


def main() -> None:
    """Fix the files named on the command line."""
    available = {word for word in LIBC.read_bytes().split(b"\0") if word.startswith(b"GLIBC_")}
    for argument in sys.argv[1:]:
        print(f"{argument}: {fix(Path(argument), available)}")


if __name__ == "__main__":
    main()
