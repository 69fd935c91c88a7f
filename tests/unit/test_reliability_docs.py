"""The promises of docs/reliability.md name tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "functional"
PAGE = (TESTS.parents[1] / "docs/reliability.md").read_text()

NAMED = re.findall(r"`(test_\w+\.py)`: `(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_promise_names_a_test(file, name):
    assert re.search(rf"def test_\w*{name}", (TESTS / file).read_text())


def test_promises_name_files_of_tests():
    files = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert len(files) > 5
    assert all((TESTS / file).exists() for file in files)
