"""Real object stores: moto's S3, Azurite, and an emulator of Google Cloud Storage."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.instance import in_venv, stop, wait_until
from tests.support.server import free_port

AZURITE = "azurite@3.35.0"
BUCKET = "pulp-bucket"
GOOGLE_VARIABLE = "STORAGE_EMULATOR_HOST"


class Relay:
    """A TCP relay in front of a store, which counts bytes and can fail on purpose."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.passed: list[int] = []
        """The number of bytes from the store for each connection, the oldest first."""

        self.asked = bytearray()
        """The requests to the store, of which bodies are truncated."""

        self.open: set[int] = set()
        """The open connections to the store, by their index in `passed`."""

        self.cut_after: int | None = None
        """The number of bytes from the store after which connections are closed."""

        self.reply: bytes | None = None
        """A response to send instead of the store's."""

        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Close all connections, and reset counters and failures."""
        with self._lock:
            _shut(*self._sockets)
        wait_until(lambda: not self.open)
        self.cut_after = self.reply = None
        self.asked.clear()
        self.passed.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.reply is not None:
                client.recv(1 << 16)
                client.sendall(self.reply)
                return
            with socket.create_connection(("127.0.0.1", self.target)) as store:
                with self._lock:
                    number = len(self.passed)
                    self.passed.append(0)
                    self.open.add(number)
                    self._sockets |= {client, store}
                forward = threading.Thread(target=self._forward, args=[client, store], daemon=True)
                forward.start()
                try:
                    self._back(number, store, client)
                finally:
                    _shut(client, store)
                    forward.join()
                    with self._lock:
                        self._sockets -= {client, store}
                        self.open.remove(number)

    def _forward(self, client: socket.socket, store: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self.asked += data[:4096]
                store.sendall(data)
        _shut(store, client)

    def _back(self, number: int, store: socket.socket, client: socket.socket) -> None:
        while data := store.recv(1 << 18):
            if self.cut_after is not None and self.passed[number] > self.cut_after:
                return
            client.sendall(data)
            self.passed[number] += len(data)


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@dataclass
class Store:
    """A running store, and the storage settings of a domain for it."""

    name: str
    storage_class: str
    relay: Relay
    settings: dict[str, Any]
    secrets: list[str]
    """Texts that must not occur in logs and responses."""


@contextmanager
def s3() -> Iterator[Store]:
    import boto3

    port = free_port()
    secret = "secret-of-s3"
    with _process(["moto_server", "-H", "127.0.0.1", "-p", str(port)], port), _relay(port) as relay:
        boto3.client(
            "s3",
            endpoint_url=relay.url,
            region_name="us-east-1",
            aws_access_key_id="key-of-s3",
            aws_secret_access_key=secret,
        ).create_bucket(Bucket=BUCKET)
        settings = {
            "access_key": "key-of-s3",
            "secret_key": secret,
            "bucket_name": BUCKET,
            "endpoint_url": relay.url,
            "region_name": "us-east-1",
            "signature_version": "s3v4",
            "addressing_style": "path",
        }
        yield Store("s3", "storages.backends.s3.S3Storage", relay, settings, [secret, "Signature="])


@contextmanager
def azure() -> Iterator[Store]:
    from azure.storage.blob import BlobServiceClient

    port = free_port()
    key = base64.b64encode(os.urandom(64)).decode()
    command = [str(_azurite()), "--blobPort", str(port), "--silent", "--disableTelemetry"]
    command += ["--skipApiVersionCheck", "--inMemoryPersistence"]
    with _process(command, port, AZURITE_ACCOUNTS=f"pulp:{key}"), _relay(port) as relay:
        settings = azure_settings(relay.url, key)
        with BlobServiceClient.from_connection_string(settings["connection_string"]) as service:
            service.create_container(BUCKET)
        storage_class = "storages.backends.azure_storage.AzureStorage"
        yield Store("azure", storage_class, relay, settings, [key, "sig="])


def azure_settings(url: str, key: str) -> dict[str, Any]:
    return {
        "account_name": "pulp",
        "account_key": key,
        "azure_container": BUCKET,
        "azure_ssl": False,
        "expiration_secs": 3600,
        "overwrite_files": True,
        "connection_string": f"DefaultEndpointsProtocol=http;AccountName=pulp;AccountKey={key};"
        f"BlobEndpoint={url}/pulp;",
    }


@contextmanager
def google() -> Iterator[Store]:
    port = free_port()
    command = ["gcp-storage-emulator", "start", "--in-memory", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--default-bucket", BUCKET]
    with (
        _process(command, port),
        _relay(port) as relay,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(GOOGLE_VARIABLE, relay.url)  # for uploads of this process, without credentials
        settings = {
            "bucket_name": BUCKET,
            "project_id": "pulp",
            "custom_endpoint": f"{relay.url}/{BUCKET}",
        }
        storage_class = "storages.backends.gcloud.GoogleCloudStorage"
        secrets = ["PRIVATE KEY", "Signature="]
        yield Store("google", storage_class, relay, settings, secrets)


def google_credentials(path: Path) -> dict[str, str]:
    """Write a signing key to `path`, and return the environment that names it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "project_id": "pulp",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "pulp@pulp.example",
        "token_uri": "http://127.0.0.1:9/token",
    }
    path.write_text(json.dumps(account))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


STORES = {"s3": s3, "azure": azure, "google": google}


def _azurite() -> Path:
    """Return the program Azurite, installed once with npm beside the Python packages."""
    folder = Path(sys.prefix, AZURITE.replace("@", "-"))
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Azurite needs npm, of Debian's packages nodejs and npm")
    with tempfile.TemporaryDirectory(dir=sys.prefix) as temporary:
        command = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--prefix", temporary]
        subprocess.run([*command, AZURITE], check=True, capture_output=True, timeout=900)
        with suppress(FileExistsError):
            Path(temporary, "node_modules").rename(_made(folder) / "node_modules")
    return program


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _relay(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def _process(command: list[str], port: int, **environ: str) -> Iterator[None]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            in_venv(command),
            env={**os.environ, **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def said() -> str:
            output.seek(0)
            return output.read().decode(errors="replace")

        def answers() -> bool:
            assert process.poll() is None, said()
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
                return True
            return False

        try:
            wait_until(answers, explain=said)
            yield
        finally:
            stop(process)
