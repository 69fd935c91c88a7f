"""Where what plugins answer is sent in another way than by `pulpcore-content`, and why."""

from tests.parity.differences import Difference

OF_PLUGINS: dict[str, Difference] = {}
