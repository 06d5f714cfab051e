"""Where commands run: this machine, a virtual machine, a server; and helpers that work on any of them."""
