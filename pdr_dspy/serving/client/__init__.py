"""The HTTP client of `connect`: requests out (`encode`), replies in (`decode`), retries, a bound on requests in flight
(`concurrency`), replicas (`balancer`), and siblings as one request (`batching`). `engine` puts them together.
"""
