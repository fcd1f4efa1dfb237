"""What was found, as people read it: terminal table, JSON, CSV, figures, one self-contained HTML page; pictures of data."""
