"""Calls a Towpath server from a product team's program: ``towpath.Client`` and ``towpath.AsyncClient``."""

from towpath.client.answers import Answer, Prediction, PushAnswer, RefusedRow
from towpath.client.client import AsyncClient, Client

__all__ = ["Answer", "AsyncClient", "Client", "Prediction", "PushAnswer", "RefusedRow"]
