/* ---
description = "Is any price below cost?"
model = "demand"
severity = "critical"
every = "1h"
window = "2d"
mend = "Ask pricing whether the night load ran."
owner = "ana"

[inputs]
costs = "select item_id, cost from shop.costs"

[parameters]
slack = 0.05
most = 3
band = "low"
--- */
select
    p.item_id,
    p.price,
    c.cost
from predictions as p
inner join costs as c on p.item_id = c.item_id
where
    p.predicted_at >= :since
    and p.predicted_at < :until
    and p.price < c.cost * (1 - :slack)
    and p.band = :band
limit :most
