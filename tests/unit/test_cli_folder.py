"""Files that `pulp-star add` finds in a folder."""

import hashlib
from pathlib import Path

import pytest

from pulpcore.content_star.cli import folder as folders
from pulpcore.content_star.cli.folder import File, Folder, hash_files, open_file, printable, scan


def test_folder_lists_files_with_paths_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "deep.txt").write_text("deep")
    (tmp_path / "a.txt").write_text("a")

    folder = scan(tmp_path)

    assert folder.files == {
        "a.txt": File(tmp_path / "a.txt", "a.txt", 1),
        "b/c/deep.txt": File(tmp_path / "b/c/deep.txt", "b/c/deep.txt", 4),
    }
    assert folder.skipped == []


def test_folder_hashes_and_counts_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    folder, counted = scan(tmp_path), []

    hash_files(folder, counted.append)

    assert folder.files["a.txt"].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert counted == [3]


def test_folder_skips_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).write_text(name)
    folder = scan(tmp_path)
    really_open = folders.open_file

    def refuse(path: Path) -> object:  # permission bits do not stop root
        if path.name == "bad":
            raise PermissionError(13, "Permission denied")
        return really_open(path)

    monkeypatch.setattr(folders, "open_file", refuse)
    hash_files(folder, lambda number: None)

    assert list(folder.files) == ["good"]
    [skipped] = folder.skipped
    assert (skipped.relative_path, skipped.reason) == ("bad", "Permission denied")
    assert skipped.is_file


def test_folder_does_not_know_files_below_an_unreadable_directory() -> None:
    folder = Folder()
    folder.skip("secret", "Permission denied")
    folder.skip("link", "symbolic link", is_file=False)

    assert folder.is_unknown("secret")
    assert folder.is_unknown("secret/file")
    assert not folder.is_unknown("secrets")
    assert not folder.is_unknown("link")


def test_folder_does_not_follow_a_file_that_became_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        open_file(tmp_path / "link")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ü", "plain ü"),
        ("a\nb", "'a\\nb'"),
        ("\udcff", "'\\udcff'"),
        ("\x1b[2J", "'\\x1b[2J'"),
    ],
)
def test_folder_escapes_names_for_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
