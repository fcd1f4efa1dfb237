"""Best-of-Many-Samples Distribution Matching (2020): its tables and figures.

Items: table_1, table_2, table_3, table_4_6, table_5_figure_3, table_7_8, table_9, figures_2_4_5,
table_1_protocol.
Beside them: mode_settings, image_settings (the paper's numbers); image_models, image_scores (what the items about images
share).
"""
