"""What is kept, and for how long."""

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


def test_an_answer_goes_with_its_distribution(cache):
    distribution_entry, other = known(cache, "base"), known(cache, "other")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    cache.add(key("other/a"), kept_by(other), cache.generation)
    assert cache.get(key("base/a")) and cache.get(key("other/a"))
    cache.invalidate([distribution_entry.distribution.pk])
    assert cache.get(key("base/a")) is None
    assert cache.find(ContentPath("default", "base/b")) is None
    assert cache.get(key("other/a"))
    assert cache.find(ContentPath("default", "other/b")) is other


def test_an_answer_goes_with_a_row_of_its_own(cache):
    distribution_entry, row = known(cache, "base"), uuid.uuid4()
    cache.add(key("base/a"), kept_by(distribution_entry, row), cache.generation)
    cache.add(key("base/b"), kept_by(distribution_entry, uuid.uuid4()), cache.generation)
    cache.invalidate([row])
    assert cache.get(key("base/a")) is None
    assert cache.get(key("base/b"))


@pytest.mark.parametrize("change", ["invalidate", "invalidate_all", "invalidate_above"])
def test_what_was_begun_before_a_change_is_not_kept(cache, change):
    """Whatever has changed: the slow request may have read it before."""
    generation, distribution_entry = cache.generation, plan_of("base")
    arguments = {"invalidate": [[uuid.uuid4()]], "invalidate_above": [uuid.uuid4(), "x"]}
    getattr(cache, change)(*arguments.get(change, []))
    cache.add_distribution(distribution_entry, generation)
    cache.add(key("base/a"), kept_by(distribution_entry), generation)
    assert cache.find(ContentPath("default", "base/a")) is None
    assert cache.get(key("base/a")) is None


def test_an_answer_of_a_distribution_that_has_changed_meanwhile_is_not_kept(cache):
    distribution_entry = known(cache, "base")
    cache.invalidate([distribution_entry.distribution.pk])
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("base/a")) is None


def test_an_answer_of_a_distribution_that_could_not_be_kept_is_not_kept(cache):
    """Nobody would drop it."""
    cache.confirm(float("-inf"))
    distribution_entry = known(cache, "base")
    cache.confirm(FOR_EVER)
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("base/a")) is None


def test_nothing_is_used_or_kept_while_changes_may_be_missed(cache):
    distribution_entry = known(cache, "base")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    cache.confirm(float("-inf"))
    assert cache.get(key("base/a")) is None
    assert cache.find(ContentPath("default", "base/a")) is None
    cache.add(key("base/b"), kept_by(distribution_entry), cache.generation)
    cache.confirm(FOR_EVER)
    assert cache.get(key("base/a"))
    assert cache.get(key("base/b")) is None


def test_an_answer_ends_in_time(cache):
    cache.add(key("base/a"), kept_by(known(cache, "base"), expires=0), cache.generation)
    assert cache.get(key("base/a")) is None


def test_what_was_used_longest_ago_goes_first(cache):
    distribution_entry = known(cache, "base")
    for path in "abc":
        cache.add(key(path), kept_by(distribution_entry), cache.generation)
    assert cache.get(key("a"))
    cache.add(key("d"), kept_by(distribution_entry), cache.generation)
    assert [path for path in "abcd" if cache.get(key(path))] == ["a", "c", "d"]


def test_bytes_are_bounded(cache):
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


def test_bytes_of_a_file_at_several_paths_are_held_and_counted_once(cache):
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


def test_not_found_entries_take_no_place_from_files():
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


def test_not_found_entries_that_are_used_stay_longest(monkeypatch):
    monkeypatch.setattr("pulpcore.content_star.cache.store.LRU_PRECISION", 0)
    cache = ResponseCache(20, 0)
    cache.confirm(FOR_EVER)
    distribution_entry = known(cache, "base")
    for path in ("used", "not used", "new"):
        cache.add(key(path), not_found(distribution_entry), cache.generation)
        cache.get(key("used"))
    assert cache.get(key("used")) and cache.get(key("new"))
    assert cache.get(key("not used")) is None


def test_not_found_entries_of_long_paths_are_not_kept():
    cache = ResponseCache(100, 0)
    cache.confirm(FOR_EVER)
    distribution_entry, path = known(cache, "base"), "x" * 8000
    cache.add(key(path), not_found(distribution_entry), cache.generation)
    assert cache.get(key(path)) is None


def test_below_a_distribution_with_others_in_it_the_database_is_asked(cache):
    cache.add_distribution(plan_of("base", nested=True), cache.generation)
    assert cache.find(ContentPath("default", "base/other/a")) is None


def test_a_new_base_path_takes_paths_away_from_those_above(cache):
    distribution_entry = cache.add_distribution(plan_of("a/b"), cache.generation)
    other = cache.add_distribution(plan_of("a/bc"), cache.generation)
    cache.invalidate_above(distribution_entry.distribution.pulp_domain_id, "a/b/c")
    assert cache.find(ContentPath("default", "a/b/c/d")) is None
    cache.invalidate_above(other.distribution.pulp_domain_id, "a/b/c")
    assert cache.find(ContentPath("default", "a/bc/d")) is other


def test_without_capacity_nothing_is_kept():
    cache = ResponseCache(0, 0)
    cache.confirm(FOR_EVER)
    distribution_entry = known(cache, "base")
    cache.add(key("base/a"), kept_by(distribution_entry), cache.generation)
    assert cache.find(ContentPath("default", "base/a")) is None
    assert cache.get(key("base/a")) is None


def test_a_plan_gives_each_request_objects_of_its_own(cache):
    distribution_entry = plan_of("base")
    one, two = distribution_entry.resolve("base/a"), distribution_entry.resolve("base/b")
    assert (one.path, two.path) == ("a", "b")
    one.distribution.name = one.distribution.pulp_domain.name = "changed"
    assert two.distribution.name != "changed"
    assert distribution_entry.resolve("base/c").distribution.pulp_domain.name == "default"
