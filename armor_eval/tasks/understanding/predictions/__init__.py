"""Answers that exist already: prediction files of other tools, read, joined to a benchmark's rows, and scored.

armor-eval understanding score --bench MMB --predictions answers.xlsx
"""
