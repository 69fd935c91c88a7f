"""Response cache: invalidation, expiry, eviction and limits."""

import uuid

import pytest

from pulpcore.app.models import Distribution, Domain
from pulpcore.content_star.cache.entries import (
    CacheEntry,
    CacheKey,
    DistributionEntry,
    NotFoundEntry,
    RedirectEntry,
)
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.resolve.paths import ContentPath

FOR_EVER = float("inf")


@pytest.fixture
def cache() -> ResponseCache:
    made = ResponseCache(3, 100)
    made.confirm(FOR_EVER)
    return made


def plan_of(base_path: str, nested: bool = False) -> DistributionEntry:
    domain = Domain(name="default")
    distribution = Distribution(pk=uuid.uuid4(), base_path=base_path, pulp_domain=domain)
    return DistributionEntry(distribution, None, nested)


def kept_by(
    distribution_entry: DistributionEntry, *ids: uuid.UUID, expires: float = FOR_EVER
) -> CacheEntry:
    return CacheEntry(RedirectEntry(), distribution_entry, False, None, (), (), ids, expires)


def not_found(distribution_entry: DistributionEntry) -> CacheEntry:
    return CacheEntry(
        NotFoundEntry(404, "no"), distribution_entry, False, None, (), (), (), FOR_EVER
    )


def known(cache: ResponseCache, base_path: str) -> DistributionEntry:
    return cache.add_distribution(plan_of(base_path), cache.generation)


def key(path: str) -> CacheKey:
    return CacheKey(path, "GET", json=False)


def test_entry_is_invalidated_with_its_distribution(cache):
    distribution_entry, other = known(cache, "base"), known(cache, "other")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    cache.add(key("other/a"), kept_by(other), cache.generation)
    assert cache.get(key("base/a")) and cache.get(key("other/a"))
    cache.invalidate([distribution_entry.distribution.pk])
    assert cache.get(key("base/a")) is None
    assert cache.find(ContentPath("default", "base/b")) is None
    assert cache.get(key("other/a"))
    assert cache.find(ContentPath("default", "other/b")) is other


def test_entry_is_invalidated_with_a_row_of_its_own(cache):
    distribution_entry, row = known(cache, "base"), uuid.uuid4()
    cache.add(key("base/a"), kept_by(distribution_entry, row), cache.generation)
    cache.add(key("base/b"), kept_by(distribution_entry, uuid.uuid4()), cache.generation)
    cache.invalidate([row])
    assert cache.get(key("base/a")) is None
    assert cache.get(key("base/b"))


@pytest.mark.parametrize("change", ["invalidate", "invalidate_all", "invalidate_above"])
def test_entry_of_an_earlier_generation_is_not_added(cache, change):
    """Whatever has changed: the slow request may have read it before."""
    generation, distribution_entry = cache.generation, plan_of("base")
    arguments = {"invalidate": [[uuid.uuid4()]], "invalidate_above": [uuid.uuid4(), "x"]}
    getattr(cache, change)(*arguments.get(change, []))
    cache.add_distribution(distribution_entry, generation)
    cache.add(key("base/a"), kept_by(distribution_entry), generation)
    assert cache.find(ContentPath("default", "base/a")) is None
    assert cache.get(key("base/a")) is None


def test_entry_of_an_invalidated_distribution_is_not_added(cache):
    distribution_entry = known(cache, "base")
    cache.invalidate([distribution_entry.distribution.pk])
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("base/a")) is None


def test_entry_of_an_uncached_distribution_is_not_added(cache):
    """Nobody would drop it."""
    cache.confirm(float("-inf"))
    distribution_entry = known(cache, "base")
    cache.confirm(FOR_EVER)
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("base/a")) is None


def test_cache_is_not_used_without_confirmation(cache):
    distribution_entry = known(cache, "base")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    cache.confirm(float("-inf"))
    assert cache.get(key("base/a")) is None
    assert cache.find(ContentPath("default", "base/a")) is None
    cache.add(key("base/b"), kept_by(distribution_entry), cache.generation)
    cache.confirm(FOR_EVER)
    assert cache.get(key("base/a"))
    assert cache.get(key("base/b")) is None


def test_entry_expires(cache):
    cache.add(key("base/a"), kept_by(known(cache, "base"), expires=0), cache.generation)
    assert cache.get(key("base/a")) is None


def test_least_recently_used_entry_is_evicted(cache):
    distribution_entry = known(cache, "base")
    for path in "abc":
        cache.add(key(path), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("a"))
    cache.add(key("d"), kept_by(distribution_entry), cache.generation)
    assert [path for path in "abcd" if cache.get(key(path))] == ["a", "c", "d"]


