"""Which of upstream's tests are expected to fail here, and why: a plugin of pytest.

A test that fails by intent names the line of `docs/differences.md` that it contradicts. Tests that
need hosts of the internet are not run. Everything else that fails is a fault.
"""

import os
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.upstream_functional.domain_client import use_domains

KIND = os.environ.get("UPSTREAM_KIND", "core")

# Parts of names -> the reason, which is a line of docs/differences.md.
BY_INTENT: dict[str, str] = {
    "test_content_cache.py::test_full_workflow": "cache header",
    "test_content_delivery.py::test_handling_remote_artifact_on_demand_streaming_failure": (
        "wrong bytes of a remote"
    ),
    "test_content_delivery.py::test_head_request_large_on_demand_file": "on demand",
    "test_content_delivery.py::test_remote_artifact_url_update": "no remote sends it",
    "test_content_delivery.py::test_remote_content_changed_with_on_demand": (
        "wrong bytes of a remote"
    ),
    "test_content_directory.py::test_content_index_title": "listing page",
    "test_content_directory.py::test_hidden_distros": "listing page",
    "test_content_directory.py::test_zero_byte_file_listing": "listing page",
    "test_content_path.py::test_content_directory_listing": "listing page",
    "test_contentguard.py::test_composite_contentguard_permissions": "errors in detail",
    "test_contentguard.py::test_rbac_content_guard_full_workflow": "credentials missing",
}
# The same, of those that fail with an object store alone.
BY_INTENT_ON_S3: dict[str, str] = {
    "TestObjectStorageRedirect::test_cold_request_with_if_modified_since": (
        "304 instead of a redirect"
    ),
    "test_download_policies.py::test_download_policy[immediate]": "security headers",
}

# Parts of names of tests that fetch from hosts of the internet, which CI does not reach.
INTERNET: tuple[str, ...] = (
    # Signing keys of raw.githubusercontent.com.
    "test_signing_service.py::",
    # Repositories of github.com and huggingface.co, whose files are counted.
    "test_git_sync.py::test_git_sync[",
    "test_git_sync.py::test_git_sync_idempotent",
    "test_git_sync.py::test_git_sync_lfs",
)

# Parts of names of other tests that cannot be run, and why.
IMPOSSIBLE: dict[str, str] = {
    "test_tasking.py::test_worker_cleanup_on_missing_worker": (
        "kills a worker, and `pulp-star up` stops everything when one of its processes dies"
    ),
}
if KIND == "domains":
    IMPOSSIBLE["test_status.py::test_storage_per_domain"] = (
        "needs an object store: of a file system, Pulp's status has the usage of the whole disk"
    )
if ssl.OPENSSL_VERSION_INFO < (3, 5):
    IMPOSSIBLE["test_remote_settings.py::test_http_sync_pqc_ssl"] = (
        f"needs ML-DSA, of OpenSSL 3.5 and later; Python has {ssl.OPENSSL_VERSION}"
    )
if urlunsplit(urlsplit("file:////a")) != "file:////a":
    IMPOSSIBLE["test_sync.py::test_sync_file_protocol_handler"] = (
        "needs a Python whose urlunsplit keeps the two slashes of a path"
    )
if os.geteuid() == 0:
    IMPOSSIBLE["test_pulpimport.py::test_import_check_multiple_errors"] = (
        "needs a user other than root, who may write to any directory"
    )


def pytest_configure() -> None:
    if KIND != "core":
        use_domains()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    by_intent = BY_INTENT | BY_INTENT_ON_S3 if KIND == "s3" else BY_INTENT
    for item in items:
        if any(name in item.nodeid for name in INTERNET):
            item.add_marker(pytest.mark.skip(reason="needs a host of the internet"))
        for name, reason in IMPOSSIBLE.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))
        for name, reason in by_intent.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_exception_interact(
    call: pytest.CallInfo[object], report: pytest.CollectReport | pytest.TestReport
) -> None:
    """Show the error of a task that failed: upstream's exception leaves it out."""
    assert call.excinfo is not None
    if (task := getattr(call.excinfo.value, "task", None)) is not None:
        report.sections.append(("Error of the task", repr(task.error)))
