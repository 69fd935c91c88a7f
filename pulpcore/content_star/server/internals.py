"""Check that the installed uvicorn has the attributes that this package uses."""

from collections.abc import Iterable


def missing(owner: type, methods: Iterable[str], attributes: Iterable[str]) -> list[str]:
    """Return which methods `owner` lacks, and which attributes its `__init__` does not set."""
    absent = {name for name in methods if not hasattr(owner, name)}
    absent |= set(attributes) - set(owner.__init__.__code__.co_names)  # type: ignore[misc]
    return sorted(absent)


def require(owner: type, methods: Iterable[str], attributes: Iterable[str]) -> None:
    """Raise ImportError unless `owner` has these methods, and its `__init__` these attributes."""
    if absent := missing(owner, methods, attributes):
        import uvicorn

        raise ImportError(
            f"uvicorn {uvicorn.__version__} does not fit pulp-content-star: its"
            f" {owner.__module__}.{owner.__name__} lacks {', '.join(absent)}. Install a"
            " version that pulp-content-star was tested with, or start uvicorn without --http."
        )
