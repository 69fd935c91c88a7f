"""Storage backends of domains: sources of artifacts, and signed URLs for redirects.

Everything here blocks and runs in the database executor: signing a URL takes up to a millisecond,
creating the client of a storage a hundred.
"""

import logging
import os
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.files.storage import FileSystemStorage, Storage
from starlette.types import Scope

from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.responses.source import Source, StoreUnavailable
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.filelike import FileSource
from pulpcore.content_star.storage.objects import ObjectSource, ObjectTarget
from pulpcore.content_star.upstream import STORAGE_RESPONSE_MAP
from pulpcore.plugin.models import Artifact, Domain

T = TypeVar("T")

log = logging.getLogger(__name__)

MIN_SIZE_LABEL = "content_star_redirect_min_size"

# Seconds for which the URLs are valid that this process fetches itself. They are not given to
# clients, and with a slow client the last of many ranges is requested long after the first.
INTERNAL_URL_SECONDS = 24 * 3600

# Seconds for which a signed URL is cached at most: temporary credentials, such as a role's, may
# expire before a URL that is signed with them; botocore renews them some ten minutes earlier.
MAX_URL_CACHE_SECONDS = 300.0


class Store:
    """Any Django storage, read through its own `open`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def url_seconds(self) -> float:
        """Seconds for which URLs of the storage are valid."""
        return float("inf")

    def source(self, name: str, size: int, scope: Scope) -> Source:
        """Return the source of the file `name`, which has `size` bytes, for a request."""
        return FileSource(name, partial(self.storage.open, name, "rb"))

    def url(self, name: str, headers: Mapping[str, str], method: str) -> str | None:
        """Return a URL at which the store serves the file to a request with `method`.

        Its response has those of `headers` that the store supports. None if it serves no clients.
        """
        return None


class LocalStore(Store):
    """A `FileSystemStorage`, whose files are local or mounted and opened by path."""

    def source(self, name: str, size: int, scope: Scope) -> Source:
        return LocalSource(self.storage.path(name))


class ObjectStore(Store, ABC):
    """An object store that serves objects at URLs, signed where access needs it."""

    def __init__(self, storage: Storage, names: Mapping[str, str]) -> None:
        """`names` maps response headers to the parameters by which the store overrides them."""
        super().__init__(storage)
        self.names = {header.lower(): name for header, name in names.items()}

    def source(self, name: str, size: int, scope: Scope) -> Source:
        return ObjectSource(resources_of(scope).objects, name, self.target(name), size)

    def url(self, name: str, headers: Mapping[str, str], method: str) -> str | None:
        parameters = {
            self.names[header.lower()]: value
            for header, value in headers.items()
            if header.lower() in self.names
        }
        return self.sign(name, parameters, method)

    @abstractmethod
    def target(self, name: str) -> ObjectTarget:
        """Return the URL and TLS settings by which this process fetches the object."""

    @abstractmethod
    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        """Return the URL for a client, signed if needed, with `parameters` of the store."""


class S3Store(ObjectStore):
    """S3, with one boto3 client for all threads; the storage has one per thread."""

    def __init__(self, storage: Any, names: Mapping[str, str]) -> None:
        super().__init__(storage, names)
        self._client = storage.connection.meta.client
        self._public_client = (
            self._client if storage.querystring_auth else storage.unsigned_connection.meta.client
        )
        self._ssl = ssl_context(storage.verify)

    @property
    def url_seconds(self) -> float:
        return float(self.storage.querystring_expire)

    def target(self, name: str) -> ObjectTarget:
        """Return a URL of the bucket itself; `custom_domain` is for clients only."""
        url = self._presign(self._client, name, {}, "GET", INTERNAL_URL_SECONDS)
        proxies = self.storage.proxies or {}
        return ObjectTarget(url, self._ssl, proxies.get(urlsplit(url).scheme))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        if self.storage.custom_domain:
            return str(self.storage.url(name, parameters=parameters, http_method=method))
        seconds = self.storage.querystring_expire
        return self._presign(self._public_client, name, parameters, method, seconds)

    def _presign(
        self, client: Any, name: str, parameters: dict[str, Any], method: str, seconds: int
    ) -> str:
        """Sign a URL as the storage's `url` does, which would create a client in each thread."""
        bucket = self.storage.bucket_name
        key = self.storage._normalize_name(name)
        return str(
            client.generate_presigned_url(
                "get_object",
                Params={**parameters, "Bucket": bucket, "Key": key},
                ExpiresIn=seconds,
                HttpMethod=method,
            )
        )


class AzureStore(ObjectStore):
    """Azure Blob Storage, whose signatures are valid for both GET and HEAD."""

    def __init__(self, storage: Any, names: Mapping[str, str]) -> None:
        super().__init__(storage, names)
        _ = storage.client  # created once, and cached by the storage

    @property
    def url_seconds(self) -> float:
        return float(self.storage.expiration_secs or "inf")

    def target(self, name: str) -> ObjectTarget:
        can_sign = self.storage.account_key or self.storage.token_credential
        return ObjectTarget(self.storage.url(name, expire=INTERNAL_URL_SECONDS if can_sign else 0))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        return str(self.storage.url(name, parameters=parameters))


