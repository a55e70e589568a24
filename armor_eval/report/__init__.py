"""Paper against measured: claims, verdicts, tables, plots and one page to read, all of them functions of run bundles."""
