"""Figure 8: as figure 2, with a smaller classifier of 3 layers.

python -m analyses.dmvi.figure_8        # figure_8.svg beside this file, from records/synthetic.jsonl
"""

from __future__ import annotations

from analyses.dmvi.synthetic_figure import main

if __name__ == "__main__":
    main(8, "as figure 2, with a smaller classifier of 3 layers")
