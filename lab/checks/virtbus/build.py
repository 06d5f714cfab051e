"""What is read from the sources of a bus and from what compilers and checkers said of it (lab.artifacts.busbuild).

Each check takes the artifact's directory; a string says why it could not look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.artifacts.busbuild import read_result
from lab.checks.virtbus.bench import Seen

_DOCS = Path(__file__).resolve().parents[3] / "docs"
_SHOWN = 8
_COMPLAINT = re.compile(r"\b(?:warning|error|WARNING|ERROR|CHECK): ")


def present(folder: Path) -> Seen:
    """There are sources, and where they were compiled, at least one configuration came out."""
    files, results = list(_sources(folder, ".c")), _compiled(folder)
    done = [name for name, (status, _) in results.items() if status == 0]
    words = f"{', '.join(files) or 'no source'}; compiled {len(done)} of {len(results)} configurations"
    return Seen(bool(files) and (bool(done) or not results), words, "a C file, and an object of it if it was compiled")


def words(folder: Path) -> Seen:
    """R03: documentation and Kconfig speak of matching, and promise nothing light."""
    texts = {**_sources(folder, ".rst"), "Kconfig": (folder / "sources/Kconfig").read_text()}
    light = [name for name, text in texts.items() if re.search(r"light-?weight", text, re.IGNORECASE)]
    silent = [name for name, text in texts.items() if "match" not in text.lower()]
    seen = f"light: {', '.join(light) or 'nowhere'}; not a word of matching: {', '.join(silent) or 'nowhere'}"
    good = not light and not silent and len(texts) > 1
    return Seen(good, seen, "documentation and Kconfig that call it a matching service")


def terminated(folder: Path) -> Seen:
    """R05: a driver whose table has no end does not get through modpost."""
    status, text = _result(folder, "unterminated")
    lines = [re.sub(r"/\S*/", "", line) for line in text.splitlines() if "is not terminated" in line]
    good = status != 0 and bool(lines)
    said = lines[0] if lines else "modpost took it" if status == 0 else _end(text)
    return Seen(good, said, "modpost refuses a table that is not terminated")


def no_sentinel(folder: Path) -> Seen:
    """R11: no number that stands for "none" is given to a device."""
    return _nowhere(folder, r"\bid\s*=\s*-\s*1\b|_(?:DEV)?ID_NONE\b", "a number that means none")


def flow(folder: Path) -> Seen:
    """R12: no branch that returns success in the middle of a function."""
    return _nowhere(folder, r"if \(!(ret|err|rc)\)\n?\s*return \1;", "`if (!ret) return ret`")


def null(folder: Path) -> Seen:
    """R13: what callers must give is not tested for NULL."""
    return _nowhere(folder, r"IS_ERR_OR_NULL\(|if \(!v?(?:dev|drv)\)|if \(!(?:vdev|vdrv)\)", "a test of an argument")


def shape(folder: Path) -> Seen:
    """R14: the bus's structures have no untyped pointer."""
    return _nowhere(folder, r"\bvoid \*\s*(?:data|priv\w*);", "an untyped pointer in a structure", (".h",))


def prints(folder: Path) -> Seen:
    """R20: one spelling, in lower case."""
    return _nowhere(folder, r"VirtBus|Virtbus\b", "VirtBus")


def checkpatch(folder: Path) -> Seen:
    """R21: checkpatch --strict has nothing to say."""
    return _quiet(folder, "checkpatch", "checkpatch --strict")


def used(folder: Path) -> Seen | str:
    """R22: every exported function is called by a user or by the suite."""
    callers = "".join(file.read_text() for file in (folder / "callers").glob("*"))
    if not callers:
        return "there is no caller whose source could be read"
    exported = re.findall(r"EXPORT_SYMBOL_GPL\((\w+)\)", "".join(_sources(folder, ".c").values()))
    headers = "".join(_sources(folder, ".h").values())
    unused = [name for name in exported if not _called(name, callers, headers)]
    seen = f"nobody calls {', '.join(unused)}" if unused else f"{len(exported)} exported, all called"
    return Seen(bool(exported) and not unused, seen, "a caller of everything that is exported")


def _called(name: str, callers: str, headers: str) -> bool:
    """Directly, or by a macro of the header that has its name without the underscores."""
    return any(re.search(rf"\b{word}\(", callers) for word in {name, *(_macros(name, headers))})


def _macros(name: str, headers: str) -> list[str]:
    return re.findall(rf"^#define (\w+)\([^\n]*(?:\\\n[^\n]*)*\b{name}\(", headers, re.MULTILINE)


def names(folder: Path) -> Seen:
    """R23: the header has neither operations of a class of devices nor the names of other buses."""
    return _nowhere(folder, r"struct (?!dev_pm_ops)\w+_ops\b|\b(?:virtio|vdpa|netdev|ib_device)", "operations", (".h",))


def buses(_folder: Path) -> Seen:
    """R24: the project's page tells the four buses apart."""
    page = _DOCS / "buses.md"
    text = page.read_text() if page.exists() else ""
    missing = [word for word in ("virtbus", "auxiliary", "vDPA", "mdev") if word not in text]
    return Seen(not missing, f"missing: {', '.join(missing) or 'nothing'}", "a page about all four")


