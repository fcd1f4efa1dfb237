"""DMVI's and AGAN's sweeps over learning rates and reconstruction weights, and every figure that is made of them."""
