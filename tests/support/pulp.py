"""A small REST client with which tests create Pulp objects and delete them."""

import time
import uuid
from typing import Any

import httpx
from pysequoia import Tsk

from tests.support.invalidation import settle

API = "/pulp/api/v3/"
FINAL_STATES = ("completed", "failed", "canceled", "skipped")


class Pulp:
    """Creates Pulp objects through the REST API; `cleanup` deletes them, newest first."""

    def __init__(self, http: httpx.Client, auth: httpx.Auth) -> None:
        """Wrap `http`, a logged-in client; `auth` is for requests with credentials of their own."""
        self.http = http
        http.event_hooks["response"] = [_settle]  # replaces the hook of an earlier wrapper
        self.auth = auth
        self.root = API
        """The path of the API; in a domain, it contains the domain's name."""
        self._created: list[str] = []

    def cleanup(self) -> None:
        for href in reversed(self._created):
            response = self.http.delete(href)
            if response.status_code == 202:
                self.task(response)
        self._created.clear()

    def task(self, response: httpx.Response) -> dict[str, Any]:
        """Wait for the task of a 202 response and return it; fail if it failed."""
        assert response.status_code == 202, response.text
        href = response.json()["task"]
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            task = self.http.get(href).json()
            if task["state"] in FINAL_STATES:
                assert task["state"] == "completed", task["error"]
                settle()
                return task
            time.sleep(0.05)
        raise AssertionError(f"{href} did not end")

    def get(self, href: str) -> dict[str, Any]:
        response = self.http.get(href)
        response.raise_for_status()
        return response.json()

    def create(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """POST to `endpoint` and return the created resource, from the response or its task."""
        response = self.http.post(self.root + endpoint, json=fields)
        assert response.status_code in (201, 202), response.text
        created = (
            response.json()
            if response.status_code == 201
            else self.get(self.task(response)["created_resources"][0])
        )
        self._created.append(created["pulp_href"])
        return created

    def repository(self, files: dict[str, bytes] | None = None, **fields: Any) -> str:
        """Create a file repository with `files` in one version per file; return its href."""
        href = self.create("repositories/file/file/", name=unique("repository"), **fields)[
            "pulp_href"
        ]
        for path, data in (files or {}).items():
            self.upload(href, path, data)
        return href

    def upload(self, repository: str, path: str, data: bytes) -> str:
        """Add a file to a repository and return the href of its content unit."""
        response = self.http.post(
            f"{self.root}content/file/files/",
            data={"relative_path": path, "repository": repository},
            files={"file": ("upload", data)},
        )
        created = self.task(response)["created_resources"]
        return next(href for href in created if "/content/" in href)

    def remove(self, repository: str, *content: str) -> None:
        """Remove content units from a repository."""
        self.task(
            self.http.post(f"{repository}modify/", json={"remove_content_units": list(content)})
        )

    def publish(self, repository: str, **fields: Any) -> str:
        """Publish the latest version of a repository; return the href of the publication."""
        return self.create("publications/file/file/", repository=repository, **fields)["pulp_href"]

    def distribute(self, base_path: str | None = None, **fields: Any) -> str:
        """Create a file distribution and return its base path."""
        base_path = base_path or unique("base")
        self.create("distributions/file/file/", name=unique("dist"), base_path=base_path, **fields)
        return base_path

    def keyring(self) -> tuple[str, Any]:
        """Create a keyring with one OpenPGP key; return its href and the key."""
        cert = Tsk.generate("Pulp Test <test@example.org>").extract_certificate()
        href = self.create("repositories/core/openpgp_keyring/", name=unique("keyring"))[
            "pulp_href"
        ]
        self.task(
            self.http.post(
                f"{self.root}content/core/openpgp_publickey/",
                data={"repository": href},
                files={"file": ("key", str(cert).encode())},
            )
        )
        return href, cert


def _settle(response: httpx.Response) -> None:
    if response.request.method not in ("GET", "HEAD", "OPTIONS"):
        settle()


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
