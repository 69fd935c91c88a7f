"""Files that are saved completely or not at all."""

from pathlib import Path

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage

from pulpcore.content_star.storage.whole_files import WholeFiles


def test_file_with_bytes_in_a_write_buffer_is_saved(tmp_path: Path) -> None:
    """The size of a file that is open does not include them; a part is never larger."""
    storage = WholeFiles(FileSystemStorage(tmp_path))
    with (tmp_path / "source").open("w+b") as source:
        source.write(b"content")
        assert storage.save("saved", File(source)) == "saved"
    assert (tmp_path / "saved").read_bytes() == b"content"