def power(folder: Path) -> Seen:
    """U11: compiled as a module and built in, with power management and without."""
    results = _compiled(folder)
    bad = [f"{name}: {_end(text)}" for name, (status, text) in results.items() if status != 0]
    good = not bad and len(results) == 4
    return Seen(good, "; ".join(bad) or f"compiled: {', '.join(results)}", "four configurations compile")


def docs(folder: Path) -> Seen:
    """U12: kernel-doc finds no fault; what is exported is documented, and what the page names is there."""
    status, text = _result(folder, "kernel-doc")
    complaints = _complaints(text)
    code = "".join(_sources(folder, ".c", ".h").values())
    exported = {name.lstrip("_") for name in re.findall(r"EXPORT_SYMBOL_GPL\((\w+)\)", code)}
    described = {name.lstrip("_") for name in re.findall(r"^ \* (\w+)(?:\(\))? - ", code, re.MULTILINE)}
    named = {name for page in _sources(folder, ".rst").values() for name in re.findall(r"\b(\w+)\(\)", page)}
    bad = [*complaints, *(f"{name} is not documented" for name in sorted(exported - described))]
    bad += [
        f"{name}() is on the page and nowhere else" for name in sorted(named) if not re.search(rf"\b{name}\b", code)
    ]
    known = [line for line in bad if not line.startswith(_OF_THE_KERNEL)]
    return Seen(status == 0 and not known, _some(known) or f"{len(exported)} exported", "no complaint, all documented")


# Functions of the kernel that a page may well name.
_OF_THE_KERNEL = ("container_of()", "put_device()", "get_device()", "device_", "dev_", "module_", "pci_")


def w1(folder: Path) -> Seen:
    """U14: W=1 has nothing to say in any configuration."""
    lines = [f"{name}: {line}" for name, (_, text) in _compiled(folder).items() for line in _complaints(text)]
    bad = [name for name, (status, _) in _compiled(folder).items() if status != 0]
    return Seen(not lines and not bad, _some([*lines, *bad]) or "no warning", "no warning with W=1")


def sparse(folder: Path) -> Seen | str:
    """U14: sparse has nothing to say. A kernel that it is too old for only notes that, and does not run it."""
    found = read_result(folder / "sparse.txt")
    if found is None:
        return "sparse is not installed"
    if "is not available or not up to date" in found[1]:
        return "the installed sparse is too old for this kernel"
    seen = _quiet(folder, "sparse", "sparse")
    looked = re.search(r"^ +CHECK +\S", found[1], re.MULTILINE)
    return seen if looked or not seen.good else Seen.unproven("sparse looked at no file", seen.expected)


BUILDS: Mapping[str, Callable[[Path], Seen | str]] = {
    "R03/words": words,
    "R05/terminated": terminated,
    "R11/no-sentinel": no_sentinel,
    "R12/flow": flow,
    "R13/null": null,
    "R14/shape": shape,
    "R20/prints": prints,
    "R21/checkpatch": checkpatch,
    "R22/used": used,
    "R23/names": names,
    "R24/buses": buses,
    "U11/pm": power,
    "U12/docs": docs,
    "U14/w1": w1,
    "U14/sparse": sparse,
}


# These are about the lab's own bus, whatever sources there are.
OF_THE_LAB = frozenset(["R24/buses"])
# What each check looks at beside the sources.
TOOLS: Mapping[str, str] = {
    "R05/terminated": "unterminated",
    "R21/checkpatch": "checkpatch",
    "U11/pm": "compile",
    "U12/docs": "kernel-doc",
    "U14/w1": "compile",
    "U14/sparse": "sparse",
}


def _sources(folder: Path, *suffixes: str) -> dict[str, str]:
    top = folder / "sources"
    return {str(file.relative_to(top)): file.read_text() for file in sorted(top.rglob("*")) if file.suffix in suffixes}


def _nowhere(folder: Path, pattern: str, what: str, suffixes: Sequence[str] = (".c", ".h", ".rst")) -> Seen:
    """Whether a pattern is in no source; where it is, file and line are told. No source at all is no such place."""
    texts = _sources(folder, *suffixes)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for name, text in texts.items()
        for match in re.finditer(pattern, text)
    ]
    return Seen(bool(texts) and not found, _some(found) or f"nowhere in {', '.join(texts)}", f"{what} nowhere")


def _quiet(folder: Path, tool: str, name: str) -> Seen:
    status, text = _result(folder, tool)
    lines = _complaints(text)
    return Seen(status == 0 and not lines, _some(lines) or f"status {status}", f"{name} has nothing to say")


def _result(folder: Path, tool: str) -> tuple[int, str]:
    return read_result(folder / f"{tool}.txt") or (-1, f"{tool} was not run")


def _compiled(folder: Path) -> dict[str, tuple[int, str]]:
    files = sorted(folder.glob("compile-*.txt"))
    return {file.stem.removeprefix("compile-"): _result(folder, file.stem) for file in files}


def _complaints(text: str) -> list[str]:
    """Lines of a tool that complain, but for its count of them."""
    return [line for line in text.splitlines() if _COMPLAINT.search(line) and not line.startswith("total: ")]


def _some(lines: Sequence[str]) -> str:
    more = f"\n… {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "\n".join(lines[:_SHOWN]) + more


def _end(text: str) -> str:
    return _some(_complaints(text)) or (text.strip().splitlines() or ["no output"])[-1]
