"""vdpalab: a QEMU end-to-end lab for Linux vDPA and virtbus."""

__version__ = "0.1.0"
