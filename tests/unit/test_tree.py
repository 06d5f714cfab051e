"""Rules that hold over the whole tree of sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).parents[2] / "lab"
SOURCES = sorted(LAB.rglob("*.py"))

MAX_FUNCTION_LINES = 60


def long_functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def imports_of(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        if any(name.split(".")[0] == module for name in names):
            yield f"line {node.lineno}: imports {module}"


def fixed_sleeps(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time" and "sleep" in [a.name for a in node.names]:
            yield f"line {node.lineno}: imports time.sleep"
        # Any .sleep() but 0, which yields to other coroutines and waits for nothing.
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep":
            zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if not zero:
                yield f"line {node.lineno}: sleeps"


@pytest.mark.parametrize("file", SOURCES, ids=[str(path.relative_to(LAB)) for path in SOURCES])
def test_sources_keep_the_rules(file: Path) -> None:
    tree = ast.parse(file.read_text())
    problems = [*long_functions(tree), *fixed_sleeps(tree)]
    if file != LAB / "proc.py":
        problems += imports_of(tree, "subprocess")
    assert problems == []


def folders_without_init(top: Path) -> list[str]:
    """import-linter sees packages only: what lies in a folder without ``__init__.py`` may import anything."""
    folders = {file.parent for file in top.rglob("*.py")}
    return sorted(str(folder.relative_to(top)) for folder in folders if not (folder / "__init__.py").exists())


def test_every_folder_is_a_package() -> None:
    assert folders_without_init(LAB) == []


def test_rules_notice_a_folder_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "local.py").touch()
    (tmp_path / "__init__.py").touch()
    assert folders_without_init(tmp_path) == ["host"]


def test_rules_notice_a_long_function() -> None:
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert list(long_functions(ast.parse(f"def f():\n{body}"))) == ["line 1: f has 61 lines"]
    assert list(long_functions(ast.parse(f"def f():\n{body[10:]}"))) == []


@pytest.mark.parametrize("source", ["import subprocess", "from subprocess import run", "import subprocess as s"])
def test_rules_notice_subprocess(source: str) -> None:
    assert list(imports_of(ast.parse(source), "subprocess"))


@pytest.mark.parametrize("source", ["time.sleep(1)", "from time import sleep", "asyncio.sleep(0.1)"])
def test_rules_notice_a_sleep(source: str) -> None:
    assert list(fixed_sleeps(ast.parse(source)))


def test_yielding_to_other_coroutines_is_no_sleep() -> None:
    assert list(fixed_sleeps(ast.parse("asyncio.sleep(0)"))) == []


def half_merged(file: Path) -> list[int]:
    """Lines with a mark that git leaves where two branches do not fit."""
    lines = file.read_text(errors="replace").splitlines()
    return [number for number, line in enumerate(lines, 1) if line.startswith(("<" * 7 + " ", ">" * 7 + " "))]


@pytest.mark.parametrize("folder", ["configs", "docs", "images", "lab", "tests"])
def test_no_merge_is_left_half_done(folder: str) -> None:
    files = [file for file in (LAB.parent / folder).rglob("*") if file.suffix in (".md", ".toml", ".py", ".c", ".sh")]
    assert files
    assert {str(file.relative_to(LAB.parent)): lines for file in files if (lines := half_merged(file))} == {}


def test_a_half_done_merge_is_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"{'<' * 7} HEAD\none\n{'=' * 7}\nother\n{'>' * 7} branch\n")
    assert half_merged(tmp_path / "page.md") == [1, 5]
