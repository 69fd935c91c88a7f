"""An authentication backend that blocks password checks while a file exists."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

from django.contrib.auth.backends import ModelBackend

HOLD = "STAR_TEST_HOLD"
"""The environment variable that names a directory, with one file for each running check."""


class HoldingBackend(ModelBackend):
    """Django's model backend; it blocks while the file `hold` exists.

    Passwords that begin with `wrong` are refused without hashing, which keeps the tests fast.
    """

    def authenticate(self, request: Any, username: Any = None, **credentials: Any) -> Any:
        folder = Path(os.environ[HOLD])
        mark = folder / f"check-{uuid.uuid4().hex}-{username}"
        mark.touch()
        try:
            while (folder / "hold").exists():
                time.sleep(0.02)
            if credentials["password"].startswith("wrong"):
                return None
            return super().authenticate(request, username, **credentials)
        finally:
            mark.unlink()
