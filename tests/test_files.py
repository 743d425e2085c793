"""What is opened as a file is one; folders are locked by one job; what is printed cannot steer a terminal."""

import json
import os
import socket
import subprocess
import sys

import pytest

from crt._files import lock_folder, require_regular
from crt._messages import printable


def test_only_regular_files_are_opened(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to(file)
    assert require_regular(str(file)) == file
    assert require_regular(tmp_path / "link.jpg").read_bytes() == b"x"
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, kind in [("pipe", "named pipe"), ("s", "socket"), (".", "folder"), ("/dev/zero", "device")]:
            with pytest.raises(OSError, match=f"not a regular file but a {kind}"):
                require_regular(tmp_path / path)
    with pytest.raises(FileNotFoundError, match=r"no such file.*nothing\.jpg"):
        require_regular(tmp_path / "nothing.jpg")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(OSError) as caught:
            require_regular(tmp_path / name)
        assert len(str(caught.value)) < 500 and "\0" not in str(caught.value)


def test_a_folder_is_locked_by_one_process(tmp_path):
    code = f"import sys; from crt._files import lock_folder\nwith lock_folder({str(tmp_path)!r}): print('held')"

    def other():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with lock_folder(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        refused = other()
        assert refused.returncode and f"process {os.getpid()} on" in refused.stderr and "since 2" in refused.stderr
        with pytest.raises(BlockingIOError, match="choose another folder"), lock_folder(tmp_path):
            raise AssertionError("entered twice")
    assert other().stdout == "held\n"
    (tmp_path / ".lock").write_text("[" * 3000)
    with lock_folder(tmp_path):  # what lies in the file does not matter
        pass
    with pytest.raises(FileNotFoundError), lock_folder(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("é photo.jpg", "é photo.jpg"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("bad\udcff", "bad\\udcff"),
        ("\x9b31m", "\\x9b31m"),
        ("狗", "狗"),
        (7, "7"),
    ],
)
def test_control_characters_are_made_visible(text, shown):
    assert printable(text) == shown


def test_long_text_is_cut_in_the_middle():
    for text in ("x" * 100 + "\x1b" * 10**7 + "y" * 100, "\x1b" * 199, "ab" * 5000):
        assert len(printable(text)) <= 200
        assert "..." in printable(text)
