"""The Debian mirror out of a machine's apt configuration, in both forms, among third parties' sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.mirror import KEYRING, Mirror, choose, machine_mirror, machine_sources, parse_deb822, parse_one_line
from lab.errors import InputError

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb http://mirror.example/debian bookworm main non-free-firmware  # the usual one
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian/ bookworm-updates main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian-security bookworm-security main
deb cdrom:[Debian]/ bookworm main

deb https://vendor.example/repo bookworm main
deb https://other.example/apt sdk-bookworm main
garbage
"""

DEB822 = f"""\
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: {KEYRING}

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main

Types: deb
URIs: https://vendor.example/node
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""


def test_one_line_form() -> None:
    sources = list(parse_one_line(ONE_LINE))
    assert [(source.uri, source.suite) for source in sources][:3] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    ]
    assert sources[0].components == ("main", "non-free-firmware")
    assert sources[2].signed_by == "/usr/share/keyrings/x.gpg"


def test_deb822_form() -> None:
    assert [(source.uri, source.suite, source.signed_by) for source in parse_deb822(DEB822)] == [
        ("http://mirror.example/debian", "trixie", KEYRING),
        ("http://mirror.example/debian", "trixie-updates", KEYRING),
        ("http://mirror.example/debian-security", "trixie-security", ""),
        ("https://vendor.example/node", "trixie", ""),
    ]


@pytest.mark.parametrize("text", [ONE_LINE, "\n".join(reversed(ONE_LINE.splitlines()))])
def test_chooses_debian_among_third_parties(text: str) -> None:
    assert choose(parse_one_line(text)) == Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


def test_own_keyring_of_a_mirror_is_used_too() -> None:
    line = "deb [signed-by=/k.gpg trusted=yes] http://mirror.example/d trixie main"
    mirror = choose(parse_one_line(line))
    assert mirror == Mirror("http://mirror.example/d", "", ("/k.gpg", KEYRING), trusted=True)
    assert mirror.sources("sid") == [
        f"deb [arch=amd64 signed-by=/k.gpg,{KEYRING} trusted=yes] http://mirror.example/d sid main"
    ]


@pytest.mark.parametrize(
    "text", ["", "deb https://vendor.example/repo stable contrib", "deb http://x/ubuntu noble main"]
)
def test_no_mirror_is_said_with_the_way_out(text: str) -> None:
    with pytest.raises(InputError) as caught:
        choose(parse_one_line(text))
    assert "VDPALAB_MIRROR" in caught.value.hint


def test_reads_the_whole_directory(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "vendor.list").write_text("deb https://vendor.example/repo bookworm main\n")
    (parts / "debian.sources").write_text(DEB822)
    (parts / "debian.sources.save").write_text(DEB822)
    (tmp_path / "sources.list").write_text("# nothing\n")
    assert len(machine_sources(tmp_path)) == 5
    assert machine_mirror(tmp_path, {}).archive == "http://mirror.example/debian"


def test_override() -> None:
    mirror = machine_mirror(Path("/nowhere"), {"VDPALAB_MIRROR": "http://a/debian/ http://b/security"})
    assert (mirror.archive, mirror.security) == ("http://a/debian", "http://b/security")
    assert machine_mirror(Path("/nowhere"), {"VDPALAB_MIRROR": "http://a/debian"}).security == ""


def test_sources_of_backports_have_their_release_too() -> None:
    mirror = Mirror("http://a/debian", "http://b/security")
    assert [line.split("] ")[1] for line in mirror.sources("trixie-backports")] == [
        "http://a/debian trixie main",
        "http://a/debian trixie-updates main",
        "http://a/debian trixie-backports main",
        "http://b/security trixie-security main",
    ]
    assert len(mirror.sources("trixie")) == 3
