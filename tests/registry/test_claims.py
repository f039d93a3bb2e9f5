from collections.abc import Callable

import msgspec
import pytest

from towpath.clock import FixedClock
from towpath.errors import RefusedError, UnknownError
from towpath.models.manifest import FeatureColumn, FeatureLock
from towpath.registry import claims
from towpath.stores.objects import Objects

LOCK = FeatureLock(
    project="shop",
    view="prices",
    fingerprint="aa",
    entity=("item_id",),
    ttl_us=1,
    columns=(FeatureColumn(name="price", type="double"),),
    sql="select 1",
)


def test_a_name_belongs_to_the_project_that_claimed_it_first(objects: Objects, clock: FixedClock) -> None:
    # given 'demand' of project shop; when shop asks again, then the first claim stands
    again = claims.claim_model(objects, "demand", project="shop", team="fresh", by="otto", clock=clock)
    assert again.by == "mira"
    # when another asks, then it is refused and the owner is named
    with pytest.raises(RefusedError, match="project 'shop' of team 'fresh'"):
        claims.claim_model(objects, "demand", project="web", team="web", by="otto", clock=clock)
    assert claims.owner(objects, "demand").project == "shop"
    assert claims.models(objects) == ["demand"]


def test_an_unknown_model_is_refused_with_the_nearest(objects: Objects) -> None:
    with pytest.raises(UnknownError, match="did you mean 'demand'"):
        claims.owner(objects, "demnad")


def test_another_project_reads_a_published_view(objects: Objects, clock: FixedClock) -> None:
    claims.publish_view(objects, LOCK, team="fresh", by="mira", clock=clock)
    found = claims.published_view(objects, "shop", "prices")
    assert found.lock == LOCK
    assert claims.published_views(objects) == [("shop", "prices")]
    with pytest.raises(UnknownError, match="did you mean 'shop/prices'"):
        claims.published_view(objects, "shop", "price")


def test_the_newest_form_is_current_and_every_form_stays(objects: Objects, clock: FixedClock) -> None:
    other = msgspec.structs.replace(LOCK, fingerprint="bb", sql="select 2")
    publish: Callable[[FeatureLock], object] = lambda lock: claims.publish_view(
        objects, lock, team="fresh", by="mira", clock=clock
    )
    for lock in (LOCK, other, other):
        publish(lock)
    assert claims.published_view(objects, "shop", "prices").lock == other
    assert claims.published_view(objects, "shop", "prices", fingerprint="aa").lock == LOCK
    # and a view that returns to its first form is current again, also when the clock stands still
    publish(LOCK)
    assert claims.published_view(objects, "shop", "prices").lock == LOCK
