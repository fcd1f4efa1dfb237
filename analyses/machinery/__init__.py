"""What the items share: cells and their records, trained models, figures, and what the records say in few words."""
