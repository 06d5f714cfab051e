"""What kernel images tell about themselves, on images put together here in every compression that x86 has."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import pytest

from lab.artifacts import bootimage
from lab.errors import BuildError
from lab.proc import run

CONFIG = "CONFIG_EXT4_FS=y\n"
PVH = struct.pack("<III", 4, 8, 18) + b"Xen\0"
BANNER = b"Linux version 6.12.1-lab (me@here) (gcc) #1 SMP\n\0"
ELF = b"\x7fELF" + BANNER + PVH + b"IKCFG_ST" + gzip.compress(CONFIG.encode()) + b"IKCFG_ED" + bytes(100)


def bzimage(payload: bytes, *, size_appended: bool = True) -> bytes:
    """A bzImage with one setup sector: header fields as in Documentation/arch/x86/boot.rst."""
    payload += struct.pack("<I", len(ELF)) if size_appended else b""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    head[0x300:0x320] = b"6.12.1-lab (me@here) #1 SMP\0".ljust(0x20, b"\0")
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + bytes(64)


def images() -> dict[str, bytes]:
    return {
        "elf": ELF,
        "gzip": bzimage(gzip.compress(ELF), size_appended=False),
        "xz": bzimage(lzma.compress(ELF)),
        "bzip2": bzimage(bz2.compress(ELF)),
        "zstd": bzimage(run(["zstd", "-cq"], input=ELF).stdout),
        "plain": bzimage(ELF),
    }


@pytest.mark.parametrize("kind", images())
def test_every_compression(kind: str) -> None:
    image = images()[kind]
    assert bootimage.release(image) == "6.12.1-lab"
    elf = bootimage.elf_of(image)
    assert elf.startswith(ELF)
    assert bootimage.boots_through_pvh(elf)
    assert bootimage.config(elf) == CONFIG


def test_kernel_without_pvh_and_configuration() -> None:
    elf = ELF.replace(PVH, bytes(len(PVH))).replace(b"IKCFG_ST", b"XXXXXXXX")
    assert not bootimage.boots_through_pvh(elf)
    assert bootimage.config(elf) == ""


@pytest.mark.parametrize("data", [b"", b"MZ" + bytes(2000), b"\x7fELF" + bytes(100)])
def test_what_is_no_kernel(data: bytes) -> None:
    with pytest.raises(BuildError, match=r"no kernel|neither a bzImage nor an ELF kernel"):
        bootimage.release(data)


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
def test_cut_off_payload(kind: str) -> None:
    image = images()[kind]
    with pytest.raises(BuildError, match="cannot unpack the kernel image"):
        bootimage.elf_of(image[: 1024 + 16 + 40])


def test_unknown_compression() -> None:
    with pytest.raises(BuildError, match="payload begins with 776861743f3f"):
        bootimage.elf_of(bzimage(b"what???"))
