"""Who answers whom: the policy, the two hashes of a unit, the consumers with their keys and quotas."""

from towpath.traffic.assignment import point
from towpath.traffic.consumer import LOCAL, SCOPES, Consumer, Quota, Sla, quota_of, scopes_of, sla_of
from towpath.traffic.consumer_book import ConsumerBook
from towpath.traffic.consumers import Caller, Consumers
from towpath.traffic.pepper import make_pepper, read_pepper
from towpath.traffic.policy import CHAMPION, Policy, Route
from towpath.traffic.quotas import Quotas
from towpath.traffic.seen import SeenWriter, last_seen

__all__ = [
    "CHAMPION",
    "LOCAL",
    "SCOPES",
    "Caller",
    "Consumer",
    "ConsumerBook",
    "Consumers",
    "Policy",
    "Quota",
    "Quotas",
    "Route",
    "SeenWriter",
    "Sla",
    "last_seen",
    "make_pepper",
    "point",
    "quota_of",
    "read_pepper",
    "scopes_of",
    "sla_of",
]
