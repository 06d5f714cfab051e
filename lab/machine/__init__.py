"""QEMU machines: command line, process, monitor, console, states."""
