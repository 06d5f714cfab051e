from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.kconfig import Option, all_config, merge, not_stuck, read_fragments
from lab.errors import InputError

FRAGMENT = """\
# A comment, and one that mentions no option.
CONFIG_64BIT=y
CONFIG_VDPA=m
# CONFIG_SWAP is not set
CONFIG_LOCALVERSION="-lab x"
CONFIG_NR=32
CONFIG_GART=y  # optional: gone in 7.0

"""


@pytest.fixture
def fragment(tmp_path: Path) -> Path:
    path = tmp_path / "base.config"
    path.write_text(FRAGMENT)
    return path


def test_reads_options(fragment: Path) -> None:
    assert read_fragments([fragment]) == [
        Option("64BIT", "y", "base.config"),
        Option("VDPA", "m", "base.config"),
        Option("SWAP", "n", "base.config"),
        Option("LOCALVERSION", '"-lab x"', "base.config"),
        Option("NR", "32", "base.config"),
        Option("GART", "y", "base.config", optional=True),
    ]


def test_what_is_written_for_kconfig_has_no_notes(fragment: Path) -> None:
    text = all_config(read_fragments([fragment]))
    assert "CONFIG_GART=y\n" in text
    assert "# CONFIG_SWAP is not set\n" in text
    assert "optional" not in text


def test_later_fragment_wins(fragment: Path, tmp_path: Path) -> None:
    other = tmp_path / "more.config"
    other.write_text("CONFIG_VDPA=y\n")
    values = {option.name: (option.value, option.fragment) for option in read_fragments([fragment, other])}
    assert values["VDPA"] == ("y", "more.config")
    assert merge([read_fragments([fragment]), read_fragments([other])]) == read_fragments([fragment, other])


def test_each_option_that_did_not_stick_is_named(fragment: Path) -> None:
    config = 'CONFIG_64BIT=y\nCONFIG_VDPA=y\nCONFIG_SWAP=y\nCONFIG_LOCALVERSION="-lab x"\n# CONFIG_NR is not set\n'
    assert not_stuck(read_fragments([fragment]), config) == [
        "CONFIG_VDPA: asked for m (base.config), got y",
        "CONFIG_SWAP: asked for n (base.config), got y",
        "CONFIG_NR: asked for 32 (base.config), got n",
    ]


def test_all_stuck(fragment: Path) -> None:
    config = 'CONFIG_64BIT=y\nCONFIG_VDPA=m\nCONFIG_LOCALVERSION="-lab x"\nCONFIG_NR=32\n'
    assert not_stuck(read_fragments([fragment]), config) == []


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.config"
    path.write_text("CONFIG_A\nCONFIG_B=y # because\nCONFIG_C=y\n#CONFIG_D is not set\n")
    with pytest.raises(InputError) as caught:
        read_fragments([path, tmp_path / "none.config"])
    assert [problem.rpartition("/")[2] for problem in caught.value.problems] == [
        "bad.config:1: not an option: CONFIG_A",
        "bad.config:2: only '# optional' may follow an option: CONFIG_B=y # because",
        "bad.config:4: not an option: #CONFIG_D is not set",
        "none.config: No such file or directory",
    ]


def test_the_labs_own_fragments_are_readable() -> None:
    folder = Path(__file__).parents[2] / "images" / "kernel" / "fragments"
    assert len(read_fragments(sorted(folder.glob("*.config")))) > 100
