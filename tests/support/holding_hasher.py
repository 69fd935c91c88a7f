"""A password hasher for tests: a hash takes as long as a file exists."""

import os
import time
import uuid
from pathlib import Path

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from tests.support.holding_backend import HOLD


class HoldingHasher(PBKDF2PasswordHasher):
    """Django's own, which waits for the file `hold` to go before it hashes."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        folder = Path(os.environ[HOLD])
        mark = folder / f"hash-{uuid.uuid4().hex}-{password}"
        mark.touch()
        try:
            while (folder / "hold").exists():
                time.sleep(0.02)
            return super().encode(password, salt, iterations)
        finally:
            mark.unlink()
