"""Take unused shared libraries out of a program.

Debian's fio needs 62 libraries (56 MB: Ceph, GlusterFS, RDMA, ...) although a run that does none of that calls none
of them, and ld.so relocates them all at every start; in a guest two levels deep both cost seconds. The bytes that the
program executes stay as Debian built them: only its list of libraries changes, and the symbols it imports become
weak, so that those of a missing library are null. Calling one crashes, which is why the recipe names each library.

Sources: System V ABI (gABI), "Dynamic Section" and "Symbol Table"; LSB Core, "Symbol Versioning".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from lab.errors import BuildError

_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SYMTAB = 0, 1, 5, 6
_DT_GNU_HASH, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFFE, 0x6FFFFFFF
_DYN = struct.Struct("<qQ")
_SYM = struct.Struct("<IBBHQQ")
_VERNEED = struct.Struct("<HHIII")
_STB_WEAK = 2


def needed(program: bytes) -> list[str]:
    """The DT_NEEDED entries of an ELF program or library, in order. Raises BuildError."""
    return [library for _, library in _Image(bytearray(program)).needed()]


def without(program: bytes, libraries: Collection[str]) -> bytes:
    """The program without the given DT_NEEDED libraries. Raises BuildError when it does not need one of them."""
    image = _Image(bytearray(program))
    missing = set(libraries) - {library for _, library in image.needed()}
    if missing:
        raise BuildError(f"does not need {', '.join(sorted(missing))}")
    image.forget_versions(libraries)
    image.weaken_imports()
    image.forget_needed(libraries)
    return bytes(image.data)


class _Image:
    """A file's bytes with the dynamic section found; offsets are file offsets."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        if not data.startswith(_MAGIC):
            raise BuildError("not a 64-bit ELF file")
        try:
            self._segments = list(self._program_headers())
            self._dynamic = next(offset for kind, offset, _, _ in self._segments if kind == _PT_DYNAMIC)
            self._tags = dict(self._entries())
        except (struct.error, StopIteration) as error:
            raise BuildError("not a dynamically linked ELF file") from error

    def needed(self) -> list[tuple[int, str]]:
        """String table index and name of each needed library."""
        return [(value, self._string(value)) for tag, value in self._entries() if tag == _DT_NEEDED]

    def forget_needed(self, libraries: Collection[str]) -> None:
        """Drop DT_NEEDED entries; those behind them move up."""
        entries = list(self._entries())
        kept = [(t, v) for t, v in entries if not (t == _DT_NEEDED and self._string(v) in libraries)]
        kept += [(_DT_NULL, 0)] * (len(entries) - len(kept))
        for index, entry in enumerate(kept):
            _DYN.pack_into(self.data, self._dynamic + index * _DYN.size, *entry)

    def forget_versions(self, libraries: Collection[str]) -> None:
        """Drop the version requirements on libraries: ld.so insists that each names a needed library."""
        records = list(self._verneed())
        kept = [offset for offset, library in records if library not in libraries]
        if len(kept) == len(records):
            return
        if not kept:
            raise BuildError("would need no versioned library at all")
        for offset, following in zip(kept, [*kept[1:], None], strict=True):
            struct.pack_into("<I", self.data, offset + 12, following - offset if following else 0)
        self._set_tag(_DT_VERNEED, self._tags[_DT_VERNEED] + kept[0] - records[0][0])
        self._set_tag(_DT_VERNEEDNUM, len(kept))

    def weaken_imports(self) -> None:
        """Make undefined symbols weak. The GNU hash table's second word says how many symbols it leaves out."""
        (count,) = struct.unpack_from("<I", self.data, self._offset(self._tags[_DT_GNU_HASH]) + 4)
        table = self._offset(self._tags[_DT_SYMTAB])
        for offset in range(table + _SYM.size, table + count * _SYM.size, _SYM.size):
            name, info, other, section, value, size = _SYM.unpack_from(self.data, offset)
            if section == 0:
                _SYM.pack_into(self.data, offset, name, _STB_WEAK << 4 | info & 0xF, other, section, value, size)

    def _verneed(self) -> Iterator[tuple[int, str]]:
        if _DT_VERNEED not in self._tags:
            return
        offset = self._offset(self._tags[_DT_VERNEED])
        while True:
            _, _, file, _, following = _VERNEED.unpack_from(self.data, offset)
            yield offset, self._string(file)
            if not following:
                return
            offset += following

    def _program_headers(self) -> Iterator[tuple[int, int, int, int]]:
        """Type, file offset, virtual address and file size of each segment."""
        (table,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        for index in range(count):
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", self.data, table + index * size)
            yield kind, offset, address, length

    def _entries(self) -> Iterator[tuple[int, int]]:
        offset = self._dynamic
        while True:
            tag, value = _DYN.unpack_from(self.data, offset)
            if tag == _DT_NULL:
                return
            yield tag, value
            offset += _DYN.size

    def _set_tag(self, tag: int, value: int) -> None:
        for index, (found, _) in enumerate(self._entries()):
            if found == tag:
                _DYN.pack_into(self.data, self._dynamic + index * _DYN.size, tag, value)
        self._tags[tag] = value

    def _offset(self, address: int) -> int:
        for kind, offset, start, length in self._segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return offset + address - start
        raise BuildError(f"address {address:#x} is in no segment")

    def _string(self, index: int) -> str:
        begin = self._offset(self._tags[_DT_STRTAB]) + index
        return self.data[begin : self.data.index(0, begin)].decode()
