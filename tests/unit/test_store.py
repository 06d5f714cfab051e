"""The artifact store: one build per set of inputs, published whole, checked at each use."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab import proc
from lab.artifacts.store import Progress, Recipe, Store, cache_root
from lab.errors import BuildError, CompileError, InputError

Build = Callable[[Path, Progress], None]


def writes(text: str) -> Build:
    def build(into: Path, _progress: Progress) -> None:
        (into / "file").write_text(text)
        (into / "folder").mkdir()
        (into / "folder" / "link").symlink_to("../file")

    return build


def recipe(name: str = "thing", build: Build | None = None, **inputs: str) -> Recipe:
    return Recipe(name, inputs or {"a": "1"}, build or writes("content"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)


def test_builds_once(store: Store, said: list[str]) -> None:
    first = store.get(recipe())
    assert first.built
    assert (first.path / "folder" / "link").read_text() == "content"
    count = len(said)
    second = store.get(recipe())
    assert not second.built
    assert second.path == first.path
    assert len(said) == count


def test_other_inputs_are_another_artifact(store: Store, said: list[str]) -> None:
    one = store.get(recipe(a="1", same="x"))
    two = store.get(recipe(a="2", same="x", b="3"))
    assert two.path != one.path
    assert "thing: building, because a changed (1 -> 2), b is new (3)" in said
    assert one.path.exists()


def test_key_does_not_depend_on_order_or_place(tmp_path: Path) -> None:
    assert Recipe("n", {"a": "1", "b": "2"}, writes("")).key == Recipe("n", {"b": "2", "a": "1"}, writes("x")).key
    assert recipe("n").key != recipe("m").key


def change_size(file: Path) -> None:
    file.write_text("longer content")


def change_content(file: Path) -> None:
    file.write_text("CONTENT")


def change_quietly(file: Path) -> None:
    """As a failing disk does: neither size nor time tells."""
    was = file.stat()
    file.write_text("contenT")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def remove(file: Path) -> None:
    file.unlink()


def break_manifest(file: Path) -> None:
    (file.parents[1] / "manifest.json").write_text("{")


@pytest.mark.parametrize("damage", [change_size, change_content, change_quietly, remove, break_manifest])
def test_corrupt_entry_is_rebuilt_and_said(store: Store, said: list[str], damage: Callable[[Path], None]) -> None:
    path = store.get(recipe()).path
    damage(path / "file")
    again = store.get(recipe())
    assert again.built
    assert (again.path / "file").read_text() == "content"
    assert any("is corrupt (" in line for line in said)
    assert not store.get(recipe()).built


def test_copied_cache_is_not_corrupt(store: Store) -> None:
    path = store.get(recipe()).path
    os.utime(path / "file")
    assert not store.get(recipe()).built


def test_change_outside_the_sample_is_seen_by_verify(store: Store) -> None:
    def large(into: Path, _progress: Progress) -> None:
        (into / "file").write_bytes(bytes(1 << 20))

    path = store.get(recipe(build=large)).path / "file"
    was = path.stat()
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(b"x")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert not store.get(recipe(build=large)).built
    assert list(store.verify().values()) == [["file: content changed"]]
    assert store.get(recipe(build=large)).built
    assert list(store.verify().values()) == [[]]


def test_verify_names_only_what_exists(store: Store) -> None:
    store.get(recipe("one"))
    with pytest.raises(InputError, match="'two'") as caught:
        store.verify("two")
    assert "one" in caught.value.hint


def failing(into: Path, progress: Progress) -> None:
    (into / "half").write_text("half")
    progress.step("compiling")
    progress.run(["sh", "-c", "echo CC a.o; echo 'a.c:3:1: error: no such thing'; echo done; exit 2"], what="make")


def test_failed_build_names_the_error_and_keeps_its_log(store: Store) -> None:
    with pytest.raises(BuildError, match=r"thing: make failed \(status 2\):\na.c:3:1: error: no such thing") as caught:
        store.get(recipe(build=failing))
    assert caught.value.log is not None
    assert "CC a.o" in caught.value.log.read_text()
    assert "done" not in caught.value.message
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "kind"), [("x.c:3: error: no", CompileError), ("No space left on device", BuildError)]
)
def test_what_a_compiler_refused_stays_that(store: Store, text: str, kind: type[BuildError]) -> None:
    def build(_into: Path, _progress: Progress) -> None:
        raise CompileError(text)

    with pytest.raises(BuildError) as caught:
        store.get(recipe(build=build))
    assert type(caught.value) is kind


def test_builder_that_makes_nothing_fails(store: Store) -> None:
    with pytest.raises(BuildError, match="left nothing"):
        store.get(recipe(build=lambda _into, _progress: None))
    assert store.entries() == []


@pytest.mark.parametrize("how", ["own", "child"])
def test_full_disk_is_said_and_leaves_nothing(store: Store, how: str) -> None:
    def full(into: Path, progress: Progress) -> None:
        (into / "half").write_text("half")
        if how == "own":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        progress.run(["sh", "-c", "echo 'ld: final link failed: No space left on device'; exit 1"], what="make")

    with pytest.raises(BuildError, match=r"no space left in the cache .* MiB free") as caught:
        store.get(recipe(build=full))
    assert "gc" in caught.value.hint
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []


def test_really_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""

    def full(into: Path, _progress: Progress) -> None:
        (into / "file").write_text("x")
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(BuildError, match="no space left"):
        Store(tmp_path).get(recipe(build=full))


def test_interrupt_leaves_nothing(store: Store) -> None:
    def interrupted(into: Path, _progress: Progress) -> None:
        (into / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(recipe(build=interrupted))
    assert list((store.root / "tmp").iterdir()) == []
    assert store.get(recipe()).built


def test_next_build_removes_what_a_killed_one_left(store: Store) -> None:
    dead = store.root / "tmp" / "other@0123"
    (dead / "files").mkdir(parents=True)
    store.get(recipe())
    assert not dead.exists()


def test_running_build_is_left_alone(tmp_path: Path, store: Store) -> None:
    def outer(into: Path, _progress: Progress) -> None:
        Store(store.root).get(recipe("inner"))
        (into / "file").write_text("outer")

    assert (store.get(recipe("outer", outer)).path / "file").read_text() == "outer"


def test_concurrent_builders_share_one_build(store: Store) -> None:
    built = []

    def slow(into: Path, _progress: Progress) -> None:
        built.append(threading.get_ident())
        release.wait(10)
        (into / "file").write_text("x")

    release = threading.Event()
    results = []
    threads = [threading.Thread(target=lambda: results.append(store.get(recipe(build=slow)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(20)
    assert len(built) == 1
    assert sorted(result.built for result in results) == [False, False, False, True]


def test_scratch_is_not_published(store: Store) -> None:
    def build(into: Path, progress: Progress) -> None:
        (progress.scratch / "big").write_text("x")
        (into / "file").write_text("x")

    path = store.get(recipe(build=build)).path
    assert sorted(item.name for item in path.parent.iterdir()) == ["build.log", "files", "manifest.json", "used"]


def test_explain_says_which_input_changed(store: Store) -> None:
    store.get(recipe(patch="none", source="6.1"))
    store.get(recipe(patch="none", source="6.12"))
    lines = "\n".join(store.explain("thing"))
    assert "was built because source changed (6.1 -> 6.12)" in lines
    assert "patch = none" in lines
    with pytest.raises(InputError, match="'nothing'"):
        store.explain("nothing")


def age(store: Store, days: Mapping[str, float]) -> None:
    for entry in store.entries():
        then = time.time() - days[entry.name] * 86400
        os.utime(entry.path / "used", (then, then))


def test_gc_by_age_and_size(store: Store) -> None:
    for name in ("old", "middle", "new"):
        store.get(recipe(name))
    age(store, {"old": 40, "middle": 20, "new": 0})
    assert [entry.name for entry in store.gc(max_age_s=30 * 86400)] == ["old"]
    assert [entry.name for entry in store.gc(max_bytes=1)] == ["middle"]
    assert [entry.name for entry in store.entries()] == ["new"]


def test_gc_keeps_what_is_open(store: Store) -> None:
    path = store.get(recipe("open")).path
    age(store, {"open": 40})
    with (path / "file").open():
        assert store.gc(max_age_s=1) == []
    assert [entry.name for entry in store.gc(max_age_s=1)] == ["open"]


def test_a_cache_behind_a_link_is_known_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = Store(tmp_path / "link" / "store")
    artifact = store.get(recipe())
    assert artifact.path.is_relative_to(tmp_path / "real")
    # The kernel tells open files by their real paths.
    with (artifact.path / "file").open():
        assert store.gc(max_age_s=0, grace_s=0) == []


def test_gc_removes_unreadable_entries(store: Store) -> None:
    path = store.get(recipe()).path
    break_manifest(path / "file")
    store.gc(max_age_s=1e9)
    assert not path.exists()


def test_progress_counts_against_the_last_build(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.artifacts.progress._REPORT_EVERY_S", 0.0)

    def build(into: Path, progress: Progress) -> None:
        progress.step("compiling")
        progress.run(["sh", "-c", "for i in 1 2 3 4; do echo CC $i.o; done"], what="make")
        (into / "file").write_text("x")

    store.get(recipe(build=build, a="1"))
    assert any("compiling: 4 lines, 0 s: CC 4.o" in line for line in said)
    store.get(recipe(build=build, a="2"))
    assert any("compiling: 2 of about 4 lines (50 %), 0 s: CC 2.o" in line for line in said)


def test_cache_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", "/somewhere")
    assert cache_root() == Path("/somewhere")
    monkeypatch.delenv("VDPALAB_CACHE")
    assert cache_root() == Path.home() / ".cache" / "vdpalab"


def test_unwritable_cache_is_an_error_of_the_lab(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="Not a directory"):
        Store(tmp_path / "file").get(recipe())


@pytest.mark.parametrize("by", ["the next build", "gc"])
def test_commands_that_a_killed_builder_left_are_ended(by: str, store: Store) -> None:
    """They would go on writing into the directory that the next build works in."""
    work = store.root / "tmp" / f"thing@{recipe().key}"
    (work / "scratch").mkdir(parents=True)
    with proc.spawn(["sleep", "60"], env={proc.BUILD_MARK: str(work)}) as left, proc.spawn(["sleep", "60"]) as other:
        store.get(recipe()) if by == "the next build" else store.clean_dead_builds()
        assert left.poll() == -15
        assert other.poll() is None


def test_what_a_builder_starts_carries_its_mark(store: Store) -> None:
    def build(into: Path, progress: Progress) -> None:
        progress.run(["sh", "-c", f'printf %s "${proc.BUILD_MARK}" >"$0"', str(into / "mark")], what="a mark")

    made = store.get(recipe(build=build))
    assert (made.path / "mark").read_text() == str(store.root / "tmp" / f"thing@{made.key}")
