"""Paper against measured: claims, verdicts, tables, plots and one page to read; pure functions of bundles."""
