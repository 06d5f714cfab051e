"""lab.checks.virtbus: what each procedure makes of the answers of its script, good and bad."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from lab import proc
from lab.checks.virtbus import modules, pm
from lab.checks.virtbus.api import _QUIET
from lab.checks.virtbus.bench import _PRELUDE, Bench, Event, events, stage, unload_all
from lab.checks.virtbus.errors import _CAN_FAIL
from lab.checks.virtbus.lifetime import _KMEMLEAK
from lab.checks.virtbus.modules import Loaded
from lab.checks.virtbus.procedures import PROCEDURES
from lab.checks.virtbus.races import _TOGETHER
from lab.errors import CommandError
from lab.host.fake import FakeHost
from lab.model import Level, Verdict
from tests.unit.test_buildid import ID, NOTE

DEVICE = "vbt_dev_virtbus.alpha.0"
PARENT = "vbt_dev_virtbus_parent"
CYCLE = f"""\
bound={DEVICE}
free=vbt_dev_virtbus.gamma.0
parent={PARENT}
froze=yes
log=0 2000 {DEVICE} suspend
log=1 5000 {DEVICE} resume
log=0 3000 {PARENT} suspend
log=1 4000 {PARENT} resume
"""
ALIAS = f"""\
alias=virtbus:vbt_dev_virtbus.beta
alias=virtbus:vbt_dev_virtbus.alpha
user=virtbus_rdma
of_user=virtbus:virtbus_lan.rdma
device={DEVICE}
modalias=virtbus:vbt_dev_virtbus.alpha
"""
USERS = """\
function=0000:05:00.0
below=0000:05:00.0
group=0000:05:00.0
copied=1024 bytes
function=0000:06:00.0
below=0000:06:00.0
group=0000:06:00.0
copied=1024 bytes
"""
OPERATIONS = "queues=3 of 16\nmany=refused\nlink=up after 1 events\nclass=gone\nafter=-19\n"
REMOVE = """\
function=0000:05:00.0
device=virtbus_lan.rdma.0
log=[    9.123456] vbt: 77 virtbus_lan.rdma.0 remove
log=[    9.123457] vbt: 78 0000:05:00.0 remove
gone=yes
"""
RACE = "create=9\ndestroy=9\nunbind=20\nbind=21\nbalance=0\nbound=0\n"
SYSFS = RACE + "announce=5\noverride=6\nread-uevent=7\nread-modalias=7\nread-driver_override=7\nread-power=9\nscan=8"
COMING = "driver-goes=3\ndriver-comes=4\n"
QUARANTINED = "made=2000\nunique=2000\ncounts=2000 2000\nmemory=quarantined\n"
MANY = "made=2000\nunique=2000\ncounts=2000 2000\ngrown_kb=40\n"

CAN_FAIL = """\
log=[    9.100000] KTAP version 1
log=[    9.100000] 1..2
log=[    9.200000] # X01: vbt_test.c:9: 1 + 1 is 2, expected 3
log=[    9.200000] not ok 1 X01 a check that fails
log=[   10.200000] not ok 2 X03 a test that takes too long
log=[   10.200000] # vbt_test: 2 failed, 0 passed, 0 skipped
kept=yes
gone=yes
"""
OVERRIDE = "ours=vbt_drv\ngamma=nobody\nforced=vbt_drv\ntold=0\nkept_away=nobody\nagain=vbt_drv"

# Name of the procedure, an answer that is good, and what of it makes it bad, with the replacement.
CASES = [
    ("R01/anchor", f"device={DEVICE}\npath=/sys/devices/platform/{PARENT}/{DEVICE}", f"{PARENT}/", ""),
    ("R01/anchor", f"device={DEVICE}\npath=/sys/devices/platform/{PARENT}/{DEVICE}", "/platform", "/virtual"),
    ("R02/class", USERS, "below=0000:06:00.0", ""),
    ("R02/class", USERS, "group=0000:05:00.0\n", "group=0000:05:00.0\ndma=virtbus_lan.rdma.0\n"),
    ("R02/class", USERS, "1024 bytes\nfunction", "\nfunction"),
    ("R05/modinfo", ALIAS, "alias=virtbus:vbt_dev_virtbus.beta", ""),
    ("R05/modinfo", ALIAS, "of_user=virtbus:virtbus_lan.rdma", ""),
    ("R06/uevent", ALIAS, "modalias=virtbus:vbt_dev_virtbus.alpha", ""),
    ("R06/uevent", ALIAS, "modalias=virtbus:vbt_dev_virtbus.alpha", f"modalias=virtbus:{DEVICE}"),
    ("R06/autoload", "driver=vbt_drv", "driver=vbt_drv", ""),
    ("R07/fail-nth", "done=17\nerrors=0:2 12:15\nalive=0\nbalance=0", "done=17", ""),
    ("R07/fail-nth", "done=17\nerrors=0:2 12:15\nalive=0\nbalance=0", "12:15", "12:14 22:1"),
    ("R07/fail-nth", "done=17\nerrors=0:2 12:15\nalive=0\nbalance=0", "balance=0", "balance=1"),
    ("R07/fail-nth", "done=1\nerrors=0:1 12:1\nalive=0\nbalance=0", "0:1 12:1", "0:1"),
    ("R07/failslab", "errors=0:30 12:30\nalive=0\nbalance=0", "alive=0", "alive=2"),
    ("R09/hold", f"first={DEVICE}\nsecond=b.1\nheld=1\nthird={DEVICE}", "second=b.1", f"second={DEVICE}"),
    ("R09/hold", f"first={DEVICE}\nsecond=b.1\nheld=1\nthird={DEVICE}", f"third={DEVICE}", ""),
    ("R10/scale", MANY, "unique=2000", "unique=1999"),
    ("R10/scale", MANY, "counts=2000 2000", "counts=2000 1999"),
    ("R10/scale", MANY, "grown_kb=40", "grown_kb=900"),
    ("R10/scale", MANY, "grown_kb=40", ""),
    ("R10/scale", QUARANTINED, "counts=2000 2000", "counts=2000 1999"),
    ("R10/unload", "gone=virtual_bus", "gone=virtual_bus", ""),
    ("R10/kmemleak", "scanned=yes", "scanned=yes", "scanned=yes\nleak=unreferenced object 0xffff (size 32):"),
    ("R10/kmemleak", "scanned=yes", "scanned=yes", ""),
    ("R16/twin", "dev=a.0\ntwin=b.0\nlog=0 5 a.0 probe 1\nlog=1 6 b.0 probe 3", "probe 3", "probe 1"),
    ("R16/twin", "dev=a.0\ntwin=b.0\nlog=0 5 a.0 probe 1\nlog=1 6 b.0 probe 3", "log=1 6 b.0 probe 3", ""),
    ("R18/freeze", CYCLE, "froze=yes", ""),
    ("R18/freeze", CYCLE, f"3000 {PARENT}", f"1000 {PARENT}"),
    ("R18/freeze", CYCLE, f"4000 {PARENT}", f"6000 {PARENT}"),
    ("R18/pci-remove", REMOVE, "vbt: 77", "vbt: 79"),
    ("R18/pci-remove", REMOVE, "vbt: 78 0000:05:00.0 remove", ""),
    ("R19/once", CYCLE, f"log=1 5000 {DEVICE} resume\n", f"log=1 5000 {DEVICE} resume\n" * 2),
    ("R19/once", CYCLE, f"log=0 2000 {DEVICE} suspend\n", ""),
    ("R22/users", OPERATIONS, "after=-19", "after=0"),
    ("R22/users", OPERATIONS, "many=refused", ""),
    ("R25/functions", "first=gone\nsecond=1024 bytes\nagain=1024 bytes", "second=1024 bytes", "second="),
    ("R26/can-fail", CAN_FAIL, "not ok 1", "ok 1"),
    ("R26/can-fail", CAN_FAIL, "not ok 2", "ok 2"),
    ("R26/can-fail", CAN_FAIL, "log=[   10.200000] # vbt_test: 2 failed, 0 passed, 0 skipped\n", ""),
    ("R26/can-fail", CAN_FAIL, "kept=yes", ""),
    ("R26/can-fail", CAN_FAIL, "gone=yes", ""),
    ("R27/override", OVERRIDE, "forced=vbt_drv", "forced=nobody"),
    ("R27/override", OVERRIDE, "told=0", "told=1"),
    ("R27/override", OVERRIDE, "kept_away=nobody", "kept_away=vbt_drv"),
    ("R27/override", OVERRIDE, "ours=vbt_drv", "ours=nobody"),
    ("R27/bind", "bound=d\ntimes=200\nprobe=201\nremove=200", "remove=200", "remove=199"),
    ("R27/bind", "bound=d\ntimes=200\nprobe=201\nremove=200", "times=200", "still=7\ntimes=7"),
    ("R27/race", RACE, "balance=0", "balance=2"),
    ("R27/race", RACE, "unbind=20", "unbind=0"),
    ("R27/race", RACE, "\nbind=21", ""),
    ("R27/race", RACE, "bound=0", "bound=1"),
    ("R27/sysfs", SYSFS, "scan=8", ""),
    ("R27/sysfs", SYSFS, "\noverride=6", "\noverride=0"),
    ("R27/sysfs", SYSFS, "\noverride=6", ""),
    ("R27/sysfs", SYSFS, "read-uevent=7", ""),
    ("R27/sysfs", SYSFS, "read-modalias=7", ""),
    ("U01/freeze", "froze=yes\ndevices=2", "froze=yes", ""),
    ("U02/quiet", "heard=yes", "heard=yes", ""),
    ("U02/quiet", "heard=yes", "heard=yes", "heard=yes\nsaid=Driver 'x' needs updating - please use bus_type methods"),
    ("U03/release", "created=10\nreleased=10", "released=10", "released=9"),
    ("U10/create", RACE + COMING + "take=3", "balance=0", "balance=1"),
    ("U10/create", RACE + COMING + "take=3", "take=3", "take=2"),
    ("U10/race", RACE + COMING + "creator-goes=3\ncreator-comes=3", "driver-comes=4", "driver-comes=0"),
    ("U10/rmmod", "waited_ms=1510\nleft=0", "waited_ms=1510", "waited_ms=20"),
    ("U10/rmmod", "waited_ms=1510\nleft=0", "left=0", "left=1"),
]


def bench(folder: Path, answer: str) -> Bench:
    return Bench(FakeHost({"*": answer}, folder), "virtbus")


@pytest.mark.parametrize(("name", "good", "part", "instead"), CASES)
def test_procedure(tmp_path: Path, name: str, good: str, part: str, instead: str) -> None:
    seen = PROCEDURES[name](bench(tmp_path / "good", good))
    assert seen.good, seen.seen
    assert part in good
    bad = good.replace(part, instead) if part else instead
    assert not PROCEDURES[name](bench(tmp_path / "bad", bad)).good
    assert seen.expected


def test_only_a_bus_that_is_not_known_to_have_them_is_judged_without_an_attribute(tmp_path: Path) -> None:
    answer = SYSFS.replace("override=6\n", "").replace("read-modalias=7\n", "")
    control = Bench(FakeHost({"*": answer}, tmp_path), "auxiliary")
    assert PROCEDURES["R27/sysfs"](control).good
    seen = PROCEDURES["R27/sysfs"](bench(tmp_path / "virtbus", answer))
    assert (seen.good, seen.proven) == (False, False)
    assert "for want of override, read-modalias: " in seen.seen


def test_memory_that_nobody_can_look_at_is_not_judged(tmp_path: Path) -> None:
    seen = PROCEDURES["R10/scale"](bench(tmp_path, "made=2000\nunique=2000\ncounts=2000 2000\n"))
    assert (seen.good, seen.proven) == (False, False)


def test_what_was_hardly_done_is_no_race_and_no_fault(tmp_path: Path) -> None:
    seen = PROCEDURES["R27/race"](bench(tmp_path, RACE.replace("unbind=20", "unbind=2")))
    assert (seen.good, seen.proven) == (False, False)
    assert seen.seen.startswith("hardly a race, for want of unbind: create 9")
    lost = RACE.replace("unbind=20", "unbind=2").replace("balance=0", "balance=1")
    assert PROCEDURES["R27/race"](bench(tmp_path / "lost", lost)).proven


def test_a_race_goes_on_until_all_was_done_often_enough(tmp_path: Path) -> None:
    script = _PRELUDE + _TOGETHER[: _TOGETHER.index("quietly dev drv")] + "slow() { sleep 0.1; did it true; }\n"
    done = proc.run(["sh", "-ec", f"{script}together slow", "sh", str(tmp_path), "", "300", "0", "5", "it"])
    assert done.text.removeprefix("it=") in ("5", "6", "7")
    assert done.stderr == b""


def test_every_file_of_a_device_is_read(tmp_path: Path) -> None:
    node = tmp_path / "bus" / "devices" / "a.0"
    (node / "power").mkdir(parents=True)
    for name in ("uevent", "modalias"):
        (node / name).write_text("x\n")
    script = _PRELUDE + _TOGETHER[: _TOGETHER.index("quietly dev drv")] + f"BUS={tmp_path}/bus\n"
    wanted = "read-uevent read-modalias read-power"
    done = proc.run(["sh", "-ec", f"{script}together reads", "sh", str(tmp_path), "", "6", "0", "2", wanted])
    counts = dict(line.split("=") for line in done.text.splitlines())
    assert int(counts["read-uevent"]) >= 2 <= int(counts["read-modalias"])
    assert counts["read-power"] == "0"


def test_what_is_refused_in_a_race_was_not_done(tmp_path: Path) -> None:
    jobs = 'works() { did kept write x "$KO/file"; }\nfails() { did refused write x "$KO/none/file"; }\n'
    script = _PRELUDE + _TOGETHER[: _TOGETHER.index("quietly dev drv")] + jobs + "together works fails\n"
    done = proc.run(["sh", "-ec", script, "sh", str(tmp_path), "", "6", "0", "3", "kept refused"])
    counts = dict(line.split("=") for line in done.text.splitlines())
    assert int(counts["kept"]) > 0
    assert counts["refused"] == "0"


@pytest.mark.parametrize(("answers", "said"), [("return 0", "scanned=yes"), ("return 1", "")])
def test_a_kernel_that_does_not_scan_has_not_been_found_free_of_leaks(tmp_path: Path, answers: str, said: str) -> None:
    script = _KMEMLEAK[_KMEMLEAK.index("if found=") :]
    assert proc.run(["sh", "-ec", f"find_leaks() {{ {answers}; }}\n{script}"]).text == said
    seen = PROCEDURES["R10/kmemleak"](bench(tmp_path, said))
    assert (seen.good, seen.proven) == (bool(said), bool(said))


@pytest.mark.parametrize("name", sorted(PROCEDURES))
def test_no_answer_is_not_good(tmp_path: Path, name: str) -> None:
    assert not PROCEDURES[name](bench(tmp_path, "")).good


def test_every_procedure_was_seen_failing() -> None:
    assert {name for name, *_ in CASES} == set(PROCEDURES)


def test_a_script_that_fails_says_so(tmp_path: Path) -> None:
    host = FakeHost({"*": (70, "it did not happen in 30 s")}, tmp_path)
    with pytest.raises(CommandError, match="it did not happen"):
        PROCEDURES["R01/anchor"](Bench(host, "virtbus"))


def test_one_cycle_is_judged_by_two(tmp_path: Path) -> None:
    board = bench(tmp_path, CYCLE)
    assert PROCEDURES["R18/freeze"](board).good
    assert PROCEDURES["R19/once"](board).good
    assert len(board.host.commands) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("3 123 a.0 probe 1", Event(123, "a.0", "probe 1")),
        ("[    9.1] vbt: 123 0000:05:00.0 shutdown", Event(123, "0000:05:00.0", "shutdown")),
        ("[    9.1][    T1] vbt: 5 a.0 remove", Event(5, "a.0", "remove")),
        ("[    9.1] virtio_net virtio0: something 123 else", None),
        ("# vbt_test: 1 failed", None),
    ],
)
def test_events(line: str, event: Event | None) -> None:
    assert events(line) == ([event] if event else [])


def test_shutdown_on_a_console() -> None:
    console = f"[ 1.0] vbt: 8 {DEVICE} shutdown\r\n[ 1.1] vbt: 9 {PARENT} shutdown\r\n[ 1.2] reboot: Restarting\r\n"
    prepared = {"bound": DEVICE, "parent": PARENT}
    assert pm.shutdown_order(console, prepared).good
    assert not pm.shutdown_order(console.replace("vbt: 8", "vbt: 10"), prepared).good
    assert not pm.shutdown_order("", prepared).good
    assert not pm.shutdown_order(console, {}).good


def test_loading_the_bus_tells_what_is_loaded(tmp_path: Path) -> None:
    loaded = modules.load_bus(bench(tmp_path, f"virtual_bus={NOTE.hex()} /lib/modules/x/virtual_bus.ko\n"))
    assert loaded == [Loaded("virtual_bus", ID.hex(), "/lib/modules/x/virtual_bus.ko")]
    assert modules.load_bus(bench(tmp_path / "builtin", "")) == []


def test_the_proof_of_a_module() -> None:
    good = modules.judge("virtual_bus", Loaded("virtual_bus", ID.hex(), "f"), ID.hex())
    assert (good.verdict, good.proof, good.level) == (Verdict.PASS, True, None)
    for other in (Loaded("virtual_bus", "", "f"), Loaded("virtual_bus", "00", "f")):
        bad = modules.judge("virtual_bus", other, ID.hex())
        assert (bad.verdict, bad.proof, bad.level) == (Verdict.ERROR, True, Level.LAB)


def test_tests_are_asked_for_by_id(tmp_path: Path) -> None:
    host = FakeHost({"*": f"notes={NOTE.hex()}"}, tmp_path)
    assert modules.run_tests(Bench(host, "auxiliary"), ["R01", "U03"], test_s=3, timeout_s=9).build_id == ID.hex()
    assert host.commands[0].endswith(" vdpalab /run/vdpalab/vbt auxiliary 300 R01,U03 3")


def test_staging_puts_every_module(tmp_path: Path) -> None:
    for name in ("a.ko", "b.ko"):
        (tmp_path / name).write_bytes(name.encode())
    host = FakeHost({"*": ""}, tmp_path / "host")
    stage(host, sorted(tmp_path.glob("*.ko")))
    with tarfile.open(fileobj=io.BytesIO(host.inputs[0])) as tar:
        assert tar.getnames() == ["a.ko", "b.ko"]


def test_what_would_not_go_is_told(tmp_path: Path) -> None:
    assert unload_all(FakeHost({"*": "vbt_dev_virtbus\n"}, tmp_path)) == ["vbt_dev_virtbus"]


def test_a_slow_machine_is_given_more_tries(tmp_path: Path) -> None:
    host = FakeHost({"*": ""}, tmp_path)
    host.slowness = 2.5
    Bench(host, "auxiliary").script("true", "argument")
    unload_all(host)
    assert host.commands[0].endswith(" vdpalab /run/vdpalab/vbt auxiliary 750 argument")
    assert host.commands[1].endswith(" vdpalab '' '' 750")


@pytest.mark.parametrize(("alive", "status"), [("0", 0), ("1", 70)])
def test_what_does_not_come_in_time_ends_the_script_where_that_was_not_excused(
    tmp_path: Path, alive: str, status: int
) -> None:
    (tmp_path / "counters").write_text(f"alive {alive}\n")
    script = _PRELUDE + 'DEV=$1\n( released "$DEV" ) || :\necho here\nreleased "$DEV"\necho there\n'
    done = proc.run(["sh", "-ec", script, "sh", "", "", "2", str(tmp_path)], check=False)
    assert (done.returncode, done.text) == (status, "here" if status else "here\nthere")


@pytest.mark.parametrize(("stays", "status"), [("none", 0), ("vbt_dev_x", 70)])
def test_modules_go_side_by_side_and_one_that_stays_is_named(tmp_path: Path, stays: str, status: int) -> None:
    """Each needs the other to begin: one after the other, neither would go."""
    for name in ("vbt_drv_x", "vbt_dev_x"):
        (tmp_path / name).mkdir()
    prelude = _PRELUDE.replace("/sys/module", str(tmp_path))
    rmmod = f"""
