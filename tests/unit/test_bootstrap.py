"""The shell bootstrap, with a stand-in for Python that remembers what it was asked for."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import proc
from lab.model import Completed

ROOT = Path(__file__).parents[2]

# Answers what the bootstrap asks of a Python. VERSION, NO_VENV and PIP_FAILS say how; its calls go to $CALLS.
STUB = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*"import ensurepip"*) [ -z "${NO_VENV:-}" ] ;;
*"sys.exit(sys.version_info < "*) [ "${VERSION:-311}" -ge 311 ] ;;
*"print(sys.version_info"*) if [ -e "$0.version" ]; then cat "$0.version"; else echo "${VERSION:-311}"; fi ;;
"-m venv"*)
    mkdir -p "$4/bin"
    rm -f "$4/bin/python"
    cp "$0" "$4/bin/python"
    echo "${VERSION:-311}" >"$4/bin/python.version"
    ;;
"-m pip"*) [ -z "${PIP_FAILS:-}" ] ;;
-V) echo "Python ${VERSION:-3.11}" ;;
"-P -m lab.cli"*) echo "lab.cli in $PWD:" "$@" ;;
*) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""

# Of apt-get and the like: remembers, and fails when told so.
ROOT_STUB = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
[ -z "${APT_FAILS:-}" ]
"""


@dataclass
class Checkout:
    """A copy of the files that the bootstrap looks at, a stand-in for python3 first in PATH, and its calls."""

    top: Path

    @property
    def calls(self) -> list[str]:
        log = self.top / "calls"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def installs(self) -> int:
        return sum(call.startswith("-m pip install") for call in self.calls)

    def run(self, *words: str, script: Path | None = None, shell: str = "/bin/sh", **env: str) -> Completed:
        stubs = f"{self.top / 'stubs'}{os.pathsep}{os.environ['PATH']}"
        inherited = {"VDPALAB_PYTHON": "", "VDPALAB_VENV": ""}
        argv = [shell, str(script or self.top / "vdpalab"), *words]
        return proc.run(argv, check=False, env={"PATH": stubs, "CALLS": str(self.top / "calls"), **inherited, **env})


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    top = tmp_path / "check out"
    (top / "stubs").mkdir(parents=True)
    for name in ("vdpalab", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, top)
    write_script(top / "stubs" / "python3", STUB)
    for name in ("apt-get", "sudo"):
        write_script(top / "stubs" / name, ROOT_STUB)
    write_script(top / "stubs" / "id", "#!/bin/sh\necho ${USER_ID:-0}\n")
    return Checkout(top)


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_first_run_makes_the_venv_and_the_next_does_not(checkout: Checkout, shell: str) -> None:
    first = checkout.run("list", "a b", shell=shell)
    assert first.text == f"lab.cli in {Path.cwd()}: -P -m lab.cli list a b"
    assert checkout.installs == 1
    again = checkout.run("list", "a b", shell=shell)
    assert (again.text, again.stderr) == (first.text, b"")
    assert checkout.installs == 1


def test_stdout_is_left_to_the_verb(checkout: Checkout) -> None:
    assert checkout.run("x", NO_VENV="1", VDPALAB_PYTHON="").text.startswith("lab.cli in")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(checkout: Checkout, name: str) -> None:
    checkout.run()
    with (checkout.top / name).open("a") as file:
        file.write("# changed\n")
    checkout.run()
    assert checkout.installs == 2
    assert sum(call.startswith("-m venv") for call in checkout.calls) == 1


def test_another_python_gets_another_venv(checkout: Checkout) -> None:
    checkout.run()
    other = checkout.top / "stubs" / "python3.13"
    write_script(other, STUB)
    checkout.run(VDPALAB_PYTHON=str(other), VERSION="313")
    assert sum(call.startswith("-m venv") for call in checkout.calls) == 2


def test_a_broken_venv_is_made_again(checkout: Checkout) -> None:
    checkout.run()
    (checkout.top / ".venv/bin/python").unlink()
    assert checkout.run("x").returncode == 0
    assert sum(call.startswith("-m venv") for call in checkout.calls) == 2


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    failed = checkout.run(PIP_FAILS="1")
    assert failed.returncode == 3
    assert b"error: pip could not install" in failed.stderr
    assert failed.stdout == b""
    assert checkout.run().returncode == 0
    assert checkout.installs == 2


def test_called_through_a_symlink_from_elsewhere(checkout: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "bin"
    link.symlink_to(checkout.top / "vdpalab")
    assert checkout.run(script=link).returncode == 0
    assert (checkout.top / ".venv/bin/python").exists()


def test_the_venv_can_live_elsewhere(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run(VDPALAB_VENV=str(tmp_path / "new" / "venv")).returncode == 0
    assert (tmp_path / "new/venv/bin/python").exists()
    assert not (checkout.top / ".venv").exists()


def test_first_runs_at_once_install_once(checkout: Checkout) -> None:
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda _n: checkout.run("x").returncode, range(4)))
    assert ends == [0, 0, 0, 0]
    assert checkout.installs == 1


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    refused = checkout.run(VERSION="310")
    assert refused.returncode == 3
    assert b"Python 3.11 or newer is needed" in refused.stderr


def test_root_installs_the_venv_module(checkout: Checkout) -> None:
    assert checkout.run(NO_VENV="1").returncode == 0
    assert "apt-get -qq install -y --no-install-recommends python3 python3-venv" in checkout.calls


def test_a_user_installs_it_by_sudo_without_being_asked(checkout: Checkout) -> None:
    checkout.run(NO_VENV="1", USER_ID="1000")
    assert "sudo -n apt-get -qq install -y --no-install-recommends python3 python3-venv" in checkout.calls


def test_without_root_it_says_what_to_install(checkout: Checkout) -> None:
    refused = checkout.run(NO_VENV="1", USER_ID="1000", APT_FAILS="1")
    assert refused.returncode == 3
    assert b"next: sudo apt-get install -y python3 python3-venv" in refused.stderr
    assert not (checkout.top / ".venv").exists()


def test_a_chosen_python_is_not_replaced_by_debians(checkout: Checkout) -> None:
    refused = checkout.run(NO_VENV="1", VDPALAB_PYTHON=str(checkout.top / "stubs" / "python3"))
    assert refused.returncode == 3
    assert not [call for call in checkout.calls if call.startswith("apt-get")]


def test_constraints_name_no_host_and_pin_everything() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if "==" not in line or "/" in line] == []
    setuptools = next(line for line in lines if line.startswith("setuptools=="))
    assert int(setuptools.partition("==")[2].split(".")[0]) < 80
    assert sys.version_info >= (3, 11)
