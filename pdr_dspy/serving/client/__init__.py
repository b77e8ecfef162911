"""The HTTP client of `connect`: encoding of requests (`encode`), decoding of replies (`decode`), retries, a bound on
requests in flight (`concurrency`), replicas (`balancer`), and siblings as one request (`batching`). `engine` combines
them.
"""
