"""The build id of an ELF file: which bytes a kernel has loaded, and which were built.

Sources: System V ABI (gABI), "Sections" and "Note Section"; ld(1), --build-id; kernel/module/sysfs.c for how a loaded
module shows its notes.
"""

from __future__ import annotations

import struct

from lab.errors import BuildError

_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_SHT_NOTE = 7
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_NT_GNU_BUILD_ID = 3


def build_id(elf: bytes) -> str:
    """The build id of an ELF file in hex. Raises BuildError when it is none or has none."""
    if not elf.startswith(_MAGIC):
        raise BuildError("not a 64-bit ELF file")
    try:
        (table,) = struct.unpack_from("<Q", elf, 40)
        size, count = struct.unpack_from("<HH", elf, 58)
        for index in range(count):
            _, kind, _, _, offset, length, *_ = _SECTION.unpack_from(elf, table + index * size)
            if kind == _SHT_NOTE and (found := build_id_of_notes(elf[offset : offset + length])):
                return found
    except struct.error as error:
        raise BuildError("a broken ELF file") from error
    raise BuildError("the ELF file has no build id")


def build_id_of_notes(notes: bytes) -> str:
    """The build id among ELF notes, as in ``/sys/module/M/notes/.note.gnu.build-id``; empty when there is none."""
    offset = 0
    while offset + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, offset)
        name = offset + _NOTE.size
        begin = name + _padded(name_size)
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[begin : begin + size].hex()
        offset = begin + _padded(size)
    return ""


def _padded(size: int) -> int:
    return size + (-size % 4)
