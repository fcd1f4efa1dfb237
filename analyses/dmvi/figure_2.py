"""Figure 2: a 4-layer classifier at learning rate 1e-4.

python -m analyses.dmvi.figure_2        # figure_2.svg beside this file, from records/synthetic.jsonl
"""

from __future__ import annotations

from analyses.dmvi.synthetic_figure import main

if __name__ == "__main__":
    main(2, "a 4-layer classifier at learning rate 1e-4")