def test_cached_bytes_are_limited(cache):
    distribution_entry = known(cache, "base")
    entry = {path: kept_by(distribution_entry) for path in "abc"}
    for path, each in entry.items():
        cache.add(key(path), each, cache.generation)
    assert cache.share(key("a"), entry["a"], "sha256 of a", bytes(60))
    assert cache.share(key("b"), entry["b"], "sha256 of b", bytes(60))
    assert cache.get(key("a")) is None
    assert cache.size == 60
    assert not cache.share(key("c"), entry["c"], "sha256 of c", bytes(101))
    assert not cache.share(key("a"), entry["a"], "sha256 of a", b"a"), "it is gone"
    cache.invalidate_all()
    assert cache.size == 0


def test_cached_bytes_of_a_file_at_several_paths_count_once(cache):
    distribution_entry = known(cache, "base")
    entry = {path: kept_by(distribution_entry, uuid.uuid4()) for path in "abc"}
    for path, each in entry.items():
        cache.add(key(path), each, cache.generation)
    copies = {path: cache.share(key(path), entry[path], "sha256", bytes(60)) for path in "abc"}
    assert copies["a"] is not None
    assert copies["b"] is copies["a"] and copies["c"] is copies["a"]
    assert cache.size == 60
    cache.share(key("a"), entry["a"], "sha256", bytes(60))
    cache.invalidate([*entry["a"].ids, *entry["b"].ids])
    assert cache.size == 60, "c has it"
    cache.invalidate(entry["c"].ids)
    assert cache.size == 0


def test_not_found_entries_evict_no_files():
    cache = ResponseCache(100, 1000)
    cache.confirm(FOR_EVER)
    distribution_entry = known(cache, "base")
    for number in range(50):
        cache.add(key(f"file {number}"), kept_by(distribution_entry), cache.generation)
    for number in range(1000):
        cache.add(key(f"no {number}"), not_found(distribution_entry), cache.generation)
    assert all(cache.get(key(f"file {number}")) for number in range(50))
    assert [n for n in range(1000) if cache.get(key(f"no {n}"))] == list(range(990, 1000))
    cache.invalidate([distribution_entry.distribution.pk])
    assert cache.get(key("no 999")) is None


def test_least_recently_used_not_found_entry_is_evicted(monkeypatch):
    monkeypatch.setattr("pulpcore.content_star.cache.store.LRU_PRECISION", 0)
    cache = ResponseCache(20, 0)
    cache.confirm(FOR_EVER)
    distribution_entry = known(cache, "base")
    for path in ("used", "not used", "new"):
        cache.add(key(path), not_found(distribution_entry), cache.generation)
        cache.get(key("used"))
    assert cache.get(key("used")) and cache.get(key("new"))
    assert cache.get(key("not used")) is None


def test_not_found_entry_of_a_long_path_is_not_added():
    cache = ResponseCache(100, 0)
    cache.confirm(FOR_EVER)
    distribution_entry, path = known(cache, "base"), "x" * 8000
    cache.add(key(path), not_found(distribution_entry), cache.generation)
    assert cache.get(key(path)) is None


def test_distribution_with_nested_base_paths_is_not_found_in_the_cache(cache):
    cache.add_distribution(plan_of("base", nested=True), cache.generation)
    assert cache.find(ContentPath("default", "base/other/a")) is None


def test_new_base_path_invalidates_distributions_above(cache):
    distribution_entry = cache.add_distribution(plan_of("a/b"), cache.generation)
    other = cache.add_distribution(plan_of("a/bc"), cache.generation)
    cache.invalidate_above(distribution_entry.distribution.pulp_domain_id, "a/b/c")
    assert cache.find(ContentPath("default", "a/b/c/d")) is None
    cache.invalidate_above(other.distribution.pulp_domain_id, "a/b/c")
    assert cache.find(ContentPath("default", "a/bc/d")) is other


def test_cache_without_capacity_adds_nothing():
    cache = ResponseCache(0, 0)
    cache.confirm(FOR_EVER)
    distribution_entry = known(cache, "base")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.find(ContentPath("default", "base/a")) is None
    assert cache.get(key("base/a")) is None


def test_cache_entry_gives_each_request_copies(cache):
    distribution_entry = plan_of("base")
    one, two = distribution_entry.resolve("base/a"), distribution_entry.resolve("base/b")
    assert (one.path, two.path) == ("a", "b")
    one.distribution.name = one.distribution.pulp_domain.name = "changed"
    assert two.distribution.name != "changed"
    assert distribution_entry.resolve("base/c").distribution.pulp_domain.name == "default"
