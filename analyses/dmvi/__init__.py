"""Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference: its figures and tables.

Items: table_1, figure_1, table_1_steps, table_2, table_4, figure_6, figure_7, figure_11, synthetic_page, synthetic_seeds,
synthetic_causes.
Beside them: settings (the paper's numbers); run_synthetic (the runs behind Figures 2, 8, 9 and 10); synthetic_runs (one of
them as a cell); figure_2, figure_8, figure_9, figure_10, synthetic_figure (draw them).
"""
