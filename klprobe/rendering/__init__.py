"""Reports as terminal tables, JSON, CSV, figures and self-contained HTML pages; pictures of data."""
