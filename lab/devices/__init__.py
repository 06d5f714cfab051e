"""Providers: each makes management devices (parents of vDPA devices) appear on a host.

One module per provider, with one function::

    parent(host, config, device_class, …) -> context manager yielding the names of the management devices

vDPA devices themselves are made of them by :func:`lab.host.vdpa.device`.
"""
