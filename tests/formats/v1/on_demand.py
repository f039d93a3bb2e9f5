"""An amount beside what is usually paid.

---
budget_ms = 30
publish = true
owner = "mira"
description = "An amount beside the price."

[inputs]
amount = { type = "double", required = true }
price = { type = "prices.price", required = false }
at = { type = "time", required = false }

[outputs]
ratio = { type = "double", default = 1.5, missing = "default", description = "Of the usual price." }
---
"""


def basket(amount, price, at):
    return {"ratio": amount / price}
