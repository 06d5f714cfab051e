"""The group of verbs: lazy, listed from a table, completed by shells."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab.cli
from lab import proc
from lab.cli import main
from lab.cli.group import VERBS, cli
from lab.model import Completed

CLI = [sys.executable, "-P", "-m", "lab.cli"]


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def vdpalab(*arguments: str, **env: str) -> Completed:
    return proc.run([*CLI, *arguments], check=False, env=env)


def offered() -> list[str]:
    return [verb for verb in VERBS if Path(lab.cli.__file__).with_name(f"{verb}.py").exists()]


def test_help_lists_the_verbs_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert [verb for verb in offered() if f"  {verb} " not in help_text] == []
    assert "setup" in help_text


def test_help_imports_no_verb() -> None:
    modules = "sorted(m for m in sys.modules if m.startswith('lab.cli.'))"
    code = f"import sys, lab.cli; lab.cli.main(['--help']); print({modules})"
    assert proc.run([sys.executable, "-P", "-c", code]).text.splitlines()[-1] == "['lab.cli.exit', 'lab.cli.group']"


@pytest.mark.parametrize("verb", offered())
def test_each_verb_teaches_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"vdpalab {verb}" in capsys.readouterr().out.partition("\n")[2]


def test_every_module_named_like_a_verb_has_a_command() -> None:
    for verb in offered():
        command = cli.get_command(None, verb)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == verb


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--no-such-option"], ["setup", "--no-such-option"], ["exit"]])
def test_unknown_words_are_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vdpalab: error: No such")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vdpalab, version {lab.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", shell]) == 0
    assert "_VDPALAB_COMPLETE" in capsys.readouterr().out


def test_completion_offers_verbs_and_their_options() -> None:
    # zsh, because bash's own support asks the installed bash for its version.
    def complete(words: str, index: int) -> str:
        return vdpalab(COMP_WORDS=words, COMP_CWORD=str(index), _VDPALAB_COMPLETE="zsh_complete").text

    assert "setup" in complete("vdpalab se", 1).splitlines()
    assert "doctor" not in complete("vdpalab se", 1).splitlines()
    assert "--check" in complete("vdpalab setup --", 2).splitlines()


def test_sigterm_becomes_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def verb(_arguments: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        return 0

    monkeypatch.setattr("lab.cli.group._invoke", verb)
    assert main([]) == 130


def test_a_reader_that_left_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with proc.spawn([*CLI, "--help"], stdout=writer, stderr=-1) as child:
        os.close(writer)
        _, said = child._popen.communicate()
    assert said == b""
    assert child.poll() == 3
