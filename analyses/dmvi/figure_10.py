"""Figure 10: as figure 2, with 5 updates of the classifier for each of the Gaussian.

python -m analyses.dmvi.figure_10        # figure_10.svg beside this file, from records/synthetic.jsonl
"""

from __future__ import annotations

from analyses.dmvi.synthetic_figure import main

if __name__ == "__main__":
    main(10, "as figure 2, with 5 updates of the classifier for each of the Gaussian")
