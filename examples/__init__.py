"""Integration services to copy, in front of an upstream that really runs on one machine.

`mail_sender` (Flask), `order_events` (FastAPI) and `archive_worker` (no web framework) are the adapters;
`iam_keys` is the rotation of AWS access keys that they share. `launch` starts all of it for the demo and
for tests.
"""
