"""The list of upstream's tests that fail by intent."""

from tests.parity.differences import DIFFERENCES, FURTHER
from tests.upstream_functional.expected import BY_INTENT, BY_INTENT_ON_S3


def test_upstream_tests_that_fail_by_intent_name_a_difference() -> None:
    assert {*BY_INTENT.values(), *BY_INTENT_ON_S3.values()} <= {*DIFFERENCES, *FURTHER}
