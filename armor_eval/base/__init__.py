"""What every part of the harness stands on beside armor_model.base: declared data, downloads, mmcv's stand-in."""