class GoogleStore(ObjectStore):
    """Google Cloud Storage."""

    def __init__(self, storage: Any, names: Mapping[str, str]) -> None:
        super().__init__(storage, names)
        _ = storage.bucket  # created once, and cached by the storage

    @property
    def url_seconds(self) -> float:
        life = self.storage.expiration
        return float(life.total_seconds() if isinstance(life, timedelta) else life)

    def target(self, name: str) -> ObjectTarget:
        return ObjectTarget(self.storage.url(name, parameters={"expiration": INTERNAL_URL_SECONDS}))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        return str(self.storage.url(name, parameters={**parameters, "method": method}))


OBJECT_STORES: dict[str, Callable[[Storage, Mapping[str, str]], Store]] = {
    "storages.backends.s3.S3Storage": S3Store,
    "storages.backends.s3boto3.S3Boto3Storage": S3Store,
    "storages.backends.azure_storage.AzureStorage": AzureStore,
    "storages.backends.gcloud.GoogleCloudStorage": GoogleStore,
}

# By domain, with its `pulp_last_updated` when the store was created.
_stores: dict[UUID, tuple[datetime, Store]] = {}
_lock = threading.Lock()


def store_of(domain: Domain) -> Store:
    """Return the cached store of `domain`, created again when the domain has been changed."""
    changed, store = _stores.get(domain.pk, (None, None))
    if store is not None and changed == domain.pulp_last_updated:
        return store
    with _lock:
        changed, store = _stores.get(domain.pk, (None, None))
        if store is None or changed != domain.pulp_last_updated:
            store = _make_store(domain)
            _stores[domain.pk] = domain.pulp_last_updated, store
        return store


def artifact_source(domain: Domain, artifact: Artifact, scope: Scope) -> Source:
    """Return the source of `artifact`. Raises StoreUnavailable."""
    name = _name_of(artifact)
    return _hide_details(domain, lambda: store_of(domain).source(name, artifact.size, scope))


def redirect_url(
    domain: Domain, artifact: Artifact, headers: Mapping[str, str], method: str
) -> str | None:
    """Return the URL to redirect clients to for `artifact`, or None to send it from this process.

    The URL is for requests with `method`; the response there has those of `headers` that the store
    supports. Raises StoreUnavailable.
    """
    if not domain.redirect_to_object_storage or artifact.size < redirect_min_size(domain):
        return None
    return _hide_details(domain, lambda: store_of(domain).url(_name_of(artifact), headers, method))


def url_cache_seconds(domain: Domain) -> float:
    """Return the seconds for which signed URLs may be cached: half their validity at most.

    Raises StoreUnavailable.
    """
    return min(
        _hide_details(domain, lambda: store_of(domain).url_seconds) / 2, MAX_URL_CACHE_SECONDS
    )


def redirect_min_size(domain: Domain) -> int:
    """Return the size in bytes from which artifacts are redirected: by label or by setting."""
    default = int(settings.CONTENT_STAR_REDIRECT_MIN_SIZE)
    label = domain.pulp_labels.get(MIN_SIZE_LABEL)
    try:
        return default if label is None else int(label)
    except ValueError:
        log.warning(
            "Label %s of domain %r is %r, which is not a number of bytes; using the setting"
            " CONTENT_STAR_REDIRECT_MIN_SIZE (%d). Correct the label.",
            MIN_SIZE_LABEL,
            domain.name,
            label,
            default,
        )
        return default


def _name_of(artifact: Artifact) -> str:
    """Return `artifact.file.name` without creating the `FieldFile`, which refers back to the
    artifact, so that only the garbage collector could free both."""
    return str(vars(artifact).get("file") or artifact.file)


def _make_store(domain: Domain) -> Store:
    storage = domain.get_storage()
    if object_store := OBJECT_STORES.get(domain.storage_class):
        return object_store(storage, STORAGE_RESPONSE_MAP[domain.storage_class])
    # By class, since Django's in-memory storage inherits `path` too.
    return LocalStore(storage) if isinstance(storage, FileSystemStorage) else Store(storage)


def _hide_details(domain: Domain, work: Callable[[], T]) -> T:
    """Call `work`, and turn any exception into StoreUnavailable with its class alone: messages
    may contain secrets of the domain's storage settings."""
    try:
        return work()
    except Exception as error:
        kind = f"{type(error).__module__}.{type(error).__name__}"
        raise StoreUnavailable(f"The storage of domain '{domain.name}' failed: {kind}") from None


@lru_cache
def ssl_context(verify: bool | str | None) -> ssl.SSLContext | bool:
    """Return how to verify TLS certificates, for the `verify` of botocore: a bundle's path, False
    for no verification, or None for AWS_CA_BUNDLE if set, else the default."""
    if verify is None:
        verify = os.environ.get("AWS_CA_BUNDLE", True)
    if isinstance(verify, bool):
        return verify
    return ssl.create_default_context(cafile=verify)
