"""lab.checks.virtbus.build: sources and tools' outputs as they must be, and each with its fault."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from lab.checks.virtbus import build
from lab.checks.virtbus.bench import Seen
from lab.checks.virtbus.build import BUILDS
from lab.config.scenario import VirtbusScenario
from lab.model import Level, Verdict
from lab.scenarios.conformance import build_checks, unread

SOURCE = """\
/**
 * virtbus_dev_add - make a device known
 */
int virtbus_dev_add(struct virtbus_device *vdev)
{
	if (ret)
		return ret;
}
EXPORT_SYMBOL_GPL(virtbus_dev_add);
"""
FILES = {
    "sources/drivers/bus/virtual_bus.c": SOURCE,
    "sources/include/linux/virtual_bus.h": "struct virtbus_device {\n\tstruct device dev;\n\tint id;\n};\n",
    "sources/Documentation/virtual_bus.rst": "A matching service: call virtbus_dev_add().\n",
    "sources/Kconfig": "config VIRTUAL_BUS\n\ttristate\n\thelp\n\t  Matching service.\n",
    **{
        f"compile-{mode}-{power}.txt": "status 0\n  CC x.o\n"
        for mode in ("module", "builtin")
        for power in ("pm", "nopm")
    },
    "checkpatch.txt": "status 0\ntotal: 0 errors, 0 warnings, 0 checks, 9 lines checked\n",
    "kernel-doc.txt": "status 0\n",
    "sparse.txt": "status 0\n  CHECK drivers/bus/virtual_bus.c\n",
    "unterminated.txt": "status 1\nFATAL: modpost: u: struct virtbus_device_id is not terminated with a NULL entry!\n",
}
C, H, RST = (name for name in FILES if name.endswith((".c", ".h", ".rst")))

# Name of the check, file, text in it, and what makes a fault of it.
FAULTS = [
    ("R03/words", RST, "matching", "lightweight matching"),
    ("R03/words", "sources/Kconfig", "Matching service", "Devices"),
    ("R05/terminated", "unterminated.txt", "status 1", "status 0"),
    ("R05/terminated", "unterminated.txt", "is not terminated", "is not here"),
    ("R11/no-sentinel", C, "if (ret)", "vdev->id = -1;\n\tif (ret)"),
    ("R11/no-sentinel", H, "\tint id;", "\tint id;\n#define VIRTBUS_DEVID_NONE 3"),
    ("R12/flow", C, "if (ret)", "if (!ret)"),
    ("R13/null", C, "if (ret)", "if (IS_ERR_OR_NULL(vdev))"),
    ("R13/null", C, "if (ret)", "if (!vdev)"),
    ("R14/shape", H, "\tint id;", "\tint id;\n\tvoid *data;"),
    ("R20/prints", C, "make a device", "make a VirtBus device"),
    ("R21/checkpatch", "checkpatch.txt", "total", "a.c:3: CHECK: Alignment\ntotal"),
    ("R21/checkpatch", "checkpatch.txt", "status 0", "status 2"),
    ("R22/used", "callers/users-lan.c", "virtbus_dev_add", "virtbus_dev_init"),
    ("R23/names", H, "\tint id;", "\tconst struct vdpa_config_ops *ops;"),
    ("U11/pm", "compile-builtin-nopm.txt", "status 0", "status 2\nerror: no member named x"),
    ("U12/docs", "kernel-doc.txt", "status 0\n", "status 1\na.c:3: warning: Function parameter 'x' not described\n"),
    ("U12/docs", C, "virtbus_dev_add - make", "virtbus_dev_make - make"),
    ("U12/docs", RST, "virtbus_dev_add()", "virtbus_drv_reg()"),
    ("U14/w1", "compile-module-pm.txt", "CC x.o", "x.c:3: warning: unused"),
    ("U14/sparse", "sparse.txt", "CHECK drivers", "x.c:3: warning: symbol 'x' was not declared\n  CHECK drivers"),
]


# Who calls it; a fault of its own.
FILES["callers/users-lan.c"] = "	ret = virtbus_dev_add(&vdev);\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(build, "_DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "buses.md").write_text("virtbus, auxiliary, vDPA, mdev")
    return tmp_path


@pytest.mark.parametrize("name", BUILDS)
def test_as_it_must_be(folder: Path, name: str) -> None:
    seen = BUILDS[name](folder)
    assert isinstance(seen, Seen)
    assert seen.good, seen.seen


@pytest.mark.parametrize(("name", "file", "text", "fault"), FAULTS)
def test_a_fault_is_found(folder: Path, name: str, file: str, text: str, fault: str) -> None:
    before = (folder / file).read_text()
    assert text in before
    (folder / file).write_text(before.replace(text, fault, 1))
    seen = BUILDS[name](folder)
    assert isinstance(seen, Seen)
    assert not seen.good


def test_a_place_is_told_by_file_and_line(folder: Path) -> None:
    (folder / C).write_text(SOURCE.replace("if (ret)", "if (!vdev)"))
    seen = BUILDS["R13/null"](folder)
    assert isinstance(seen, Seen)
    assert seen.seen == "drivers/bus/virtual_bus.c:6: if (!vdev)"


def test_a_page_that_lacks_a_bus(folder: Path) -> None:
    (folder / "docs" / "buses.md").write_text("virtbus, auxiliary, vDPA")
    seen = BUILDS["R24/buses"](folder)
    assert isinstance(seen, Seen)
    assert (seen.good, seen.seen) == (False, "missing: mdev")


def test_every_check_was_seen_failing() -> None:
    assert {name for name, *_ in FAULTS} | {"R24/buses"} == set(BUILDS)


def test_a_macro_of_the_header_counts_as_the_function(folder: Path) -> None:
    (folder / C).write_text(SOURCE + "EXPORT_SYMBOL_GPL(__virtbus_dev_init);\n")
    seen = BUILDS["R22/used"](folder)
    assert isinstance(seen, Seen)
    assert seen.seen == "nobody calls __virtbus_dev_init"
    with (folder / H).open("a") as header:
        header.write("#define virtbus_dev_init(vdev) \\\n\t__virtbus_dev_init(vdev, KBUILD_MODNAME)\n")
    (folder / "callers/users-rdma.c").write_text("virtbus_dev_init(vdev);")
    seen = BUILDS["R22/used"](folder)
    assert isinstance(seen, Seen)
    assert seen.good


def test_a_scenario_of_them(folder: Path) -> None:
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["build"])
    (folder / "sparse.txt").unlink()
    checks = {check.name: check for check in build_checks(scenario, folder)}
    assert checks.keys() == {"the bus is there", *BUILDS}
    sparse = checks.pop("U14/sparse")
    assert (sparse.verdict, sparse.seen) == (Verdict.SKIP, "sparse is not installed")
    assert {check.verdict for check in checks.values()} == {Verdict.PASS}
    assert [name for name, check in checks.items() if check.proof] == ["the bus is there"]


OLD = (
    "Makefile:1311: C=2 specified, but sparse is not available or not up to date\n  CC [M]  drivers/bus/virtual_bus.o\n"
)


def test_a_sparse_that_did_not_run_has_nothing_to_say_and_is_no_pass(folder: Path) -> None:
    (folder / "sparse.txt").write_text(f"status 0\n{OLD}")
    assert BUILDS["U14/sparse"](folder) == "the installed sparse is too old for this kernel"
    (folder / "sparse.txt").write_text("status 0\n  CC [M]  drivers/bus/virtual_bus.o\n")
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["build"], only=["U14/sparse"])
    [check] = [check for check in build_checks(scenario, folder) if check.name == "U14/sparse"]
    assert (check.verdict, check.level, check.seen) == (Verdict.ERROR, Level.LAB, "sparse looked at no file")


def test_what_was_not_compiled_is_not_proved(folder: Path) -> None:
    for file in folder.glob("compile-*.txt"):
        file.write_text("status 2\nerror: no such file\n")
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["build"])
    checks = {check.name: check.verdict for check in build_checks(scenario, folder)}
    assert checks["the bus is there"] is Verdict.ERROR
    assert checks["U11/pm"] is checks["U14/w1"] is Verdict.FAIL


def test_without_callers_it_is_said_so(folder: Path) -> None:
    (folder / "callers/users-lan.c").unlink()
    assert BUILDS["R22/used"](folder) == "there is no caller whose source could be read"


def test_the_labs_page_says_nothing_about_a_series(folder: Path, tmp_path: Path) -> None:
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["build"], adapters=["mine"])
    checks = {check.name: check for check in build_checks(scenario, folder, tmp_path / "series")}
    assert [name for name, check in checks.items() if check.verdict is Verdict.SKIP] == ["R24/buses"]


@pytest.mark.parametrize(
    ("adapters", "bus", "reason"),
    [
        (["virtbus", "auxiliary"], None, ""),
        (["mine"], Path("series"), ""),
        (["mine", "auxiliary"], None, "they are read in the series"),
        (["mine"], "none", "the kernel has without a series"),
    ],
)
def test_sources_of_another_bus_are_not_the_labs(
    adapters: list[str], bus: Path | Literal["none"] | None, reason: str
) -> None:
    scenario = VirtbusScenario(kind="virtbus", summary="an example of it", topics=["build"], adapters=adapters)
    assert reason in unread(scenario, bus)
    assert bool(reason) == bool(unread(scenario, bus))
    if reason:
        checks = build_checks(scenario, None, bus)
        assert {check.name for check in checks} == set(BUILDS)
        assert {check.verdict for check in checks} == {Verdict.SKIP}
        assert reason in checks[0].seen
