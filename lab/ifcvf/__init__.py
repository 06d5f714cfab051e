"""A device model that serves emulated Intel IFC VFs to QEMU over vfio-user. ``docs/ifcvf.md`` is its manual.

It is a process of its own, uses the standard library only and imports nothing else of the lab. One thread, one loop:
``serve`` builds the VFs that ``config`` describes; ``vf`` speaks the protocol of ``wire`` with one QEMU and keeps its
``dma`` map; ``transport`` is virtio over PCI with the registers of ``pci``, on the rings of ``ring``; ``net`` (with
``offload`` and ``ports``) and ``blk`` (with ``disk``) are the devices; ``faults`` breaks them; ``control`` is how a
person or a program asks.
"""
