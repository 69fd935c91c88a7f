"""Where a domain keeps its artifacts: which of Django's storages, and how clients get at the bytes.

Everything here blocks and runs behind the database door: signing a URL takes up to a millisecond,
making a storage's client a hundred.
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

from pulpcore.app.models import Artifact, Domain
from pulpcore.constants import STORAGE_RESPONSE_MAP
from pulpcore.content_star.responses.source import Source, StoreUnavailable
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.filelike import FileSource
from pulpcore.content_star.storage.objects import ObjectSource, Target

T = TypeVar("T")

log = logging.getLogger(__name__)

MIN_SIZE_LABEL = "content_star_redirect_min_size"

# Seconds for which the URLs that we fetch ourselves are valid. Nobody else sees them, and the last
# of many ranges may be asked for long after the first one, when the client is slow.
OWN_URL_SECONDS = 24 * 3600

# Seconds for which a signed URL is used again at most: temporary credentials (of a role, say) end
# sooner than what is signed with them, and botocore renews them some ten minutes before.
KEEP_URL_SECONDS = 300.0


class Store:
    """A storage that Django knows, whatever its class: read through its own `open`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def url_seconds(self) -> float:
        """For how long its URLs are valid."""
        return float("inf")

    def source(self, name: str, size: int) -> Source:
        """Return where the bytes of the file `name` come from."""
        return FileSource(name, partial(self.storage.open, name, "rb"))

    def url(self, name: str, headers: Mapping[str, str], method: str) -> str | None:
        """Return a URL at which the store itself serves the file to a request with `method`.

        Its answer there has those of `headers` that the store can send. None if it serves nobody.
        """
        return None


class LocalStore(Store):
    """A storage whose files lie on a file system of this machine."""

    def source(self, name: str, size: int) -> Source:
        return LocalSource(self.storage.path(name))


class ObjectStore(Store, ABC):
    """An object store with URLs, which are signed for whoever may have an object."""

    def __init__(self, storage: Storage, names: Mapping[str, str]) -> None:
        """`names` are the store's own for the response headers that it can be told to send."""
        super().__init__(storage)
        self.names = {header.lower(): name for header, name in names.items()}

    def source(self, name: str, size: int) -> Source:
        return ObjectSource(name, self.target(name), size)

    def url(self, name: str, headers: Mapping[str, str], method: str) -> str | None:
        parameters = {
            self.names[header.lower()]: value
            for header, value in headers.items()
            if header.lower() in self.names
        }
        return self.sign(name, parameters, method)

    @abstractmethod
    def target(self, name: str) -> Target:
        """Return how we fetch the object ourselves."""

    @abstractmethod
    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        """Return the URL for a client; `parameters` are the store's own."""


class S3Store(ObjectStore):
    """S3. The storage has a client for each thread; this one is shared, which boto3 allows."""

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

    def target(self, name: str) -> Target:
        """From the bucket itself and not the `custom_domain`, which is there for clients."""
        url = self._presign(self._client, name, {}, "GET", OWN_URL_SECONDS)
        proxies = self.storage.proxies or {}
        return Target(url, self._ssl, proxies.get(urlsplit(url).scheme))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        if self.storage.custom_domain:
            return str(self.storage.url(name, parameters=parameters, http_method=method))
        seconds = self.storage.querystring_expire
        return self._presign(self._public_client, name, parameters, method, seconds)

    def _presign(
        self, client: Any, name: str, parameters: dict[str, Any], method: str, seconds: int
    ) -> str:
        """As the storage's `url`, which would make a client in each thread."""
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
    """Azure Blob Storage, whose signatures are good for GET and HEAD."""

    def __init__(self, storage: Any, names: Mapping[str, str]) -> None:
        super().__init__(storage, names)
        _ = storage.client  # made here, once

    @property
    def url_seconds(self) -> float:
        return float(self.storage.expiration_secs or "inf")

    def target(self, name: str) -> Target:
        can_sign = self.storage.account_key or self.storage.token_credential
        return Target(self.storage.url(name, expire=OWN_URL_SECONDS if can_sign else 0))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        return str(self.storage.url(name, parameters=parameters))


