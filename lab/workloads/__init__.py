"""Workloads: traffic and disk I/O through the device under test, measured and judged."""
