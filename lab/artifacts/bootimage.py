"""What a kernel image tells about itself: its release, its ELF inside a bzImage, its configuration, PVH.

Sources: Documentation/arch/x86/boot.rst (real-mode header, payload), include/xen/interface/elfnote.h (PVH entry),
kernel/configs.c (IKCONFIG).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import zlib
from collections.abc import Callable

from lab.errors import BuildError, CommandError
from lab.proc import run

_ELF = b"\x7fELF"
_IKCONFIG = (b"IKCFG_ST", b"IKCFG_ED")
_XEN_NOTE = b"Xen\0"
_XEN_ELFNOTE_PHYS32_ENTRY = 18


def release(image: bytes) -> str:
    """``uname -r`` of a bzImage or of an ELF kernel. Raises BuildError for anything else."""
    if image.startswith(_ELF):
        match = re.search(rb"Linux version (\S+) \(", image)
        if match is None:
            raise BuildError("the ELF file is no kernel: it has no 'Linux version'")
        return match[1].decode()
    _check_bzimage(image)
    (pointer,) = struct.unpack_from("<H", image, 0x20E)
    begin = pointer + 0x200
    return image[begin : image.index(0, begin)].decode().split()[0]


def elf_of(image: bytes) -> bytes:
    """The uncompressed ELF kernel in a bzImage; an ELF kernel is returned as it is. Raises BuildError."""
    if image.startswith(_ELF):
        return image
    _check_bzimage(image)
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (sectors + 1) * 512 + offset
    payload = image[begin : begin + length]
    for magic, unpack in _UNPACKERS.items():
        if payload.startswith(magic):
            try:
                elf = unpack(payload)
            except (CommandError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise BuildError(f"cannot unpack the kernel image: {error}") from error
            if elf.startswith(_ELF):
                return elf
    raise BuildError(f"cannot unpack the kernel image: its payload begins with {payload[:6].hex()}")


def config(elf: bytes) -> str:
    """The .config in an ELF kernel that was built with IKCONFIG; empty when there is none."""
    begin = elf.find(_IKCONFIG[0] + b"\x1f\x8b")
    end = elf.find(_IKCONFIG[1], begin)
    if begin < 0 or end < 0:
        return ""
    return gzip.decompress(elf[begin + len(_IKCONFIG[0]) : end]).decode(errors="replace")


def boots_through_pvh(elf: bytes) -> bool:
    """Whether an ELF kernel has the note by which QEMU enters it directly."""
    note = struct.pack("<II", len(_XEN_NOTE), 8), struct.pack("<I", _XEN_ELFNOTE_PHYS32_ENTRY)
    short = struct.pack("<II", len(_XEN_NOTE), 4)
    return any(sizes + note[1] + _XEN_NOTE in elf for sizes in (note[0], short))


def _check_bzimage(image: bytes) -> None:
    if image[0x202:0x206] != b"HdrS":
        raise BuildError("neither a bzImage nor an ELF kernel")


def _by(*argv: str) -> Callable[[bytes], bytes]:
    def unpack(payload: bytes) -> bytes:
        # The payload ends with its unpacked size, which the tools take for garbage.
        return run(argv, input=payload[:-4]).stdout

    return unpack


_UNPACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"\xfd7zXZ": lambda payload: lzma.decompress(payload[:-4]),
    b"BZh": lambda payload: bz2.decompress(payload[:-4]),
    b"\x28\xb5\x2f\xfd": _by("zstd", "-dcq"),
    b"\x02\x21\x4c\x18": _by("lz4", "-dcq"),
    _ELF: lambda payload: payload,
}
