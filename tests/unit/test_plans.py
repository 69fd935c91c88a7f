"""What is kept, and for how long."""

import uuid

import pytest

from pulpcore.app.models import Distribution, Domain
from pulpcore.content_star.cache.entries import DistributionPlan, Kept, Key, Nothing, WithSlash
from pulpcore.content_star.cache.store import Plans
from pulpcore.content_star.resolve.paths import Address

FOR_EVER = float("inf")


@pytest.fixture
def plans() -> Plans:
    made = Plans(3, 100)
    made.proved(FOR_EVER)
    return made


def plan_of(base_path: str, nested: bool = False) -> DistributionPlan:
    domain = Domain(name="default")
    distribution = Distribution(pk=uuid.uuid4(), base_path=base_path, pulp_domain=domain)
    return DistributionPlan(distribution, None, nested)


def kept_by(plan: DistributionPlan, *ids: uuid.UUID, expires: float = FOR_EVER) -> Kept:
    return Kept(WithSlash(), plan, False, None, (), (), ids, expires)


def not_found(plan: DistributionPlan) -> Kept:
    return Kept(Nothing(404, "no"), plan, False, None, (), (), (), FOR_EVER)


def known(plans: Plans, base_path: str) -> DistributionPlan:
    return plans.keep_place(plan_of(base_path), plans.generation)


def key(path: str) -> Key:
    return Key(path, "GET", json=False)


def test_an_answer_goes_with_its_distribution(plans):
    plan, other = known(plans, "base"), known(plans, "other")
    plans.keep(key("base/a"), kept_by(plan), plans.generation)
    plans.keep(key("other/a"), kept_by(other), plans.generation)
    assert plans.recall(key("base/a")) and plans.recall(key("other/a"))
    plans.forget([plan.distribution.pk])
    assert plans.recall(key("base/a")) is None
    assert plans.find(Address("default", "base/b")) is None
    assert plans.recall(key("other/a"))
    assert plans.find(Address("default", "other/b")) is other


def test_an_answer_goes_with_a_row_of_its_own(plans):
    plan, row = known(plans, "base"), uuid.uuid4()
    plans.keep(key("base/a"), kept_by(plan, row), plans.generation)
    plans.keep(key("base/b"), kept_by(plan, uuid.uuid4()), plans.generation)
    plans.forget([row])
    assert plans.recall(key("base/a")) is None
    assert plans.recall(key("base/b"))


@pytest.mark.parametrize("change", ["forget", "forget_all", "forget_above"])
def test_what_was_begun_before_a_change_is_not_kept(plans, change):
    """Whatever has changed: the slow request may have read it before."""
    generation, plan = plans.generation, plan_of("base")
    arguments = {"forget": [[uuid.uuid4()]], "forget_above": [uuid.uuid4(), "x"]}
    getattr(plans, change)(*arguments.get(change, []))
    plans.keep_place(plan, generation)
    plans.keep(key("base/a"), kept_by(plan), generation)
    assert plans.find(Address("default", "base/a")) is None
    assert plans.recall(key("base/a")) is None


def test_an_answer_of_a_distribution_that_has_changed_meanwhile_is_not_kept(plans):
    plan = known(plans, "base")
    plans.forget([plan.distribution.pk])
    plans.keep(key("base/a"), kept_by(plan), plans.generation)
    assert plans.recall(key("base/a")) is None


def test_an_answer_of_a_distribution_that_could_not_be_kept_is_not_kept(plans):
    """Nobody would drop it."""
    plans.proved(float("-inf"))
    plan = known(plans, "base")
    plans.proved(FOR_EVER)
    plans.keep(key("base/a"), kept_by(plan), plans.generation)
    assert plans.recall(key("base/a")) is None


def test_nothing_is_used_or_kept_while_changes_may_be_missed(plans):
    plan = known(plans, "base")
    plans.keep(key("base/a"), kept_by(plan), plans.generation)
    plans.proved(float("-inf"))
    assert plans.recall(key("base/a")) is None
    assert plans.find(Address("default", "base/a")) is None
    plans.keep(key("base/b"), kept_by(plan), plans.generation)
    plans.proved(FOR_EVER)
    assert plans.recall(key("base/a"))
    assert plans.recall(key("base/b")) is None


def test_an_answer_ends_in_time(plans):
    plans.keep(key("base/a"), kept_by(known(plans, "base"), expires=0), plans.generation)
    assert plans.recall(key("base/a")) is None


