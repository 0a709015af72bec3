"""The coordinator: owns jobs, artifacts and deployments; decides who does what.

The deciding is done by `tunefleet_core.lifecycle`, a pure function. This package is
its shell: `kernel` (one writer, group commit), `store` (durable rows), `servicers`
(the API), `sessions` (control streams of services), `security`, `resolving`.
"""
