"""Hu, Yang, Salakhutdinov, Xing (2018), On Unifying Deep Generative Models: lemmas, tables, a figure.

Items: table_3, table_2_4, lemmas.
Beside them: settings (the paper's numbers); run_tables (what both tables train); figure_2 (draws the figure of the lemmas'
example).
"""
