"""The procedures of the virtbus conformance suite that user space drives, and the bench that they work on.

Each takes a Bench and returns what it saw; ``PROCEDURES`` has them by the names that configs/virtbus.toml uses.
"""
