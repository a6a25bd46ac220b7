"""Names from Kubernetes: who held an address when a packet was captured, and whom a service-account token belongs to.

`objects`, `addresses`, `book`, `reflector`, `review` are pure: no I/O, no clock. `api` speaks HTTP, `names` and
`accounts` are the threads and the waiting around them. Nothing here is imported where Kubernetes is off.
"""
