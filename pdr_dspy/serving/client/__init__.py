"""The HTTP client of `connect`: `engine` is what DSPy calls. Its parts are who serves (`identity`, with
`discovery`, `models` and `reported`), the sessions of each event loop (`connections`), requests with their retries
(`transport`, with `retries`, `failures`, `balancer` for replicas and `concurrency` for a bound on requests in flight),
and completions, several of which may share one request (`completions`, with `batching`, `encode` and `decode`).
"""
