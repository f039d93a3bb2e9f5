"""Who answers whom: the policy, the two hashes of a unit, the consumers and their keys."""

from towpath.traffic.assignment import point
from towpath.traffic.consumers import Consumer, Consumers
from towpath.traffic.policy import CHAMPION, Policy, Route

__all__ = ["CHAMPION", "Consumer", "Consumers", "Policy", "Route", "point"]