rmmod() {{
    touch "{tmp_path}/begun_$1"
    until [ -e "{tmp_path}/begun_vbt_drv_x" ] && [ -e "{tmp_path}/begun_vbt_dev_x" ]; do sleep 0.01; done
    [ "$1" = {stays} ] || rmdir "{tmp_path}/$1"
}}
"""
    done = proc.run(["sh", "-ec", f"{prelude}{rmmod}unload drv dev\necho gone", "sh", "", "x", "20"], check=False)
    assert (done.returncode, done.text) == (status, "" if status else "gone")
    assert done.stderr.decode() == ("vbt_dev_x did not go in 1 s\n" if status else "")


def test_a_module_that_stays_leaves_no_other_on_its_way(tmp_path: Path) -> None:
    """Who unloads next would meet its rmmod."""
    script = f"""
leave() {{ [ "$1" = vbt_dev_x ] && return 1; sleep 0.3; touch "{tmp_path}/$1"; }}
( unload dev drv ) || ls "{tmp_path}"
"""
    assert proc.run(["sh", "-ec", _PRELUDE + script, "sh", "", "x", "20"]).text == "vbt_drv_x"


@pytest.mark.parametrize(("rmmod", "said"), [("sleep 0.3; rmdir", "loaded"), ("false", "stays=vbt_test_x")])
def test_tests_that_cannot_be_loaded_again_say_nothing(tmp_path: Path, rmmod: str, said: str) -> None:
    """Nothing of the bus; those that are only on their way out are waited for."""
    (tmp_path / "vbt_test_x").mkdir()
    commands = f'rmmod() {{ {rmmod} "{tmp_path}/$1"; }}\ninsmod() {{ echo loaded; exit 0; }}\n'
    script = (_PRELUDE + commands + _CAN_FAIL).replace("/sys/module", str(tmp_path)).replace("/dev/kmsg", "/dev/null")
    assert proc.run(["sh", "-ec", script, "sh", "", "x", "20"]).text == said


def test_a_suite_whose_tests_have_left_their_module_is_unproven(tmp_path: Path) -> None:
    seen = PROCEDURES["R26/can-fail"](bench(tmp_path, "stays=vbt_test_virtbus"))
    assert (seen.good, seen.proven) == (False, False)
    assert "a test that failed has left it" in seen.seen


def test_only_what_the_kernel_said_meanwhile_counts_as_a_complaint(tmp_path: Path) -> None:
    complaint = "vbt: driver needs updating - please use bus_type methods"
    log = f"old: {complaint}\nvbt: quiet auxiliary\nold: {complaint}\nvbt: quiet virtbus\nnew: {complaint}\n"
    (tmp_path / "log").write_text(log)
    tail = _QUIET[_QUIET.index("since=") :]
    script = 'N=virtbus LOG=$1\ndmesg() { cat "$LOG"; }\n' + tail
    assert proc.run(["sh", "-ec", script, "sh", str(tmp_path / "log")]).text == f"heard=yes\nsaid=new: {complaint}"
    (tmp_path / "log").write_text(f"new: {complaint}\n")
    assert not proc.run(["sh", "-ec", script, "sh", str(tmp_path / "log")]).text
    assert "load dev drv" in _QUIET
