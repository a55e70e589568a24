"""The lowest layer of all three programs: errors, command-line main, files, untrusted text, hashes, seeds, devices.

It imports the standard library alone; torch only inside the functions that choose a device.
"""
