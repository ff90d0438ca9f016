"""Which names a file may have."""

from __future__ import annotations

import pytest
from qonduit_storage.errors import FileNameError, RequestError
from qonduit_storage.rules.names import check_digest, check_file_name, check_log_key, check_space


@pytest.mark.parametrize(
    "name",
    [
        "data.tar",
        "classifier_name.pkl.tar",
        "output.json.tar",
        "molecule.h5",
        "ÜBER größe.tar",
        "量子.h5",
        "a" * 251 + ".tar",
    ],
)
def test_good_names(name: str) -> None:
    check_file_name(name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("folder/data.tar", "separator"),
        ("/etc/passwd.tar", "separator"),
        ("folder\\data.tar", "separator"),
        ("..", "'..'"),
        ("a..tar", "'..'"),
        ("nul\0.tar", "NUL"),
        ("line\nbreak.tar", "printed"),
        ("right-to-left\u202e.tar", "printed"),
        ("lone-surrogate\ud800.tar", "printed"),
        (".hidden.tar", "dot"),
        (".tar", "dot"),
        ("a" * 300 + ".tar", "49 too many"),
        ("ü" * 126 + ".tar", "1 too many"),
        ("data.zip", "results.tar"),
        ("data.tar.gz", "results.tar"),
        ("data.TAR", "results.tar"),
        ("data", "results.tar"),
    ],
)
def test_bad_names_are_told_why(name: str, word: str) -> None:
    with pytest.raises(FileNameError, match=r"ends in \.tar or \.h5") as caught:
        check_file_name(name)
    assert word in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("space", ["", "/", "users/", "users//ada", "users/../ada", "users/\0", "u/" + "a" * 600])
def test_bad_spaces(space: str) -> None:
    with pytest.raises(RequestError, match="does not name a space"):
        check_space(space)


@pytest.mark.parametrize("digest", ["", "00", "A" * 64, "../" + "0" * 61, "g" * 64])
def test_bad_digests(digest: str) -> None:
    with pytest.raises(RequestError, match="is no digest"):
        check_digest(digest)


@pytest.mark.parametrize("log", ["", "a\nb", "a" * 600])
def test_bad_log_keys(log: str) -> None:
    with pytest.raises(RequestError, match="does not name a log"):
        check_log_key(log)