def test_what_was_used_longest_ago_goes_first(plans):
    plan = known(plans, "base")
    for path in "abc":
        plans.keep(key(path), kept_by(plan), plans.generation)
    assert plans.recall(key("a"))
    plans.keep(key("d"), kept_by(plan), plans.generation)
    assert [path for path in "abcd" if plans.recall(key(path))] == ["a", "c", "d"]


def test_bytes_are_bounded(plans):
    plan = known(plans, "base")
    kept = {path: kept_by(plan) for path in "abc"}
    for path, each in kept.items():
        plans.keep(key(path), each, plans.generation)
    assert plans.share(key("a"), kept["a"], "sha256 of a", bytes(60))
    assert plans.share(key("b"), kept["b"], "sha256 of b", bytes(60))
    assert plans.recall(key("a")) is None
    assert plans.size == 60
    assert not plans.share(key("c"), kept["c"], "sha256 of c", bytes(101))
    assert not plans.share(key("a"), kept["a"], "sha256 of a", b"a"), "it is gone"
    plans.forget_all()
    assert plans.size == 0


def test_bytes_of_a_file_at_several_paths_are_held_and_counted_once(plans):
    plan = known(plans, "base")
    kept = {path: kept_by(plan, uuid.uuid4()) for path in "abc"}
    for path, each in kept.items():
        plans.keep(key(path), each, plans.generation)
    copies = {path: plans.share(key(path), kept[path], "sha256", bytes(60)) for path in "abc"}
    assert copies["a"] is not None
    assert copies["b"] is copies["a"] and copies["c"] is copies["a"]
    assert plans.size == 60
    plans.share(key("a"), kept["a"], "sha256", bytes(60))
    plans.forget([*kept["a"].ids, *kept["b"].ids])
    assert plans.size == 60, "c has it"
    plans.forget(kept["c"].ids)
    assert plans.size == 0


def test_not_found_entries_take_no_place_from_files():
    plans = Plans(100, 1000)
    plans.proved(FOR_EVER)
    plan = known(plans, "base")
    for number in range(50):
        plans.keep(key(f"file {number}"), kept_by(plan), plans.generation)
    for number in range(1000):
        plans.keep(key(f"no {number}"), not_found(plan), plans.generation)
    assert all(plans.recall(key(f"file {number}")) for number in range(50))
    assert [n for n in range(1000) if plans.recall(key(f"no {n}"))] == list(range(990, 1000))
    plans.forget([plan.distribution.pk])
    assert plans.recall(key("no 999")) is None


def test_not_found_entries_that_are_used_stay_longest(monkeypatch):
    monkeypatch.setattr("pulpcore.content_star.cache.store.ORDER", 0)
    plans = Plans(20, 0)
    plans.proved(FOR_EVER)
    plan = known(plans, "base")
    for path in ("used", "not used", "new"):
        plans.keep(key(path), not_found(plan), plans.generation)
        plans.recall(key("used"))
    assert plans.recall(key("used")) and plans.recall(key("new"))
    assert plans.recall(key("not used")) is None


def test_not_found_entries_of_long_paths_are_not_kept():
    plans = Plans(100, 0)
    plans.proved(FOR_EVER)
    plan, path = known(plans, "base"), "x" * 8000
    plans.keep(key(path), not_found(plan), plans.generation)
    assert plans.recall(key(path)) is None


def test_below_a_distribution_with_others_in_it_the_database_is_asked(plans):
    plans.keep_place(plan_of("base", nested=True), plans.generation)
    assert plans.find(Address("default", "base/other/a")) is None


def test_a_new_base_path_takes_paths_away_from_those_above(plans):
    plan = plans.keep_place(plan_of("a/b"), plans.generation)
    other = plans.keep_place(plan_of("a/bc"), plans.generation)
    plans.forget_above(plan.distribution.pulp_domain_id, "a/b/c")
    assert plans.find(Address("default", "a/b/c/d")) is None
    plans.forget_above(other.distribution.pulp_domain_id, "a/b/c")
    assert plans.find(Address("default", "a/bc/d")) is other


def test_without_capacity_nothing_is_kept():
    plans = Plans(0, 0)
    plans.proved(FOR_EVER)
    plan = known(plans, "base")
    plans.keep(key("base/a"), kept_by(plan), plans.generation)
    assert plans.find(Address("default", "base/a")) is None
    assert plans.recall(key("base/a")) is None


def test_a_plan_gives_each_request_objects_of_its_own(plans):
    plan = plan_of("base")
    one, two = plan.place("base/a"), plan.place("base/b")
    assert (one.path, two.path) == ("a", "b")
    one.distribution.name = one.distribution.pulp_domain.name = "changed"
    assert two.distribution.name != "changed"
    assert plan.place("base/c").distribution.pulp_domain.name == "default"
