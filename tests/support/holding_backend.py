"""An authentication backend for tests: a password check takes as long as a file exists."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

from django.contrib.auth.backends import ModelBackend

HOLD = "STAR_TEST_HOLD"
"""The environment variable that names a directory: of one file for each check under way."""


class HoldingBackend(ModelBackend):
    """Django's own backend, which waits for the file `hold` to go before it checks a password.

    That of a wrong one takes no longer: `wrong...`.
    """

    def authenticate(self, request: Any, username: Any = None, **credentials: Any) -> Any:
        folder = Path(os.environ[HOLD])
        mark = folder / f"check-{username}-{uuid.uuid4()}"
        mark.touch()
        try:
            while (folder / "hold").exists():
                time.sleep(0.02)
            if credentials["password"].startswith("wrong"):
                return None
            return super().authenticate(request, username, **credentials)
        finally:
            mark.unlink()
