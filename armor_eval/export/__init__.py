"""Export of run bundles to other people's formats: one record builder (`record`), one function a target.

    armor-eval export RUN... --to eee --org "My lab" --relationship first_party --out shared

Every target is a function of records alone and calls no network. What must be read with a number - reservations, the
protocol label, the profile - is in every target's output.
"""
