"""What a lab is made of, built once per set of inputs: kernels, images, QEMUs, and the store that keeps them."""
