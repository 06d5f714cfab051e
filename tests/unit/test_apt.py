"""Packages of a suite: what apt's answers mean, and that nobody is asked twice. apt is a stand-in here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.artifacts.apt import Apt, newest_kernel, parse_policy
from lab.artifacts.mirror import Mirror
from lab.errors import BuildError, InputError

POLICY = """\
qemu-utils:
  Installed: (none)
  Candidate: 1:10.0.13+ds-0+deb13u1
  Version table:
     1:10.0.13+ds-0+deb13u1 500
        500 http://mirror.example/debian trixie/main amd64 Packages
virtual:
  Installed: (none)
  Candidate: (none)
  Version table:
busybox-static:
  Installed: 1:1.37
  Candidate: 1:1.37.0-6+b9
"""

# Stands in for apt-get, apt-cache and apt-config: says on stderr what it was asked, answers from files beside it.
FAKE = """\
#!/bin/sh
here=${0%/*}
echo "${0##*/} $*" >> "$here/asked"
[ -f "$here/fail" ] && { echo "E: broken" >&2; exit 100; }
case "${0##*/} $1" in
"apt-cache policy") cat "$here/policy" ;;
"apt-cache pkgnames") echo linux-source-6.9; echo linux-source-6.12; echo linux-source ;;
"apt-get download") touch "${2%%=*}_1_all.deb" ;;
"apt-config dump") echo 'Acquire::http::Proxy "http://proxy.example";'; echo 'DPkg::Post-Invoke "bad";' ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("apt-get", "apt-cache", "apt-config"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    (folder / "policy").write_text(POLICY)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def apt(tmp_path: Path, fake: Path) -> Apt:
    return Apt(tmp_path / "apt", Mirror("http://mirror.example/debian"))


def asked(fake: Path, what: str) -> int:
    path = fake / "asked"
    return sum(line.startswith(what) for line in path.read_text().splitlines()) if path.exists() else 0


def test_policy() -> None:
    assert parse_policy(POLICY) == {"qemu-utils": "1:10.0.13+ds-0+deb13u1", "busybox-static": "1:1.37.0-6+b9"}
    assert parse_policy("") == {}


def test_newest_kernel_counts_numbers() -> None:
    assert newest_kernel(["linux-source-6.9", "linux-source-6.12", "linux-source", "x"]) == "linux-source-6.12"
    assert newest_kernel(["linux-source"]) is None


def test_asks_once(apt: Apt, fake: Path) -> None:
    expected = {"busybox-static": "1:1.37.0-6+b9"}
    assert apt.resolve("trixie", ["busybox-static"]) == expected
    assert Apt(apt.root, apt.mirror).resolve("trixie", ["busybox-static"]) == expected
    assert asked(fake, "apt-get update") == 1
    (fake / "policy").write_text(POLICY.replace("1:1.37.0-6+b9", "1:2"))
    assert apt.resolve("trixie", ["busybox-static"]) == expected
    assert apt.resolve("trixie", ["busybox-static"], update=True) == {"busybox-static": "1:2"}
    assert apt.resolve("trixie", ["busybox-static"]) == {"busybox-static": "1:2"}


def test_suites_are_apart(apt: Apt) -> None:
    apt.resolve("trixie", ["qemu-utils"])
    apt.resolve("bookworm", ["qemu-utils"])
    assert sorted(json.loads((apt.root / "resolved.json").read_text())) == ["bookworm", "trixie"]


def test_newest_source_is_remembered(apt: Apt, fake: Path) -> None:
    (fake / "policy").write_text(POLICY.replace("qemu-utils", "linux-source-6.12"))
    for _ in range(2):
        assert apt.newest_source("trixie") == ("linux-source-6.12", "1:10.0.13+ds-0+deb13u1")
    assert asked(fake, "apt-get update") == 1


def test_every_missing_package_is_named(apt: Apt) -> None:
    with pytest.raises(InputError) as caught:
        apt.resolve("trixie", ["virtual", "qemu-utils", "nothing"])
    assert caught.value.problems == ("suite trixie has no package 'virtual'", "suite trixie has no package 'nothing'")


def test_no_answer_is_a_failed_build(apt: Apt, fake: Path) -> None:
    (fake / "fail").touch()
    with pytest.raises(BuildError, match="E: broken"):
        apt.resolve("trixie", ["qemu-utils"])


def test_broken_memory_is_asked_again(apt: Apt) -> None:
    apt.root.mkdir()
    (apt.root / "resolved.json").write_text("{")
    assert apt.resolve("trixie", ["qemu-utils"])


def test_download(apt: Apt, tmp_path: Path, fake: Path) -> None:
    assert apt.download("trixie", "linux-source-6.12", "1", tmp_path).name == "linux-source-6.12_1_all.deb"
    (fake / "apt-get").write_text("#!/bin/sh\n[ $1 = update ] || { echo 'E: 404' >&2; exit 100; }\n")
    with pytest.raises(BuildError, match="cannot download x 2 of trixie") as caught:
        apt.download("trixie", "x", "2", tmp_path)
    assert "--update" in caught.value.hint


def test_configuration_keeps_the_way_to_the_mirror_only(apt: Apt) -> None:
    apt.resolve("trixie-backports", ["qemu-utils"])
    text = (apt.root / "trixie-backports" / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.example";' in text
    assert "Post-Invoke" not in text
    assert 'APT::Default-Release "trixie-backports";' in text
    apt.resolve("trixie", ["qemu-utils"])
    assert 'APT::Default-Release "";' in (apt.root / "trixie" / "apt.conf").read_text()
