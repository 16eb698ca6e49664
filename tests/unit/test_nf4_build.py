"""Compiling the NF4 library: where it is kept, and everything that can keep it from being there."""

import multiprocessing
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.kernels import rowwise
from luthier.kernels.native import library_folder
from luthier.kernels.nf4 import native

QUICK = ("-O0", *native.OPTIONS[1:])
needs_compiler = pytest.mark.skipif(
    isinstance(native.loaded(), native.Missing), reason="no compiler, or a processor that is not supported"
)


def script(folder: Path, body: str) -> str:
    """A compiler of our own."""
    file = folder / "cc"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@needs_compiler
def test_it_is_compiled_once(tmp_path: Path) -> None:
    real, folder = shutil.which("cc"), tmp_path / "cache" / "native"
    counting = script(tmp_path, f'echo "$@" >> {tmp_path}/calls\nexec {real} "$@"')
    first, second = (native.build(folder, counting, QUICK) for _ in range(2))
    assert isinstance(first, native.Native) and isinstance(second, native.Native) and first.lanes in (8, 16)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.startswith("--version") for call in calls] == [True, False, True]
    assert len(kept(folder)) == 1, "nothing but the library is left"


@needs_compiler
def test_other_options_sources_and_compilers_are_other_libraries(tmp_path: Path) -> None:
    compiler, folder = shutil.which("cc"), tmp_path / "native"
    source = tmp_path / "other.c"
    source.write_text(native.SOURCE.read_text() + "\n/* changed */\n")
    newer = script(tmp_path, f'[ "$1" = --version ] && echo 99 && exit\nexec {compiler} "$@"')
    native.build(folder, compiler, QUICK)
    native.build(folder, compiler, (*QUICK, "-g0"))
    native.build(folder, compiler, QUICK, source)
    native.build(folder, newer, QUICK)
    assert len(kept(folder)) == 4


def build_in(folder: str) -> bool:
    return isinstance(native.build(Path(folder), shutil.which("cc"), QUICK), native.Native)


@needs_compiler
def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(build_in, [str(tmp_path / "native")] * 2, chunksize=1) == [True, True]
    assert len(kept(tmp_path / "native")) == 1


@needs_compiler
@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:100], lambda data: data[: len(data) // 2], lambda data: data[:-1],
    lambda data: data[:9000] + bytes([data[9000] ^ 1]) + data[9001:],
])  # fmt: skip
def test_a_damaged_library_is_compiled_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It is never loaded: of a file that is cut off the system maps what is not there, and whoever reads it dies."""
    compiler = shutil.which("cc")
    native.build(tmp_path / "made", compiler, QUICK)
    (whole,) = (tmp_path / "made").iterdir()
    damaged = tmp_path / "native" / whole.name  # a folder of its own: the one above is loaded
    damaged.parent.mkdir(mode=0o700)
    damaged.write_bytes(damage(whole.read_bytes()))
    assert isinstance(native.build(damaged.parent, compiler, QUICK), native.Native)
    assert damaged.read_bytes() == whole.read_bytes() and kept(damaged.parent) == [whole.name]


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_compiled_again(tmp_path: Path) -> None:
    folder, other = tmp_path / "native", "this is no library"
    odd = script(tmp_path, f'[ "$1" = --version ] && exit\n[ -e {tmp_path}/well ] && exec cc "$@"\n'
                           f'while [ "$1" != -o ]; do shift; done; echo {other} > "$2"')  # fmt: skip
    assert isinstance(native.build(folder, odd, QUICK), native.Missing) and len(kept(folder)) == 1
    (tmp_path / "well").touch()
    assert isinstance(native.build(folder, odd, QUICK), native.Native) and len(kept(folder)) == 1


@needs_compiler
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_where_others_may_write_nothing_is_loaded(tmp_path: Path, mode: int) -> None:
    folder, link = tmp_path / "native", tmp_path / "link"
    assert isinstance(native.build(folder, shutil.which("cc"), QUICK), native.Native)
    assert folder.stat().st_mode & 0o777 == 0o700
    link.symlink_to(folder)
    folder.chmod(mode)
    made = native.build(link, shutil.which("cc"), QUICK)
    assert isinstance(made, native.Missing) and made.why == f"others than this user may write to {link}"


@needs_compiler
@pytest.mark.parametrize("theirs", [lambda file: file.chmod(0o720), lambda file: os.chown(file, 12345, -1)])
def test_a_file_that_may_be_somebody_elses_is_compiled_again(tmp_path: Path, theirs: Callable[[Path], None]) -> None:
    native.build(tmp_path, shutil.which("cc"), QUICK)
    (file,) = tmp_path.iterdir()
    before = file.stat()
    try:
        theirs(file)
    except PermissionError:
        pytest.skip("only root gives a file away")
    assert isinstance(native.build(tmp_path, shutil.which("cc"), QUICK), native.Native)
    after = file.stat()
    assert after.st_ino != before.st_ino and after.st_uid == os.getuid() and not after.st_mode & 0o022


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert library_folder() is None
    for made in (native.loaded.__wrapped__(), rowwise.loaded.__wrapped__()):
        if made != native.Missing("no C compiler (cc) was found"):
            assert made == native.Missing("this user has no home folder to keep compiled code in")


def test_no_compiler(tmp_path: Path) -> None:
    assert shutil.which("cc", path=str(tmp_path)) is None
    made = native.build(tmp_path / "native", shutil.which("cc", path=str(tmp_path)))
    assert made == native.Missing("no C compiler (cc) was found") and not (tmp_path / "native").exists()


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    broken = script(tmp_path, '[ "$1" = --version ] && exit\necho "x.c:1: error: no good" >&2; exit 1')
    made = native.build(tmp_path / "native", broken)
    assert isinstance(made, native.Missing) and "error: no good" in made.why
    assert kept(tmp_path / "native") == []


def test_a_compiler_that_makes_something_else(tmp_path: Path) -> None:
    odd = script(tmp_path, '[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done; echo no > "$2"')
    assert isinstance(native.build(tmp_path / "native", odd), native.Missing)


def test_a_compiler_that_cannot_be_run(tmp_path: Path) -> None:
    assert isinstance(native.build(tmp_path / "native", str(tmp_path / "absent")), native.Missing)


@needs_compiler
def test_a_processor_that_is_not_supported(tmp_path: Path) -> None:
    options = (*native.OPTIONS, "-mno-avx512f", "-mno-avx2")
    made = native.build(tmp_path, shutil.which("cc"), options)
    assert isinstance(made, native.Missing) and "AVX2" in made.why


@needs_compiler
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made = native.build(tmp_path / "file" / "native", shutil.which("cc"))
    assert isinstance(made, native.Missing) and str(tmp_path) in made.why
