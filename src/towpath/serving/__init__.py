"""Serving: route, look up, call, check, fall back, write down; over HTTP and gRPC, from a store alone or from one file."""
