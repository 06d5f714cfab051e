from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts import bundle, qemu
from lab.artifacts.hostimage import HostImage
from lab.artifacts.store import Artifact, Store
from lab.errors import BuildError, InputError

DEBIAN = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright (c) 2003-2026 Fabrice Bellard\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (DEBIAN, (11, 1, 3)),
        ("QEMU emulator version 10.1.50 (v10.1.0-123-gabcdef)\n", (10, 1, 50)),
        ("qemu-img version 11.1.3 (Debian)\n", None),
        ("ls (GNU coreutils) 9.1\n", None),
        ("QEMU emulator version 11.1\n", None),
        ("", None),
    ],
)
def test_versions(text: str, version: qemu.Version | None) -> None:
    assert qemu.parse_version(text) == version


def stub(path: Path, text: str, extra: str = "") -> Path:
    """A program that prints a version; ``extra`` is run before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{extra}\ncat <<'END'\n{text}END\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def host(tmp_path: Path) -> HostImage:
    """A host image whose bundled QEMU is a script that its 'loader' runs."""
    top = tmp_path / "host" / "qemu"
    stub(top / bundle.PROGRAMS / qemu.PROGRAM, DEBIAN)
    loader = top / bundle.LOADER
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\n# --library-path L --argv0 A PROGRAM ARGS\nshift 4\nexec "$@"\n')
    loader.chmod(0o755)
    return HostImage(tmp_path / "host" / "root.ext4", top, Artifact("host-image", "k", tmp_path, {}, False))


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_the_machines_own_is_taken_when_new_enough(host: HostImage, bin_dir: Path) -> None:
    program = stub(bin_dir / qemu.PROGRAM, "QEMU emulator version 12.0.0\n")
    image = stub(bin_dir / "qemu-img", "")
    found = qemu.qemu_l0(host)
    assert (found.argv, found.img, found.version) == ((str(program),), (str(image),), (12, 0, 0))
    assert found.source == "this machine"


@pytest.mark.parametrize("text", ["QEMU emulator version 11.0.9\n", "nonsense\n"])
def test_the_host_images_is_taken_when_the_machines_own_will_not_do(host: HostImage, bin_dir: Path, text: str) -> None:
    stub(bin_dir / qemu.PROGRAM, text)
    stub(bin_dir / "qemu-img", "")
    found = qemu.qemu_l0(host)
    assert found.version == (11, 1, 3)
    assert found.argv[0] == str(host.qemu / bundle.LOADER)
    assert found.argv[-4::2] == ("-L", "-L")
    assert found.img[-1] == str(host.qemu / bundle.PROGRAMS / "qemu-img")


def test_a_given_program_wins_and_keeps_its_own_qemu_img(host: HostImage, tmp_path: Path) -> None:
    program = stub(tmp_path / "mine" / "bin" / qemu.PROGRAM, "QEMU emulator version 11.2.0\n")
    assert qemu.qemu_l0(host, path=program).img[0] == str(host.qemu / bundle.LOADER)
    image = stub(tmp_path / "mine" / "bin" / "qemu-img", "")
    for path in (program, tmp_path / "mine", tmp_path / "mine" / "bin"):
        found = qemu.qemu_l0(host, path=path)
        assert (found.argv, found.img, found.version) == ((str(program),), (str(image),), (11, 2, 0))


@pytest.mark.parametrize(
    ("text", "extra", "problem"),
    [
        ("ls (GNU coreutils) 9.1\n", "", "is not a QEMU system emulator"),
        (DEBIAN, "exit 3", "is not a QEMU system emulator"),
        ("QEMU emulator version 10.0.2\n", "", r"is QEMU 10\.0\.2, this needs 11\.1\.0 or newer"),
    ],
)
def test_a_given_program_that_will_not_do_is_bad_input(
    host: HostImage, tmp_path: Path, text: str, extra: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        qemu.qemu_l0(host, path=stub(tmp_path / "x", text, extra))


def test_a_given_path_without_a_program_is_bad_input(host: HostImage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        qemu.qemu_l0(host, path=tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("not executable")
    with pytest.raises(InputError, match="is not a QEMU system emulator"):
        qemu.qemu_l0(host, path=plain)


def test_a_broken_host_image_is_said(host: HostImage) -> None:
    stub(host.qemu / bundle.PROGRAMS / qemu.PROGRAM, "", "exit 127")
    with pytest.raises(BuildError, match="does not start"):
        qemu.qemu_l1(Store(), host)


def test_in_l1_the_images_own_is_the_default(host: HostImage) -> None:
    found = qemu.qemu_l1(Store(), host)
    assert (found.argv, found.disk) == (("/usr/bin/" + qemu.PROGRAM,), None)
    assert found.version == (11, 1, 3)


def test_a_qemu_without_its_firmware_is_refused(
    host: HostImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "libraries", lambda _program: {})
    program = stub(tmp_path / qemu.PROGRAM, DEBIAN, f'[ "$1" = -L ] && echo {tmp_path} && exit')
    with pytest.raises(BuildError, match=r"no bios-256k\.bin in"):
        qemu.qemu_l1(Store(), host, path=program)


def test_a_qemu_that_does_not_start_from_the_bundle_is_refused(
    host: HostImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A script is no program for ld.so, as a QEMU without one of its modules is none.
    monkeypatch.setattr(bundle, "libraries", lambda _program, **_: {})
    (tmp_path / "bios-256k.bin").write_text("bios")
    program = stub(tmp_path / qemu.PROGRAM, DEBIAN, f'[ "$1" = -L ] && echo {tmp_path} && exit')
    with pytest.raises(BuildError, match="does not start from what was collected"):
        qemu.qemu_l1(Store(), host, path=program)


@pytest.mark.parametrize("folder", ["lib/x86_64-linux-gnu/qemu", "lib64/qemu", "bin"])
def test_accelerator_modules_are_found_where_distributions_and_builds_have_them(tmp_path: Path, folder: str) -> None:
    program = stub(tmp_path / "bin" / qemu.PROGRAM, DEBIAN)
    assert qemu._accelerators(program) == []
    module = tmp_path / folder / "accel-tcg-x86_64.so"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text("")
    (module.parent / "ui-gtk.so").write_text("")
    assert qemu._accelerators(program) == [module]
