"""Validation of the `CONTENT_STAR_` settings."""

import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from pulpcore.content_star.app import settings as defaults

MAX_THRESHOLD = 2**31 - 1
"""Largest of `gc.set_threshold`."""


class Values(NamedTuple):
    """The values that a setting may have, and their description."""

    is_valid: Callable[[Any], bool]
    description: str


def _numbers(*, whole: bool = False, zero: bool = True, none: bool = False) -> Values:
    """Return the numbers from 0 on: only whole ones, not 0, or None as well.

    Not infinity, and no integer that cannot be added to a float.
    """

    def is_valid(value: Any) -> bool:
        if value is None:
            return none
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return False
        return 0 <= value <= sys.float_info.max and (zero or value > 0)

    least = "from 0" if zero else "from 1" if whole else "of more than 0"
    description = f"a {'whole ' if whole else ''}number {least}{', or None' if none else ''}"
    return Values(is_valid, description)


def _are_thresholds(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list | tuple)
        and len(value) in (1, 2, 3)
        and all(type(each) is int and 0 <= each <= MAX_THRESHOLD for each in value)
    )


_defaults = {
    name: value for name, value in vars(defaults).items() if name.startswith("CONTENT_STAR_")
}
_string = Values(lambda value: isinstance(value, str), "a string")
_of_type = {
    bool: Values(lambda value: isinstance(value, bool), "True or False"),
    float: _numbers(),
    int: _numbers(),
    str: _string,
}
_threads = _numbers(whole=True, zero=False)
_timeout = _numbers(zero=False)

# With other values requests would fail, or get the opposite: a "no" from the environment is true.
# Settings that are not named below have the type of their default.
VALUES: dict[str, Values] = {
    name: _of_type[type(value)] for name, value in _defaults.items() if type(value) in _of_type
} | {
    "CONTENT_STAR_API_NICE": _numbers(whole=True),
    "CONTENT_STAR_API_THREADS": _threads,
    "CONTENT_STAR_BODY_TIMEOUT": _timeout,
    "CONTENT_STAR_DATABASE_THREADS": _threads,
    "CONTENT_STAR_DATABASE_TIMEOUT": _timeout,
    "CONTENT_STAR_GC_THRESHOLDS": Values(
        _are_thresholds,
        "a list of one to three whole numbers from 0, such as [700, 10, 100], or None",
    ),
    "CONTENT_STAR_HEAD_TIMEOUT": _timeout,
    "CONTENT_STAR_INDEX": Values(lambda value: value in ("page", "classic"), "page or classic"),
    "CONTENT_STAR_LINKS": Values(
        lambda value: isinstance(value, Mapping), "a dict of names to URLs"
    ),
    "CONTENT_STAR_MAX_BODY_SIZE": _numbers(none=True),
    "CONTENT_STAR_SENDFILE": _string._replace(
        is_valid=lambda value: value is None or isinstance(value, str)
    ),
    "CONTENT_STAR_SWITCH_INTERVAL": _numbers(zero=False, none=True),
    "CONTENT_STAR_UPLOAD_THREADS": _threads,
}


def require_valid_settings() -> None:
    """Raise `ImproperlyConfigured` for settings with values that a process cannot work with."""
    if wrong := list(invalid_settings()):
        raise ImproperlyConfigured("; ".join(wrong))


def invalid_settings() -> Iterator[str]:
    """Yield, for each of these settings, its value and the valid ones."""
    for name, values in VALUES.items():
        value = getattr(settings, name)
        if not values.is_valid(value):
            yield (
                f"{name} is {reprlib.repr(value)}: set it to {values.description};"
                f" the default is {_defaults[name]!r} (docs/settings.md)"
            )
