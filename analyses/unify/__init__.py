"""Hu, Yang, Salakhutdinov, Xing (2018), On Unifying Deep Generative Models: lemmas, tables, a figure."""
