"""Pickles of plain data are read; one that asks for anything else is refused before it does anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.pickles import read_plain_pickle


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_data_comes_back(tmp_path: Path, protocol: int) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    content = {"labels": [3, 1], "names": ["apple", "bär"], "data": array, b"more": {"a": 1.5}}
    found = read_plain_pickle(written(tmp_path / "file", content, protocol))
    assert isinstance(found, dict)
    np.testing.assert_array_equal(found.pop("data"), array)
    assert found == {"labels": [3, 1], "names": ["apple", "bär"], b"more": {"a": 1.5}}


def test_what_python_2_wrote(tmp_path: Path) -> None:
    """CIFAR's own layout, opcode by opcode: protocol 2, keys and the array's content as str of bytes."""
    stream = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbu."
    )
    (tmp_path / "file").write_bytes(stream)
    found = read_plain_pickle(tmp_path / "file")
    assert isinstance(found, dict)
    assert found[b"data"].tolist() == [[0, 1, 2], [253, 254, 255]]


class _Runs:
    """Pickles to a call, as malware does."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_a_malicious_file_runs_nothing(tmp_path: Path) -> None:
    """The pickle would make a file; expected: it names what it was after, and the file is not there."""
    import os

    target = tmp_path / "made by the pickle"
    file = written(tmp_path / "evil", {"data": _Runs(os.mkdir, str(target))})
    with pytest.raises(ConfigError, match=r"evil: refused: it asks for (posix|nt)\.mkdir, which plain data"):
        read_plain_pickle(file)
    assert not target.exists()
    pickle.loads(file.read_bytes())  # the pickle does work, so the refusal is what kept it
    assert target.exists()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"cbuiltins\neval\n(S'1+1'\ntR.", "builtins.eval"),
        (b"c__builtin__\neval\n(S'1+1'\ntR.", "__builtin__.eval"),
        (b"(S'id'\nios\nsystem\n.", "os.system"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "numpy.ndarray.dump"),
        (b"ckiloword.train.pickles\nread_plain_pickle\n.", "read_plain_pickle"),
        (b"c_codecs\nencode\n(S'a'\nS'zlib'\ntR.", "text in"),
        (b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.", "instead of bytes"),
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
            "another class",
        ),
        (b"Pid\n.", "persistent"),
    ],
)
def test_other_ways_to_ask_for_more(tmp_path: Path, stream: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(stream)
    with pytest.raises(ConfigError, match=f"refused: .*{message}"):
        read_plain_pickle(tmp_path / "file")


def test_an_array_whose_content_does_not_fit_its_shape(tmp_path: Path) -> None:
    content = pickle.dumps(np.zeros((2, 3), np.uint8), protocol=4)
    assert content.count(b"K\x02K\x03\x86") == 1
    (tmp_path / "file").write_bytes(content.replace(b"K\x02K\x03\x86", b"K\x02K\xff\x86"))
    with pytest.raises(ConfigError, match="not a pickle, or damaged"):
        read_plain_pickle(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}(U\x04data", b"\x80\x63.", b"."])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match=r"file: (not a pickle, or damaged|refused)"):
        read_plain_pickle(tmp_path / "file")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plain_pickle(tmp_path / "nothing")
