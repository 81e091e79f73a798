"""Files written whole: what readers see, what stays after a failure, and what may be written to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.whole_file import make_folder, write_whole


def test_a_file_takes_the_place_of_another_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    write_whole(path, "neu: 你好\n")
    assert path.read_bytes() == "neu: 你好\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path;"
        "from scheduler.whole_file import write_whole;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "write_whole(Path(sys.argv[1]), bytes(5000))"
    )
    child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert b"File too large" in child.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "real" / "a")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


def test_what_is_no_file_is_written_to_directly() -> None:
    write_whole(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        make_folder(tmp_path / "file" / "b")
