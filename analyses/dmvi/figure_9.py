"""Figure 9: as figure 2, with the classifier at learning rate 1e-3.

python -m analyses.dmvi.figure_9        # figure_9.svg beside this file, from records/synthetic.jsonl
"""

from __future__ import annotations

from analyses.dmvi.synthetic_figure import main

if __name__ == "__main__":
    main(9, "as figure 2, with the classifier at learning rate 1e-3")
