"""Values of content-star's settings of another type than their defaults."""

import math
from collections.abc import Iterator

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from pulpcore.content_star.app import settings as defaults

# Numbers that may be None as well.
OPTIONAL = frozenset({"CONTENT_STAR_SWITCH_INTERVAL"})


def require_numbers() -> None:
    """Raise `ImproperlyConfigured` for settings that are not the numbers they have to be.

    Each request would fail, or those of the API alone.
    """
    if wrong := list(wrong_numbers()):
        raise ImproperlyConfigured("; ".join(wrong))


def wrong_numbers() -> Iterator[str]:
    """Yield, for each setting that is not the number it has to be, its value and a valid one."""
    for name, default in _defaults(float | int):
        value = getattr(settings, name)
        if isinstance(default, bool) or (value is None and name in OPTIONAL):
            continue
        is_whole = name.endswith(("_THREADS", "_NICE"))
        least = 1 if name.endswith("_THREADS") else 0
        is_number = isinstance(value, int if is_whole else int | float)
        if isinstance(value, bool) or not is_number or not least <= value < math.inf:
            kind = "a whole number" if is_whole else "a number"
            yield f"{name} is {value!r}: set it to {kind} from {least}; the default is {default}"


def wrong_strings() -> Iterator[str]:
    """Yield the same for each setting that is not the string or boolean it has to be."""
    for name, default in _defaults(bool | str):
        value = getattr(settings, name)
        if type(value) is not type(default):
            yield f"{name} is {value!r}: set it to a value as {default!r}, the default"


def _defaults(kind: object) -> Iterator[tuple[str, object]]:
    for name, default in vars(defaults).items():
        if name.startswith("CONTENT_STAR_") and isinstance(default, kind):  # type: ignore[arg-type]
            yield name, default
