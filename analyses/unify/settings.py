"""Numbers taken from Hu, Yang, Salakhutdinov, Xing (2018), On Unifying Deep Generative Models, ICLR."""

from __future__ import annotations

PERCENTAGES = (1, 10, 100)
"""Table 3: shares of the training data, in per cent; with few labels (SVAE) the share of labels, 1 and 10."""
TABLE_3: dict[str, dict[int, float]] = {
    "VAE": {1: -122.89, 10: -104.49, 100: -92.53},
    "AA-VAE": {1: -122.15, 10: -103.05, 100: -92.42},
    "CVAE": {1: -125.44, 10: -102.63, 100: -93.16},
    "AA-CVAE": {1: -122.88, 10: -101.63, 100: -92.75},
    "SVAE": {1: -108.22, 10: -99.44},
    "AA-SVAE": {1: -107.61, 10: -98.81},
}
"""Variational lower bounds on the MNIST test set, nats."""
TABLE_4: dict[str, dict[int, tuple[float, float]]] = {
    "SVAE": {1: (0.9412, 0.0039), 10: (0.9768, 0.0009)},
    "AA-SVAE": {1: (0.9425, 0.0045), 10: (0.9797, 0.0010)},
}
"""Accuracy on the MNIST test set, mean and standard deviation over 5 runs; also Table 2, right."""
INCEPTION_SCORES = {"GAN": (8.34, 0.03), "IWGAN": (8.45, 0.04), "test data": (9.09, None)}
"""Table 2, left, MNIST: mean and standard deviation over 5 runs; of the test data, appendix I.1. The net is a residual one."""
ACCURACIES = {"CGAN": (0.985, 0.002), "IWCGAN": (0.987, 0.002), "test data": (0.990, None)}
"""Table 2, middle, MNIST, likewise."""
TEMPERATURES = (1.0, 1.5, 3.0, 5.0)
"""Appendix I.2: of the sigmoid in the weights, the best by cross-validation."""
RUNS = 5
"""Runs behind each number (section 5.1)."""