class GoogleStore(ObjectStore):
    """Google Cloud Storage."""

    def __init__(self, storage: Any, names: Mapping[str, str]) -> None:
        super().__init__(storage, names)
        _ = storage.bucket  # made here, once

    @property
    def url_seconds(self) -> float:
        life = self.storage.expiration
        return float(life.total_seconds() if isinstance(life, timedelta) else life)

    def target(self, name: str) -> Target:
        return Target(self.storage.url(name, parameters={"expiration": OWN_URL_SECONDS}))

    def sign(self, name: str, parameters: dict[str, Any], method: str) -> str:
        return str(self.storage.url(name, parameters={**parameters, "method": method}))


OBJECT_STORES: dict[str, Callable[[Storage, Mapping[str, str]], Store]] = {
    "storages.backends.s3.S3Storage": S3Store,
    "storages.backends.s3boto3.S3Boto3Storage": S3Store,
    "storages.backends.azure_storage.AzureStorage": AzureStore,
    "storages.backends.gcloud.GoogleCloudStorage": GoogleStore,
}

# By domain, with the time of the change that each was made after.
_stores: dict[UUID, tuple[datetime, Store]] = {}
_lock = threading.Lock()


def store_of(domain: Domain) -> Store:
    """Return the store of `domain`, made once and again when the domain has been changed."""
    changed, store = _stores.get(domain.pk, (None, None))
    if store is not None and changed == domain.pulp_last_updated:
        return store
    with _lock:
        changed, store = _stores.get(domain.pk, (None, None))
        if store is None or changed != domain.pulp_last_updated:
            store = _make_store(domain)
            _stores[domain.pk] = domain.pulp_last_updated, store
        return store


def source_of(domain: Domain, artifact: Artifact) -> Source:
    """Return where the bytes of `artifact` come from. Raises StoreUnavailable."""
    name = _name_of(artifact)
    return _careful(domain, lambda: store_of(domain).source(name, artifact.size))


def redirect_of(
    domain: Domain, artifact: Artifact, headers: Mapping[str, str], method: str
) -> str | None:
    """Return the URL to which clients of `artifact` are sent, or None to send it ourselves.

    The store there answers requests with `method`, and with `headers` as far as it can.
    Raises StoreUnavailable.
    """
    if not domain.redirect_to_object_storage or artifact.size < redirect_min_size(domain):
        return None
    return _careful(domain, lambda: store_of(domain).url(_name_of(artifact), headers, method))


def seconds_to_keep(domain: Domain) -> float:
    """How long URLs of the domain's store may be given out or used again: half their life at most.

    Raises StoreUnavailable.
    """
    return min(_careful(domain, lambda: store_of(domain).url_seconds) / 2, KEEP_URL_SECONDS)


def redirect_min_size(domain: Domain) -> int:
    """Bytes from which on artifacts are redirected: the domain's label, or else the setting."""
    default = int(settings.CONTENT_STAR_REDIRECT_MIN_SIZE)
    label = domain.pulp_labels.get(MIN_SIZE_LABEL)
    try:
        return default if label is None else int(label)
    except ValueError:
        log.warning(
            "The label %s of domain %r is no number of bytes: %r",
            MIN_SIZE_LABEL,
            domain.name,
            label,
        )
        return default


def _name_of(artifact: Artifact) -> str:
    """Return `artifact.file.name`, which makes an object that only the garbage collector can drop:
    artifact and file refer to each other."""
    return str(vars(artifact).get("file") or artifact.file)


def _make_store(domain: Domain) -> Store:
    storage = domain.get_storage()
    if object_store := OBJECT_STORES.get(domain.storage_class):
        return object_store(storage, STORAGE_RESPONSE_MAP[domain.storage_class])
    # Having paths says nothing: Django's storage in memory has them too.
    return LocalStore(storage) if isinstance(storage, FileSystemStorage) else Store(storage)


def _careful(domain: Domain, work: Callable[[], T]) -> T:
    """Do `work`, whose errors may say more of a domain's settings than a client or a log should
    know: they become StoreUnavailable, and only their kind is told."""
    try:
        return work()
    except Exception as error:
        kind = f"{type(error).__module__}.{type(error).__name__}"
        raise StoreUnavailable(f"The storage of domain '{domain.name}' failed: {kind}") from None


@lru_cache
def ssl_context(verify: bool | str | None) -> ssl.SSLContext | bool:
    """What to verify certificates with, of botocore's `verify`: a file, False for nothing at all,
    or None for the usual, which is what AWS_CA_BUNDLE names where that is set."""
    if verify is None:
        verify = os.environ.get("AWS_CA_BUNDLE", True)
    if isinstance(verify, bool):
        return verify
    return ssl.create_default_context(cafile=verify)
