"""Attachers: each hands a vDPA device to its user by one vDPA bus driver and yields plain data.

``vhost_vdpa``: a device to add to a guest's QEMU. ``virtio_vdpa``: an interface or a disk of the host itself.
"""
