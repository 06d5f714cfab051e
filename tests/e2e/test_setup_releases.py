"""A newcomer's first commands on the Debian release that this machine does not run, in a chroot made from nothing.

The chroot has no Python, no compiler, no sudo. It reaches Debian and the Python package index as this machine does:
the same mirror and apt settings, the same pip settings, proxies and certificates.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import proc
from lab.artifacts.apt import Apt, reach
from lab.artifacts.store import cache_root

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("releases"), pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REACH = ("PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Release:
    """The chroot's results: one set of files per step of release.sh."""

    codename: str
    results: Path

    def status(self, step: str) -> int:
        return int((self.results / f"{step}.status").read_text())

    def said(self, step: str) -> str:
        """What the step wrote, results and messages."""
        return self.out(step) + (self.results / f"{step}.err").read_text()

    def out(self, step: str) -> str:
        return (self.results / f"{step}.out").read_text()

    def seconds(self, step: str) -> float:
        return int((self.results / f"{step}.ms").read_text()) / 1000

    def needs(self, step: str) -> dict[str, bool]:
        """What a step that ran `doctor --json` found: ok or not, by name."""
        return {need["name"]: need["ok"] for need in json.loads(self.out(step))["needs"]}


def other_release() -> str:
    return "bookworm" if platform.freedesktop_os_release().get("VERSION_CODENAME") == "trixie" else "trixie"


def machine_settings(into: Path) -> None:
    """Write ``env``: how this machine's pip reaches its index, with copies of the certificates it names."""
    into.mkdir()
    listed = proc.run([sys.executable, "-m", "pip", "config", "list"], check=False).text.splitlines()
    settings = [line.partition("=") for line in listed if not line.startswith(":env:")]
    found = {f"PIP_{key.partition('.')[2].upper().replace('-', '_')}": value.strip("'") for key, _, value in settings}
    found |= {key: value for key, value in os.environ.items() if key.lower().startswith(tuple(map(str.lower, _REACH)))}
    lines = []
    for key, value in sorted(found.items()):
        if Path(value).is_file():
            shutil.copy(value, into / key)
        seen_inside = f"/machine/{key}" if Path(value).is_file() else value
        lines.append(f"export {key}={shlex.quote(seen_inside)}\n")
    (into / "env").write_text("".join(lines))


def copy_checkout(into: Path) -> None:
    """Copy what git knows or would take, with the executable bits."""
    listed = proc.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
    for name in filter(None, listed.split(b"\0")):
        source, target = ROOT / os.fsdecode(name), into / os.fsdecode(name)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def mmdebstrap_argv(codename: str, scratch: Path) -> list[str]:
    """A chroot with what apt itself needs, in which the hooks run release.sh; it is gone afterwards."""
    hooks = [
        f"copy-in {shlex.quote(str(scratch / 'machine'))} {shlex.quote(str(scratch / 'checkout'))} /",
        'mkdir "$1/results"',
        # A fresh machine has none of this one's environment but what machine_settings carries over.
        f'env -i PATH={_PATH} chroot "$1" sh /checkout/tests/e2e/release.sh >&2',
        f"copy-out /results {shlex.quote(str(scratch))}",
    ]
    return [
        *["mmdebstrap", "--mode=root" if os.geteuid() == 0 else "--mode=unshare", "--variant=minbase"],
        *["--format=null", "--skip=cleanup/apt"],
        *[f"--aptopt={option}" for option in reach()],
        *[f"--customize-hook={hook}" for hook in hooks],
        *[codename, "-", *Apt().sources(codename)],
    ]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    codename = other_release()
    scratch = tmp_path_factory.mktemp(codename)
    machine_settings(scratch / "machine")
    copy_checkout(scratch / "checkout")
    # mmdebstrap builds the chroot, some 2 GiB, below TMPDIR.
    chroots = cache_root() / "tmp"
    chroots.mkdir(parents=True, exist_ok=True)
    log = scratch / "mmdebstrap.log"
    status = proc.run_logged(mmdebstrap_argv(codename, scratch), log, env={"TMPDIR": str(chroots)}, on_line=print)
    assert status == 0, log.read_text()[-4000:]
    return Release(codename, scratch / "results")


def test_a_user_without_python_and_root_is_told_what_to_install(release: Release) -> None:
    assert release.status("user-without-python") == 3
    assert "sudo apt-get install -y python3 python3-venv" in release.said("user-without-python")
    assert release.out("user-without-python") == ""


def test_the_bootstrap_gets_from_nothing_to_help(release: Release) -> None:
    assert release.status("help") == 0, release.said("help")
    assert "quickstart" in release.out("help") or "setup" in release.out("help")


def test_repeating_it_costs_less_than_a_second(release: Release) -> None:
    assert release.status("again") == 0
    assert release.seconds("again") < 1


def test_doctor_names_what_a_fresh_machine_lacks(release: Release) -> None:
    assert release.status("doctor-before") == 3
    before = release.needs("doctor-before")
    assert not before["package mmdebstrap"]
    assert not before["package flex"]
    assert before["Debian mirror"]


def test_a_user_without_sudo_gets_the_exact_commands(release: Release) -> None:
    assert release.status("user-without-sudo") == 3
    said = release.said("user-without-sudo")
    assert "sudo apt-get install -y --no-install-recommends" in said
    assert " mmdebstrap" in said


def test_setup_installs_everything_and_then_nothing(release: Release) -> None:
    assert release.status("setup") == 0, release.said("setup")
    assert release.status("setup-again") == 0
    assert release.out("setup-again") == "this machine is set up already\n"
    assert release.seconds("setup-again") < 1


@pytest.mark.parametrize("step", ["doctor", "doctor-user"])
def test_doctor_is_content_after_setup(step: str, release: Release) -> None:
    lacking = {name for name, ok in release.needs(step).items() if not ok}
    # What setup cannot give: these are this machine's, not the release's.
    assert lacking <= {"KVM", "disk space", "memory", "namespaces"}


def test_unit_tests_pass_on_the_other_python(release: Release) -> None:
    assert release.status("unit") == 0, release.said("unit")[-4000:]
    assert f"Python {PYTHON[release.codename]}." in release.out("unit")


def test_a_scenario_can_be_planned(release: Release) -> None:
    assert release.status("plan") == 0, release.said("plan")
